"""`lorahub webhook`."""

import itertools
import time
from dataclasses import asdict

import click

from lorahub.cli.output import Result, table
from lorahub.cli.session import Session, command
from lorahub.hub.hub import Hub
from lorahub.hub.showing import time_text
from lorahub.protocol.messages.webhooks import Delivery, Webhook

_LISTED = 100
_PATIENCE_SECONDS = 10.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def webhook() -> None:
    """Let the registry tell addresses what happens."""


@command("add")
@click.argument("url")
@click.argument("watched", nargs=-1, required=True)
@click.option("--kind", "kinds", multiple=True, help="Only of this kind: alias.moved, or version.* for all.")
def add(session: Session, url: str, watched: tuple[str, ...], *, kinds: tuple[str, ...]) -> Result:
    """Tell URL what happens to WATCHED: acme/sql, acme for a namespace, base:acme/llama, registry.

    Each message is signed (Standard Webhooks) with the secret that is shown this once.
    """
    with session.hub() as hub:
        made = hub.webhooks.add(url, watched, kinds=kinds)
    notes = [f"  {made.note}"] if made.note else []
    return _listed([made], [f"✓ {made.id} tells {url}", f"  secret: {made.secret}", *notes])


@command("ls")
def list_webhooks(session: Session) -> Result:
    """List your webhooks; an administrator of the registry sees all."""
    with session.hub() as hub:
        found = hub.webhooks.all()
    rows = [[one.id, one.url, _watched(one), _state(one)] for one in found]
    return _listed(found, table(["id", "tells", "of", ""], rows).split("\n") if rows else ["there are no webhooks"])


@command("show")
@click.argument("webhook_id")
def show(session: Session, webhook_id: str) -> Result:
    """Say what a webhook watches, and how it stands."""
    with session.hub() as hub:
        one = hub.webhooks.find(webhook_id)
    kinds = ", ".join(one.kinds) or "all kinds"
    return _listed(
        [one], [f"{one.id} of {one.by} tells {one.url}", f"  of {_watched(one)}: {kinds}", f"  {_state(one)}"]
    )


@command("log")
@click.argument("webhook_id")
def log(session: Session, webhook_id: str) -> Result:
    """List what a webhook was told, the newest first."""
    with session.hub() as hub:
        found = list(itertools.islice(hub.webhooks.deliveries(webhook_id), _LISTED))
    rows = [[str(one.id), one.kind, one.name, one.status, _answer(one)] for one in found]
    return Result(
        [asdict(one) for one in found],
        table(["id", "kind", "of", "", "answer"], rows).split("\n") if rows else ["nothing was told yet"],
        ids=[str(one.id) for one in found],
        rows=[[one.id, one.event, one.kind, one.name, one.status, one.attempts, one.answer] for one in found],
    )


@command("test")
@click.argument("webhook_id")
def test(session: Session, webhook_id: str) -> Result:
    """Send a message that says nothing, and wait a moment for what comes back."""
    with session.hub() as hub:
        before = next((one.id for one in hub.webhooks.deliveries(webhook_id)), 0)
        asked = hub.webhooks.test(webhook_id)
        sent = _awaited(hub, webhook_id, before)
    if sent is None:
        return _listed([asked], [f"a worker will send it{f': {asked.note}' if asked.note else ''}"])
    is_taken = sent.status == "delivered"
    said = f"{'✓' if is_taken else '✗'} {asked.url}: {_answer(sent)}"
    return Result(asdict(sent), [said], ids=[str(sent.id)], rows=[[sent.id, sent.status]], exit_code=not is_taken)


def _awaited(hub: Hub, webhook_id: str, before: int) -> Delivery | None:
    """The message of a test that was tried once; None where none was in time."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        newer = itertools.takewhile(lambda one: one.id > before, hub.webhooks.deliveries(webhook_id))
        found = next((one for one in newer if one.event is None and one.attempts), None)
        if found is not None:
            return found
        time.sleep(0.3)
    return None


@command("replay")
@click.argument("webhook_id")
@click.argument("message", type=int)
def replay(session: Session, webhook_id: str, message: int) -> Result:
    """Send a message of its log again."""
    with session.hub() as hub:
        one = hub.webhooks.replay(webhook_id, message)
    return _listed([one], [f"✓ {one.url} is told {message} again"])


@command("secret")
@click.argument("webhook_id")
def secret(session: Session, webhook_id: str) -> Result:
    """Replace the secret; for a day messages are signed with the former one, too."""
    with session.hub() as hub:
        one = hub.webhooks.replace_secret(webhook_id)
    return _listed([one], [f"✓ secret: {one.secret}"])


@command("pause")
@click.argument("webhook_id")
def pause(session: Session, webhook_id: str) -> Result:
    """Tell nothing of what happens from now on."""
    with session.hub() as hub:
        one = hub.webhooks.pause(webhook_id)
    return _listed([one], [f"✓ {one.url} is told nothing; lorahub webhook resume {one.id} goes on"])


@command("resume")
@click.argument("webhook_id")
def resume(session: Session, webhook_id: str) -> Result:
    """Go on, with what was waiting first."""
    with session.hub() as hub:
        one = hub.webhooks.resume(webhook_id)
    return _listed([one], [f"✓ {one.url} is told again"])


@command("rm")
@click.argument("webhook_id")
def remove(session: Session, webhook_id: str) -> Result:
    """Remove a webhook and its log."""
    with session.hub() as hub:
        hub.webhooks.remove(webhook_id)
    return Result({"id": webhook_id}, f"✓ {webhook_id} is gone", ids=[webhook_id], rows=[[webhook_id]])


def _listed(found: list[Webhook], lines: list[str]) -> Result:
    return Result(
        [asdict(one) for one in found],
        lines,
        ids=[one.id for one in found],
        rows=[[one.id, one.url, _watched(one), one.paused, one.waiting] for one in found],
    )


def _watched(one: Webhook) -> str:
    return ", ".join(map(str, one.watched))


def _state(one: Webhook) -> str:
    said = [f"last taken {time_text(one.delivered_at)}" if one.delivered_at else "nothing taken yet"]
    if one.waiting:
        said.append(f"{one.waiting} waiting")
    if one.paused:
        said.append(f"paused: {one.reason}" if one.reason else "paused")
    return ", ".join(said)


def _answer(one: Delivery) -> str:
    if one.answer is not None:
        return f"{one.answer} after {one.milliseconds} ms, {one.attempts} tries"
    return one.said or "not tried yet"


for each in (add, list_webhooks, show, log, test, replay, secret, pause, resume, remove):
    webhook.add_command(each)
