"""`lorahub mirror`."""

from dataclasses import asdict

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.errors import InvalidUsage
from lorahub.hub.credentials import read_token_file
from lorahub.hub.showing import time_text
from lorahub.protocol.messages.mirrors import Mirror
from lorahub.protocol.references import Reference

_HUB_TOKEN = click.option(
    "--hub-token-file", metavar="FILE", help="Tell the hub the token in FILE, or from standard input with -."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def mirror() -> None:
    """Let the registry follow repositories of another hub (docs/jobs.md)."""


@command("add")
@click.argument("namespace")
@click.argument("sources", nargs=-1, required=True, metavar="[hf:]ORG/NAME[@REV][=HERE]…")
@click.option("--from", "hub", metavar="URL", help="The hub (default: the one that hf: means).")
@click.option("--private", is_flag=True, help="Make the repositories private.")
@_HUB_TOKEN
def add(
    session: Session,
    namespace: str,
    sources: tuple[str, ...],
    hub: str | None,
    hub_token_file: str | None,
    *,
    private: bool,
) -> Result:
    """Follow repositories of another hub, each in NAMESPACE under its own name, or as HERE.

    The registry's workers fetch them: each new commit of REV (main) becomes a version. They publish in your name.
    """
    hub_token = None if hub_token_file is None else read_token_file(hub_token_file)
    endpoint = hub or _chosen_hub(session, is_told_a_token=hub_token is not None)
    made = []
    with session.hub() as registry:
        for source in sources:
            there, _, here = source.partition("=")
            followed = Reference.parse(f"hf:{there.removeprefix('hf:')}")
            target = f"{namespace}/{here or followed.repository.name}"
            one = registry.mirrors.add(
                endpoint,
                str(followed.repository),
                target,
                revision=followed.revision or "main",
                private=private,
                hub_token=hub_token,
            )
            made.append(one)
    notes = dict.fromkeys(f"  {one.note}" for one in made if one.note)
    return _listed(made, [*(f"✓ {one.target} follows {_source(one)}" for one in made), *notes])


def _chosen_hub(session: Session, *, is_told_a_token: bool) -> str:
    """A project's file may choose the Hub, but not who is told a token."""
    value = session.settings.values["hf_endpoint"]
    if value.is_from_project and is_told_a_token:
        raise InvalidUsage(
            f"{value.origin} names the hub {value.text}; a token is told to a hub that you name", hint="add --from URL"
        )
    return session.settings.text("hf_endpoint")


@command("ls")
def list_mirrors(session: Session) -> Result:
    """List what the namespaces that you manage mirror."""
    with session.hub() as registry:
        found = registry.mirrors.all()
    rows = [[str(one.id), one.target, _source(one), one.version or "-", _state(one)] for one in found]
    lines = table(["id", "here", "follows", "version", ""], rows) if rows else "nothing is mirrored"
    return _listed(found, [lines])


@command("show")
@click.argument("mirror_id", type=int)
def show(session: Session, mirror_id: int) -> Result:
    """Say what a mirror follows, what came of its last run, and when the next is."""
    with session.hub() as registry:
        one = registry.mirrors.find(mirror_id)
    lines = [
        f"{one.target} follows {_source(one)}{', with a token' if one.has_token else ''}",
        f"  here is {one.version}: {one.commit}" if one.commit else "  nothing is here yet",
        f"  {_state(one)}",
    ]
    return _listed([one], lines)


@command("pause")
@click.argument("mirror_id", type=int)
def pause(session: Session, mirror_id: int) -> Result:
    """Look no more by itself, until it is resumed."""
    with session.hub() as registry:
        one = registry.mirrors.pause(mirror_id)
    return _listed([one], [f"✓ {one.target} is paused; lorahub mirror resume {one.id} lets it go on"])


@command("resume")
@click.argument("mirror_id", type=int)
def resume(session: Session, mirror_id: int) -> Result:
    """Look in every interval again, whether it was paused or has failed."""
    with session.hub() as registry:
        one = registry.mirrors.resume(mirror_id)
    return _listed([one], [f"✓ {one.target} follows {_source(one)} again"])


@command("token")
@click.argument("mirror_id", type=int)
@_HUB_TOKEN
def token(session: Session, mirror_id: int, hub_token_file: str | None) -> Result:
    """Tell the hub another token from now on; none without --hub-token-file."""
    hub_token = None if hub_token_file is None else read_token_file(hub_token_file)
    with session.hub() as registry:
        one = registry.mirrors.set_token(mirror_id, hub_token)
    return _listed([one], [f"✓ the hub is told {'this' if one.has_token else 'no'} token"])


@command("rm")
@click.argument("mirror_id", type=int)
def remove(session: Session, mirror_id: int) -> Result:
    """Follow no more; what was brought stays."""
    with session.hub() as registry:
        registry.mirrors.remove(mirror_id)
    return Result({"id": mirror_id}, f"✓ {mirror_id} is gone", ids=[str(mirror_id)], rows=[[mirror_id]])


@command("run")
@click.argument("mirror_id", type=int)
def run(session: Session, mirror_id: int) -> Result:
    """Look for a new commit now, by the next free worker."""
    with session.hub() as registry:
        one = registry.mirrors.run(mirror_id)
    return _listed([one], [f"✓ a worker will look at {_source(one)}", *([f"  {one.note}"] if one.note else [])])


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
    said = [one.error or (f"checked {time_text(one.checked_at)}" if one.checked_at else "")]
    if one.failures > 1:
        said.append(f"{one.failures} times in a row")
    if one.paused:
        said.append("paused")
    elif one.next_try_at:
        said.append(f"again at {time_text(one.next_try_at)}")
    if one.waiting:
        said.append(f"waiting: {one.note}" if one.note else "waiting")
    return ", ".join(filter(None, said))


for each in (add, list_mirrors, show, remove, run, pause, resume, token):
    mirror.add_command(each)
