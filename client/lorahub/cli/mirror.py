"""`lorahub mirror`."""

from dataclasses import asdict

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.hub.messages import Mirror


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def mirror() -> None:
    """Let the registry follow repositories of another hub (docs/jobs.md)."""


@command("add")
@click.argument("namespace")
@click.argument("sources", nargs=-1, required=True, metavar="ORG/NAME[@REV]…")
@click.option("--from", "hub", default="https://huggingface.co", show_default=True, metavar="URL", help="The hub.")
@click.option("--private", is_flag=True, help="Make the repositories private.")
def add(session: Session, namespace: str, sources: tuple[str, ...], hub: str, *, private: bool) -> Result:
    """Follow repositories of another hub, each under its own name in NAMESPACE.

    The registry's workers fetch them: each new commit of REV (main) becomes a version. They publish in your name.
    """
    made = []
    with session.hub() as registry:
        for source in sources:
            repository, _, revision = source.partition("@")
            target = f"{namespace}/{repository.rpartition('/')[2]}"
            made.append(registry.add_mirror(hub, repository, target, revision=revision or "main", private=private))
    return _listed(made, [f"✓ {one.target} follows {_source(one)}" for one in made])


@command("ls")
def list_mirrors(session: Session) -> Result:
    """List what the namespaces that you manage mirror."""
    with session.hub() as registry:
        found = registry.mirrors()
    rows = [[str(one.id), one.target, _source(one), one.version or "-", _state(one)] for one in found]
    lines = table(["id", "here", "follows", "version", ""], rows) if rows else "nothing is mirrored"
    return _listed(found, [lines])


@command("rm")
@click.argument("mirror_id", type=int)
def remove(session: Session, mirror_id: int) -> Result:
    """Follow no more; what was brought stays."""
    with session.hub() as registry:
        registry.remove_mirror(mirror_id)
    return Result({"id": mirror_id}, f"✓ {mirror_id} is gone", ids=[str(mirror_id)], rows=[[mirror_id]])


@command("run")
@click.argument("mirror_id", type=int)
def run(session: Session, mirror_id: int) -> Result:
    """Look for a new commit now, by the next free worker."""
    with session.hub() as registry:
        one = registry.run_mirror(mirror_id)
    return _listed([one], [f"✓ a worker will look at {_source(one)}"])


def _listed(found: list[Mirror], lines: list[str]) -> Result:
    return Result(
        [asdict(one) for one in found],
        "\n".join(lines),
        ids=[str(one.id) for one in found],
        rows=[[one.id, one.target, _source(one), one.commit, one.version, one.error] for one in found],
    )


def _source(one: Mirror) -> str:
    return f"{one.endpoint}/{one.repository}@{one.revision}"


def _state(one: Mirror) -> str:
    if one.error:
        return one.error
    return "waiting" if one.waiting else f"checked {one.checked_at}"


for each in (add, list_mirrors, remove, run):
    mirror.add_command(each)
