"""`lorahub org`: organisations, which are namespaces of several people."""

from dataclasses import asdict

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command

ROLES = ("read", "write", "admin")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def org() -> None:
    """Make organisations, and say who belongs to them."""


@command("create")
@click.argument("name")
@click.option("--fullname", default="", help="As people write it: --fullname 'Acme Research'.")
def create(session: Session, name: str, *, fullname: str) -> Result:
    """Make an organisation; you become its admin."""
    with session.hub() as hub:
        made = hub.organisations.create(name, fullname)
    line = f"✓ {made.name} is yours; push to it: lorahub push ./out {made.name}/sql"
    return Result(asdict(made), line, ids=[made.name], rows=[[made.name, made.fullname]])


@command("ls")
def list_organisations(session: Session) -> Result:
    """List the organisations that you belong to, and your role in each."""
    with session.hub() as hub:
        found = hub.organisations.all()
    return Result(
        [{"name": name, "role": role} for name, role in found.items()],
        table(["organisation", "role"], list(found.items())) if found else "you belong to no organisation",
        ids=list(found),
        rows=list(found.items()),
    )


@command("members")
@click.argument("organisation")
def members(session: Session, organisation: str) -> Result:
    """List who belongs to an organisation, and their roles."""
    with session.hub() as hub:
        found = hub.organisations.members(organisation)
    rows = [[one.user, one.role, one.fullname] for one in found]
    return Result(
        [{"user": one.user, "role": one.role, "fullname": one.fullname} for one in found],
        table(["user", "role", "name"], rows),
        ids=[one.user for one in found],
        rows=rows,
    )


@command("add")
@click.argument("organisation")
@click.argument("user")
@click.option("--role", type=click.Choice(ROLES), default="write", show_default=True, help="What they may do.")
def add(session: Session, organisation: str, user: str, *, role: str) -> Result:
    """Let USER belong to an organisation, or change their role in it."""
    with session.hub() as hub:
        made = hub.organisations.set_member(organisation, user, role)
    data = {"organisation": organisation, **asdict(made)}
    return Result(data, f"✓ {made.user}: {made.role} in {organisation}", ids=[made.user], rows=[list(data.values())])


@command("remove")
@click.argument("organisation")
@click.argument("user")
def remove(session: Session, organisation: str, user: str) -> Result:
    """Let USER belong to an organisation no more; the last admin stays."""
    with session.hub() as hub:
        hub.organisations.remove_member(organisation, user)
    data = {"organisation": organisation, "user": user}
    return Result(data, f"✓ {user} is no member of {organisation}", ids=[user], rows=[list(data.values())])


for each in (create, list_organisations, members, add, remove):
    org.add_command(each)
