"""`lorahub cache`."""

import click

from lorahub.cli.output import Result, size_text, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub import cache as stored
from lorahub.hub.cache import Snapshot


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cache() -> None:
    """List and clear pulled files."""


@command("ls")
def list_cache(session: Session) -> Result:
    """List what was pulled into the cache."""
    found = stored.snapshots(session.settings.cache_folder)
    rows = [[one.host, one.repository, one.commit[:12], size_text(one.size)] for one in found]
    return Result(
        data=[_data(one) for one in found],
        human=table(["host", "repository", "commit", "size"], rows) if rows else "the cache is empty",
        ids=[str(one.path) for one in found],
        rows=[[one.host, one.repository, one.commit, one.size, one.path] for one in found],
    )


@command("prune")
def prune(session: Session) -> Result:
    """Remove bytes that no pulled revision uses, and what broken pulls left."""
    count, size = stored.prune(session.settings.cache_folder)
    return Result(
        {"files": count, "bytes": size}, f"✓ removed {count} files, {size_text(size)}", ids=[], rows=[[count, size]]
    )


@command("rm")
@click.argument("repository", required=False)
@click.option("--all", "everything", is_flag=True, help="The whole cache.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def remove(session: Session, repository: str | None, *, everything: bool, yes: bool) -> Result:
    """Remove the pulled revisions of REPOSITORY."""
    if (repository is None) == (not everything):
        raise InvalidUsage("say which repository, or --all", hint="lorahub cache ls lists them")
    folder = session.settings.cache_folder
    found = [one for one in stored.snapshots(folder) if everything or one.repository == str(repository).lower()]
    if found:
        session.confirm(f"Remove {len(found)} pulled revisions?", yes=yes)
    for one in found:
        stored.remove(one)
    _, freed = stored.prune(folder)
    shown = f"✓ removed {len(found)} revisions, {size_text(freed)}"
    data = {"removed": [_data(one) for one in found], "bytes": freed}
    return Result(data, shown, ids=[str(one.path) for one in found], rows=[[str(one.path), one.size] for one in found])


def _data(one: Snapshot) -> dict[str, object]:
    return {
        "host": one.host,
        "repository": one.repository,
        "commit": one.commit,
        "path": str(one.path),
        "size": one.size,
    }


for each in (list_cache, prune, remove):
    cache.add_command(each)
