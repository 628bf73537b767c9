"""`lorahub rm`."""

import click

from lorahub.cli.completing import stored
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.protocol.references import Reference


@command("rm")
@click.argument("repository", shell_complete=stored)
@click.option("--yes", is_flag=True, help="Don't ask.")
def rm(session: Session, repository: str, *, yes: bool) -> Result:
    """Delete a whole repository. Its name is never given out again; a single version is yanked instead."""
    if Reference.parse(repository).revision is not None:
        raise InvalidUsage(f"{repository} is one version; those stay", hint=f"lorahub yank {repository} --reason …")
    session.confirm(f"Delete {repository} with all its versions, for ever?", yes=yes)
    with session.hub() as hub:
        hub.delete(repository)
    return Result({"repository": repository}, f"✓ {repository} is deleted", ids=[repository], rows=[[repository]])
