"""The one writer of what happened, and the feed as somebody may see it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lorahub.errors import EventsForgotten, InvalidInput
from lorahub.protocol.messages.events import KINDS, Event, EventPage

from lorahub_registry.core.events import queries
from lorahub_registry.core.events.queries import EventFilter, FeedState, Happening, Sight
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

__all__ = ["Event", "EventFilter", "EventPage", "FeedState", "Happening", "Sight"]

_MOVED = {"alias": "alias.moved", "branch": "branch.moved", "tag": "tag.moved"}


def happened(
    session: Session,
    kind: str,
    repository_id: int,
    data: Mapping[str, Any],
    *,
    by: str,
    concerns: int | None = None,
    for_managers: bool = False,
) -> None:
    """Inside the transaction of the change, after it: what waited for the change comes later in the feed too.

    `data` is JSON-ready and holds names and ids, never contents. `concerns` is an account that may know of what is
    otherwise for those who manage the repository.
    """
    assert kind in KINDS, kind
    queries.insert_of_repository(
        session,
        kind,
        repository_id,
        actor=by,
        audience="managers" if for_managers else "readers",
        account_id=concerns,
        data=data,
    )


def happened_to_base(session: Session, kind: str, name: str, data: Mapping[str, Any], *, by: str) -> None:
    """The same for a base, which everybody may know."""
    assert kind in KINDS, kind
    queries.insert_of_base(session, kind, name, actor=by, data=data)


def name_moved(
    session: Session, repository_id: int, kind: str, name: str, *, before: str | None, after: str | None, by: str
) -> None:
    """A reference of this kind was made, moved or deleted."""
    if kind == "version":
        is_new = after is not None
        act = "version.published" if is_new else "version.dropped"
        happened(session, act, repository_id, {"version": name, "commit": after if is_new else before}, by=by)
    else:
        happened(session, _MOVED[kind], repository_id, {kind: name, "from": before, "to": after}, by=by)


# --- reading ----------------------------------------------------------------------------------------------------------


def number_all(backend: Backend) -> FeedState:
    """Gives numbers to what is committed; how the feed is then."""
    while True:
        with backend.database.read() as session:
            found = queries.state(session)
        if not found.has_fresh:
            return found
        with backend.database.write() as session:
            queries.number_fresh(session)


def page_after(session: Session, sight: Sight, wanted: EventFilter, after: int, limit: int) -> EventPage:
    """What is numbered. Raises `EventsForgotten` where something after that number is no longer kept."""
    found = queries.state(session)
    if after > found.last:
        raise InvalidInput(
            f"no event has the number {after}; the last one is {found.last}",
            hint="was the registry restored from a backup? begin again from its repositories",
        )
    if 0 < after < found.forgotten:
        raise EventsForgotten(
            f"events up to {found.forgotten} are no longer kept, and you have seen {after}",
            hint="read what there is now from the repositories, and go on after the event `oldest`",
            oldest=found.forgotten,
        )
    events = queries.events_after(session, sight, wanted, after=after, until=found.last, limit=limit)
    return EventPage(events, events[-1].number if len(events) == limit else found.last)


def seen_among(session: Session, sight: Sight, numbers: Sequence[int]) -> set[int]:
    """Those whose events may be seen now."""
    return queries.seen_among(session, sight, numbers)


def happenings(session: Session, *, after: int, limit: int) -> list[Happening]:
    """In order, for whoever asks himself who may see each."""
    return queries.happenings(session, after=after, limit=limit)


def hold_spread(session: Session) -> int:
    """The last number that webhooks were looked for; held until the transaction ends."""
    return queries.hold_spread(session)


def set_spread(session: Session, number: int) -> None:
    queries.set_spread(session, number)


def forget(backend: Backend, before: datetime) -> int:
    """What happened before then; how many events."""
    with backend.database.write() as session:
        return queries.forget(session, before)
