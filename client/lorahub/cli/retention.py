"""`lorahub retention`."""

import click

from lorahub.cli.completing import stored
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.protocol.messages.retention import Retention


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def retention() -> None:
    """Choose how many versions a repository keeps."""


@command("show")
@click.argument("repository", shell_complete=stored)
def show(session: Session, repository: str) -> Result:
    """Show what a repository keeps, and what the next collection drops."""
    with session.hub() as hub:
        return _result(repository, hub.retention(repository))


@command("set")
@click.argument("repository", shell_complete=stored)
@click.option("--keep", type=click.IntRange(1), metavar="N", help="The newest N versions.")
@click.option("--all", "is_all", is_flag=True, help="Keep all versions, as at first.")
def set_(session: Session, repository: str, *, keep: int | None, is_all: bool) -> Result:
    """Keep the newest N versions, and everything that a branch, a tag or an alias leads to.

    What is older is dropped by the registry's garbage collection, for good.
    """
    if (keep is None) == (not is_all):
        raise InvalidUsage("how many?", hint="name --keep N, or --all")
    with session.hub() as hub:
        return _result(repository, hub.set_retention(repository, keep))


def _result(repository: str, found: Retention) -> Result:
    keep, drops = found.keep, list(found.drops)
    kept = "all versions" if keep is None else f"the newest {keep} versions, and what has another name"
    lines = [f"{repository} keeps {kept}"]
    if drops:
        lines.append(f"  the next collection drops {', '.join(drops)}")
    return Result(
        {"repository": repository, "keep": keep, "drops": drops},
        "\n".join(lines),
        ids=drops,
        rows=[[repository, keep, *drops]],
    )


for each in (show, set_):
    retention.add_command(each)
