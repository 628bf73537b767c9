"""`lorahub watch`."""

from dataclasses import asdict

import click

from lorahub.cli.completing import stored
from lorahub.cli.output import Result
from lorahub.cli.session import Session, command
from lorahub.hub.showing import time_text
from lorahub.protocol.messages.events import Event


@command("watch")
@click.argument("name", required=False, shell_complete=stored)
@click.option("--kind", "kinds", multiple=True, help="Only of this kind: alias.moved, or version.* for all.")
@click.option("--after", type=int, metavar="NUMBER", help="Begin behind this event; 0: with the oldest.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
def watch(
    session: Session, name: str | None, *, kinds: tuple[str, ...], after: int | None, count: int | None
) -> Result:
    """Say what happens, as it happens, in the whole registry or to NAME, a repository or a base.

    Ends with Ctrl-C. With --json each event is a document on a line of its own; the numbers are for --after.
    """
    with session.hub() as hub:
        found = hub.events.watch(after, kinds=kinds, name=name, note=session.output.note)
        for number, event in enumerate(found, 1):
            if number == count:
                return _shown(event)
            session.output.success(_shown(event))
    raise AssertionError


def _shown(event: Event) -> Result:
    data = ", ".join(f"{key} {value}" for key, value in event.data.items() if value is not None)
    line = f"{event.number}  {time_text(event.at)}  {event.kind}  {event.name}  by {event.by}{data and f'  {data}'}"
    row = [event.number, event.at, event.kind, event.name, event.by, data]
    return Result(asdict(event), [line], ids=[str(event.number)], rows=[row])
