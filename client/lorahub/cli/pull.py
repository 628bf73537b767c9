"""`lorahub pull`."""

from pathlib import Path

import click

from lorahub.adapters.runtimes import RUNTIMES
from lorahub.cli.output import Result, size_text
from lorahub.cli.session import Session, command
from lorahub.hub.messages import Revision


@command("pull")
@click.argument("reference")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--include", multiple=True, metavar="PATTERN", help="Only files like this; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not files like this; repeatable.")
@click.option("--for", "runtime", type=click.Choice(RUNTIMES), help="Convert into what this runtime loads, if need be.")
def pull(
    session: Session,
    reference: str,
    folder: Path | None,
    *,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    runtime: str | None,
) -> Result:
    """Fetch REFERENCE into FOLDER, or into the cache, and print the path.

    A pull that broke off goes on where it stopped. No file gets its name before its sha256 is the promised one.
    """
    if runtime is not None:
        return _pull_for(session, reference, folder, runtime)
    with session.hub() as hub:
        pulled = hub.pull(reference, folder, include=include, exclude=exclude)
    revision = pulled.revision
    return Result(
        data={**revision_data(revision), "path": str(pulled.path)},
        human=f"✓ {resolved(reference, revision)}   {size_text(revision.size)}\n{pulled.path}",
        ids=[str(pulled.path)],
        rows=[[revision.id, revision.version, f"sha256:{revision.digest}", pulled.path]],
        notes=yank_notes(revision),
    )


def _pull_for(session: Session, reference: str, folder: Path | None, runtime: str) -> Result:
    """The adapter comes into the cache, what the runtime loads is written into FOLDER."""
    from lorahub.cli.convert import converted_result
    from lorahub.hub.converting import FOR_RUNTIME, convert_to

    with session.hub() as hub:
        pulled = hub.pull(reference)
        target = folder or Path(f"{pulled.revision.id.replace('/', '-')}-{runtime}")
        made = convert_to(session.settings, lambda: hub.transport, pulled.path, target, FOR_RUNTIME[runtime], None)
    return converted_result(made)


def resolved(reference: str, revision: Revision) -> str:
    """What was asked, and what it turned out to be."""
    return f"{reference} → {revision.version or revision.commit[:12]} (sha256:{revision.digest[:12]}…)"


def yank_notes(revision: Revision) -> list[str]:
    if revision.yanked is None:
        return []
    return [f"! {revision.id}@{revision.version} was yanked by {revision.yanked.by}: {revision.yanked.reason}"]


def revision_data(revision: Revision) -> dict[str, object]:
    return {
        "id": revision.id,
        "version": revision.version,
        "commit": revision.commit,
        "digest": f"sha256:{revision.digest}",
        "aliases": list(revision.aliases),
        "yanked": None if revision.yanked is None else {"reason": revision.yanked.reason, "by": revision.yanked.by},
        "created_at": revision.created_at,
        "author": revision.author,
        "message": revision.message,
        "origin": revision.origin,
        "size": revision.size,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in revision.files],
    }
