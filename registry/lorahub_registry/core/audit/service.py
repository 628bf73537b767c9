"""Records changes. Called inside the transaction of the change, so that neither exists without the other."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Protocol

from lorahub_registry.core.audit import queries
from lorahub_registry.core.audit.queries import Event
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session
from lorahub_registry.infrastructure.web.request_id import current_address, current_request_id

__all__ = ["Event", "all_events", "events_between", "newest_events", "record", "record_act"]

_PAGE = 1000
_MOST_ADDRESS = 64


def record(
    session: Session, *, actor: str, action: str, subject: str, token_id: int | None = None, **details: Any
) -> None:
    """`action` is `thing.verb`; `details` is JSON-ready and never holds a secret."""
    queries.insert_event(
        session,
        {
            "actor": actor,
            "token_id": token_id,
            "action": action,
            "subject": subject,
            "details": details,
            "request_id": current_request_id.get(),
            "address": _address(),
        },
    )


def _address() -> str | None:
    """What a proxy says of its client is text like any other."""
    address = current_address.get()
    return None if address is None else address[:_MOST_ADDRESS]


class Actor(Protocol):
    """A principal."""

    @property
    def name(self) -> str: ...
    @property
    def token_id(self) -> int | None: ...


def record_act(session: Session, actor: Actor, action: str, subject: str, **details: Any) -> None:
    """What `record` does, for whoever asked."""
    record(session, actor=actor.name, token_id=actor.token_id, action=action, subject=subject, **details)


def events_between(session: Session, *, after: int, last: int, limit: int) -> list[Event]:
    """In order of their ids, from behind the event `after` to the event `last`."""
    return queries.events_between(session, after=after, last=last, limit=limit)


def newest_events(backend: Backend, *, limit: int, before: int | None) -> list[Event]:
    with backend.database.read() as session:
        return queries.newest_events(session, limit=limit, before=before)


def all_events(backend: Backend, *, since: datetime | None = None, until: datetime | None = None) -> Iterator[Event]:
    """In the order in which they happened, for whoever has the machine. `until` itself is not part of it."""
    after: int | None = 0
    while after is not None:
        with backend.database.read() as session:
            found = queries.events_between(session, after=after, since=since, until=until, limit=_PAGE)
        yield from found
        after = found[-1].id if found else None
