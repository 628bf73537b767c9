"""`lorahub ls`."""

import click

from lorahub.cli.output import Result, table
from lorahub.cli.pull import resolved, revision_data, yank_notes
from lorahub.cli.session import Session, command
from lorahub.hub.hub import Hub
from lorahub.hub.showing import size_text, time_text
from lorahub.protocol.references import Reference


@command("ls")
@click.argument("reference")
def ls(session: Session, reference: str) -> Result:
    """List the versions of a repository (acme/sql), or the files of a revision (acme/sql@v3)."""
    with session.hub() as hub:
        is_repository = Reference.parse(reference).revision is None
        return _versions(hub, reference) if is_repository else _files(hub, reference)


def _versions(hub: Hub, reference: str) -> Result:
    versions = hub.versions(reference)
    rows = [
        [
            version.name,
            size_text(version.size),
            time_text(version.created_at)[:16],
            ", ".join(version.aliases),
            f"yanked: {version.yanked.reason}" if version.yanked else version.message.partition("\n")[0][:60],
        ]
        for version in versions
    ]
    empty = f"{reference} has no versions yet"
    return Result(
        data=[
            {
                "name": version.name,
                "commit": version.commit,
                "digest": version.digest,
                "size": version.size,
                "created_at": version.created_at,
                "aliases": list(version.aliases),
                "yanked": None if version.yanked is None else version.yanked.reason,
                "message": version.message,
            }
            for version in versions
        ],
        human=table(["version", "size", "when", "aliases", "what"], rows) if rows else empty,
        ids=[version.name for version in versions],
        rows=[[version.name, version.digest, version.size, ",".join(version.aliases)] for version in versions],
    )


def _files(hub: Hub, reference: str) -> Result:
    revision = hub.revision(reference)
    rows = [[file.path, size_text(file.size), file.sha256[:16] + "…"] for file in revision.files]
    return Result(
        data=revision_data(revision),
        human=f"{resolved(reference, revision)}\n{table(['file', 'size', 'sha256'], rows)}",
        ids=[file.path for file in revision.files],
        rows=[[file.path, file.size, file.sha256] for file in revision.files],
        notes=yank_notes(revision),
    )
