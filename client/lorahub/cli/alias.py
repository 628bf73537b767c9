"""`lorahub alias`."""

from dataclasses import asdict

import click

from lorahub.cli.completing import stored
from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.protocol.messages.revisions import Alias


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def alias() -> None:
    """Make, move, remove and list names for versions."""


@command("set")
@click.argument("reference", shell_complete=stored)
@click.argument("name")
@click.option("--protect/--unprotect", default=None, help="Let only owners move it, or anybody who may push.")
def set_alias(session: Session, reference: str, name: str, *, protect: bool | None) -> Result:
    """Let NAME lead to REFERENCE: lorahub alias set acme/sql@v3 champion."""
    with session.hub() as hub:
        made = hub.set_alias(reference, name, protected=protect)
    target = made.version or made.commit[:12]
    lock = ", protected" if made.protected else ""
    return Result(asdict(made), f"✓ {name} → {target}{lock}", ids=[target], rows=[_row(made)])


@command("rm")
@click.argument("repository", shell_complete=stored)
@click.argument("name")
def remove(session: Session, repository: str, name: str) -> Result:
    """Remove an alias; the version it led to stays."""
    with session.hub() as hub:
        hub.remove_alias(repository, name)
    return Result({"name": name}, f"✓ {name} is gone", ids=[name], rows=[[name]])


@command("ls")
@click.argument("repository", shell_complete=stored)
def list_aliases(session: Session, repository: str) -> Result:
    """List the aliases of a repository."""
    with session.hub() as hub:
        found = hub.aliases(repository)
    rows = [[one.name, one.version or one.commit[:12], "protected" if one.protected else ""] for one in found]
    return Result(
        [asdict(one) for one in found],
        table(["alias", "leads to", ""], rows) if rows else f"{repository} has no aliases",
        ids=[one.name for one in found],
        rows=[_row(one) for one in found],
    )


def _row(one: Alias) -> list[object]:
    return [one.name, one.version, one.commit, one.protected]


for each in (set_alias, remove, list_aliases):
    alias.add_command(each)
