"""`lorahub policy`."""

import click

from lorahub.cli.completing import stored
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command


@command("policy")
@click.argument("repository", shell_complete=stored)
@click.argument("policy", type=click.Choice(["refuse", "warn"]))
def policy(session: Session, repository: str, policy: str) -> Result:
    """Choose what happens to an adapter that doesn't fit its base: refuse it (as at first), or store it and warn.

    A malformed adapter is refused whatever the policy.
    """
    with session.hub() as hub:
        hub.set_policy(repository, policy)
    return Result({"repository": repository, "policy": policy}, f"✓ {repository}: {policy}", ids=[policy])
