"""`lorahub yank`."""

from dataclasses import asdict

import click

from lorahub.cli.completing import stored
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage


@command("yank")
@click.argument("reference", shell_complete=stored)
@click.option("--reason", help="What is wrong with it; shown to everybody who names it.")
@click.option("--undo", is_flag=True, help="Take the yank back.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def yank(session: Session, reference: str, reason: str | None, *, undo: bool, yes: bool) -> Result:
    """Withdraw a version: lorahub yank acme/sql@v3 --reason "overfit".

    It is still served to who names it exactly, with the reason; no alias leads to it, and latest goes back to the
    newest good version.
    """
    if not undo and not reason:
        raise InvalidUsage("a yank needs a reason", hint="lorahub yank REF --reason 'what is wrong'")
    if not undo:
        session.confirm(f"Yank {reference}?", yes=yes)
    with session.hub() as hub:
        version = hub.unyank(reference) if undo else hub.yank(reference, reason or "")
    verb = "back" if undo else "yanked"
    return Result(asdict(version), f"✓ {reference} is {verb}", ids=[version.name], rows=[[version.name, verb]])
