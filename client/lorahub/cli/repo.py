"""`lorahub repo`: repositories as a whole, whatever their versions."""

import click

from lorahub.cli.output import Result, table
from lorahub.cli.rm import rm
from lorahub.cli.session import Session, command
from lorahub.hub.showing import size_text, time_text
from lorahub.protocol.messages.message import as_json


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def repo() -> None:
    """Make, list, rename, hide and delete repositories."""


@command("create")
@click.argument("repository")
@click.option("--private", is_flag=True, help="Only members of its namespace see it.")
def create(session: Session, repository: str, *, private: bool) -> Result:
    """Make an empty repository; `lorahub push` makes the one that it needs by itself."""
    with session.hub() as hub:
        hub.create(repository, private=private)
    data = {"repository": repository, "visibility": "private" if private else "public"}
    return Result(data, f"✓ {repository} is there, {data['visibility']}", ids=[repository], rows=[list(data.values())])


@command("ls")
@click.argument("namespace", required=False)
def list_repositories(session: Session, namespace: str | None) -> Result:
    """List the repositories of NAMESPACE, or your own: those that you may see, and what each takes."""
    with session.hub() as hub:
        found = hub.repositories(namespace)
    shown = [[one.id, one.visibility, size_text(one.storage), time_text(one.updated_at)[:10]] for one in found]
    return Result(
        [as_json(one) for one in found],
        table(["repository", "visibility", "size", "updated"], shown) if shown else "there are no repositories yet",
        ids=[one.id for one in found],
        rows=[[one.id, one.visibility, one.storage, one.updated_at] for one in found],
    )


@command("rename")
@click.argument("repository")
@click.argument("name")
def rename(session: Session, repository: str, name: str) -> Result:
    """Call REPOSITORY NAME from now on, in the same namespace or another of yours; the old name leads to it."""
    with session.hub() as hub:
        hub.rename(repository, name)
    data = {"repository": name, "before": repository}
    return Result(data, f"✓ {repository} → {name}", ids=[name], rows=[list(data.values())])


@command("visibility")
@click.argument("repository")
@click.argument("visibility", type=click.Choice(["public", "private"]))
def visibility(session: Session, repository: str, visibility: str) -> Result:
    """Let everybody see a repository, or only the members of its namespace."""
    with session.hub() as hub:
        hub.set_visibility(repository, "private" if visibility == "private" else "public")
    data = {"repository": repository, "visibility": visibility}
    return Result(data, f"✓ {repository} is {visibility}", ids=[repository], rows=[list(data.values())])


for each in (create, list_repositories, rename, visibility):
    repo.add_command(each)
repo.add_command(rm, "delete")
