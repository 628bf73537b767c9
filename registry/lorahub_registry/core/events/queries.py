"""Rows of the feed: written with a change, numbered once committed, read in order of their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorahub.protocol.messages.events import Event
from sqlalchemy import JSON, ColumnElement, and_, case, delete, exists, func, insert, literal, or_, select, true, update

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.bell import Sound, ring
from lorahub_registry.infrastructure.database.listed import is_listed
from lorahub_registry.infrastructure.database.tables import Feed, FeedEvent, Repository, UtcDateTime

_AT_ONCE = 1000
"""Numbers that one transaction gives out."""
_WRITTEN = ("kind", "at", "actor", "audience", "account_id", "data")
_OF_REPOSITORY = ("repository", "namespace_id", "was_open", "name", "name_key")


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody may see: repositories that are open, and those of `visible` namespaces; what is for managers in
    `managed` ones, and what concerns the account itself. None: all of them.
    """

    account_id: int | None
    visible: Sequence[int] | None
    managed: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """No kinds, or no name: any. A name is a repository's, now or then, or a base's."""

    kinds: Sequence[str] = ()
    name: str | None = None


@dataclass(frozen=True, slots=True)
class FeedState:
    last: int
    forgotten: int
    spread: int
    """The last number that webhooks were looked for."""
    has_fresh: bool
    """Events that have no number yet."""


# --- writing ----------------------------------------------------------------------------------------------------------


def insert_of_repository(
    session: Session,
    kind: str,
    repository_id: int,
    *,
    actor: str,
    audience: str,
    account_id: int | None,
    data: Mapping[str, Any],
) -> None:
    """With what the repository is called, and who sees it, in this transaction."""
    full_name = Repository.namespace + "/" + Repository.name
    columns: list[Any] = [
        literal(kind),
        literal(now(), UtcDateTime()),
        literal(actor),
        literal(audience),
        literal(account_id, FeedEvent.account_id.type),
        literal(dict(data), JSON()),
        Repository.public_id,
        Repository.namespace_id,
        and_(~Repository.is_private, Repository.quarantined_at.is_(None)),
        full_name,
        func.lower(full_name),
    ]
    written = select(*columns).where(Repository.id == repository_id)
    session.execute(insert(FeedEvent).from_select([*_WRITTEN, *_OF_REPOSITORY], written))
    ring(session, Sound.EVENT)


def insert_of_base(session: Session, kind: str, name: str, *, actor: str, data: Mapping[str, Any]) -> None:
    session.add(
        FeedEvent(
            kind=kind,
            at=now(),
            repository=None,
            namespace_id=None,
            was_open=True,
            name=name,
            name_key=name.lower(),
            actor=actor,
            audience="readers",
            account_id=None,
            data=dict(data),
        )
    )
    ring(session, Sound.EVENT)


# --- numbers ----------------------------------------------------------------------------------------------------------


def state(session: Session) -> FeedState:
    fresh = exists().where(FeedEvent.number.is_(None))
    row = session.execute(select(Feed.last, Feed.forgotten, Feed.spread, fresh)).one()
    return FeedState(row[0], row[1], row[2], has_fresh=bool(row[3]))


def number_fresh(session: Session) -> None:
    """Numbers what is committed by now. Who gives numbers out holds the feed until they are committed: whatever is
    committed later, however early it was begun, gets larger ones.
    """
    feed = session.scalars(select(Feed).with_for_update()).one()
    fresh = session.scalars(
        select(FeedEvent.id).where(FeedEvent.number.is_(None)).order_by(FeedEvent.id).limit(_AT_ONCE)
    ).all()
    numbered = [{"id": event_id, "number": number} for number, event_id in enumerate(fresh, feed.last + 1)]
    if numbered:
        session.execute(update(FeedEvent), numbered)
        feed.last += len(numbered)


# --- reading ----------------------------------------------------------------------------------------------------------


def events_after(
    session: Session, sight: Sight, wanted: EventFilter, *, after: int, until: int, limit: int
) -> list[Event]:
    """Those that may be seen now, from behind the number `after` to `until`."""
    statement = (
        select(FeedEvent)
        .outerjoin(Repository, Repository.public_id == FeedEvent.repository)
        .where(FeedEvent.number > after, FeedEvent.number <= until, _is_wanted(wanted), _is_seen(sight))
        .order_by(FeedEvent.number)
        .limit(limit)
    )
    return [_event(row) for row in session.scalars(statement)]


def seen_among(session: Session, sight: Sight, numbers: Sequence[int]) -> set[int]:
    """Those whose events may be seen now."""
    statement = (
        select(FeedEvent.number)
        .outerjoin(Repository, Repository.public_id == FeedEvent.repository)
        .where(FeedEvent.number.in_(numbers), _is_seen(sight))
    )
    return {number for number in session.scalars(statement) if number is not None}


@dataclass(frozen=True, slots=True)
class Happening:
    """An event before anybody is asked who sees it, with where its repository is now, or was when it went."""

    event: Event
    namespace_id: int | None
    """None: of a base."""
    is_private: bool


def happenings(session: Session, *, after: int, limit: int) -> list[Happening]:
    """In order of their numbers."""
    is_open = case((Repository.id.is_(None), FeedEvent.was_open), else_=~Repository.is_private)
    statement = (
        select(FeedEvent, func.coalesce(Repository.namespace_id, FeedEvent.namespace_id), is_open)
        .outerjoin(Repository, Repository.public_id == FeedEvent.repository)
        .where(FeedEvent.number > after)
        .order_by(FeedEvent.number)
        .limit(limit)
    )
    rows = session.execute(statement)
    return [Happening(_event(row), namespace_id, not was_open) for row, namespace_id, was_open in rows]


def hold_spread(session: Session) -> int:
    """The last number that webhooks were looked for; held until the transaction ends."""
    return session.scalars(select(Feed).with_for_update()).one().spread


def set_spread(session: Session, number: int) -> None:
    session.execute(update(Feed).values(spread=number))


def _is_wanted(wanted: EventFilter) -> ColumnElement[bool]:
    of_kind = FeedEvent.kind.in_(wanted.kinds) if wanted.kinds else true()
    if wanted.name is None:
        return of_kind
    key = wanted.name.lower()
    now_called = func.lower(Repository.namespace + "/" + Repository.name)
    return and_(of_kind, or_(FeedEvent.name_key == key, now_called == key))


def _is_seen(sight: Sight) -> ColumnElement[bool]:
    """What is gone is its namespace's own affair, but that it is gone everybody hears who could see it."""
    is_gone = Repository.id.is_(None)
    of_its_namespace = _is_in(FeedEvent.namespace_id, sight.visible)
    went_in_public = and_(FeedEvent.kind == "repository.deleted", FeedEvent.was_open)
    is_visible = or_(
        FeedEvent.repository.is_(None),
        and_(~is_gone, is_listed(sight.visible)),
        and_(is_gone, or_(of_its_namespace, went_in_public)),
    )
    namespace = func.coalesce(Repository.namespace_id, FeedEvent.namespace_id)
    is_meant = or_(FeedEvent.audience == "readers", _is_in(namespace, sight.managed))
    if sight.account_id is not None:
        is_meant = or_(is_meant, FeedEvent.account_id == sight.account_id)
    return and_(is_visible, is_meant)


def _is_in(namespace: Any, known: Sequence[int] | None) -> ColumnElement[bool]:
    return true() if known is None else namespace.in_(known)


def _event(row: FeedEvent) -> Event:
    assert row.number is not None
    return Event(row.number, row.kind, row.at, row.name, row.repository, row.actor, row.data)


# --- forgetting -------------------------------------------------------------------------------------------------------


def forget(session: Session, before: datetime) -> int:
    """Deletes what happened before then and is numbered, up to the first that didn't; how many."""
    feed = session.scalars(select(Feed).with_for_update()).one()
    first_kept = session.scalar(select(func.min(FeedEvent.number)).where(FeedEvent.at >= before))
    until = feed.last if first_kept is None else first_kept - 1
    if until <= feed.forgotten:
        return 0
    count = session.scalar(select(func.count()).where(FeedEvent.number <= until)) or 0
    session.execute(delete(FeedEvent).where(FeedEvent.number <= until))
    feed.forgotten = until
    return count
