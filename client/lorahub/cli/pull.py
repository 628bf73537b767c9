"""`lorahub pull`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorahub.adapters.runtimes import parse_runtime
from lorahub.cli.completing import stored
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.hub.revisions import Revision
from lorahub.hub.showing import size_text

if TYPE_CHECKING:
    from lorahub.hub.hub import Pulled


@command("pull")
@click.argument("reference", shell_complete=stored)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--include", multiple=True, metavar="PATTERN", help="Only files like this; repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not files like this; repeatable.")
@click.option(
    "--for", "runtime", metavar="RUNTIME", help="Convert into what it loads, if need be: vllm, vllm@0.32, llama.cpp, …"
)
@click.option(
    "--lossy",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="With --for: a plain LoRA will do, if it loses no more of ‖ΔW‖ than this.",
)
@click.option("--base", metavar="BASE", help="With --for: the base (default: the one that the adapter names).")
def pull(
    session: Session,
    reference: str,
    folder: Path | None,
    *,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    runtime: str | None,
    lossy: float | None,
    base: str | None,
) -> Result:
    """Fetch REFERENCE into FOLDER, or into the cache, and print the path.

    REFERENCE is a revision of a registry, or hf:org/name[@revision] of the Hub. A pull that broke off goes on where it
    stopped. No file gets its name before its sha256 is the promised one.
    """
    if runtime is not None:
        return _pull_for(session, reference, folder, runtime, lossy=lossy, base=base)
    if lossy is not None or base is not None:
        raise click.UsageError("--lossy and --base belong to --for")
    with session.hub() as hub:
        pulled = hub.pull(reference, folder, include=include, exclude=exclude)
    if pulled.contents.revision is None:
        return _without_a_version(reference, pulled)
    revision = pulled.contents.revision
    return Result(
        data={**revision_data(revision), "path": str(pulled.path)},
        human=f"✓ {resolved(reference, revision)}   {size_text(revision.size)}\n{pulled.path}",
        ids=[str(pulled.path)],
        rows=[[revision.id, revision.version, f"sha256:{revision.digest}", pulled.path]],
        notes=yank_notes(revision),
    )


def _without_a_version(reference: str, pulled: "Pulled") -> Result:
    """What is said of an adapter that is known by its commit alone: the Hub's, or one that the registry merged."""
    contents = pulled.contents
    size = sum(file.size for file in contents.files)
    return Result(
        data={
            "id": contents.repository,
            "version": None,
            "commit": contents.commit,
            "digest": None,
            "size": size,
            "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in contents.files],
            "left": [{"path": one.path, "why": one.why} for one in pulled.left],
            "path": str(pulled.path),
        },
        human=f"✓ {reference} → {contents.commit[:12]}   {size_text(size)}\n{pulled.path}",
        ids=[str(pulled.path)],
        rows=[[contents.repository, None, contents.commit, pulled.path]],
        notes=[f"! left there: {one.path}: {one.why}" for one in pulled.left],
    )


def _pull_for(
    session: Session, reference: str, folder: Path | None, runtime: str, *, lossy: float | None, base: str | None
) -> Result:
    """The adapter comes into the cache, what the runtime loads is written into FOLDER."""
    from lorahub.cli.convert import converted_result
    from lorahub.hub.converting import convert_for

    asked = parse_runtime(runtime)
    with session.hub() as hub:
        pulled = hub.pull(reference)
        target = folder or Path(f"{pulled.contents.repository.replace('/', '-')}-{asked.runtime.name}")
        made = convert_for(hub.sources, pulled.path, target, asked, base, lossy=lossy, progress=session.progress())
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
