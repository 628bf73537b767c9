"""`hub.events`: what happens in a registry, in order, as far as we may see it."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lorahub.errors import TooManyRequests, Unavailable
from lorahub.hub.api import OWN, Api
from lorahub.protocol.messages.events import Event, EventPage
from lorahub.protocol.messages.message import parse

_WAIT_SECONDS = 25
"""Within what a client waits for an answer at least."""
_LONGEST_PAUSE_SECONDS = 30.0


class Events:
    def __init__(self, api: Api) -> None:
        self._api = api

    def read(
        self,
        after: int | None = None,
        *,
        kinds: Sequence[str] = (),
        name: str | None = None,
        wait: float = 0,
        limit: int = 100,
    ) -> EventPage:
        """What happened after the event of that number; without one nothing, and `next`, from which to go on.

        `kinds` are those of the table in docs/events.md, `alias.*` all of aliases; `name` is a repository's or a
        base's; `wait` is how many seconds to wait, 60 at most, until there is something.
        Raises `EventsForgotten` where there was more than is still kept, `InvalidInput` for a number that is none yet.

        >>> here = hub.events.read().next
        >>> made = hub.set_alias("acme/sql@v1", "canary")
        >>> [(event.kind, event.name) for event in hub.events.read(here).events]
        [('alias.moved', 'acme/sql')]
        """
        asked: dict[str, Any] = {
            "after": after,
            "wait": wait or None,
            "limit": limit,
            "kinds": ",".join(kinds) or None,
            "repository": name,
        }
        query = {key: value for key, value in asked.items() if value is not None}
        return parse(EventPage, self._api.transport.json("GET", f"{OWN}/events", query=query), "events")

    def watch(
        self,
        after: int | None = None,
        *,
        kinds: Sequence[str] = (),
        name: str | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Event]:
        """Each as it happens, without an end; from now on where no number is given. A registry that is away is waited
        for, and `note` told why; nothing is missed meanwhile. Raises as `read`.
        """
        pause = 1.0
        while True:
            try:
                page = self.read(after, kinds=kinds, name=name, wait=_WAIT_SECONDS)
            except (Unavailable, TooManyRequests) as error:
                note(f"{error.message}; asking again in {pause:g} s")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            pause, after = 1.0, page.next
            yield from page.events
