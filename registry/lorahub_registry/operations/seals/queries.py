"""Rows of seals, and of what was forgotten of the log."""

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session
from lorahub_registry.infrastructure.database.tables import AuditEvent, AuditForgotten, AuditSeal

__all__ = ["IntegrityError"]


@dataclass(frozen=True, slots=True)
class Seal:
    id: int
    last_event_id: int
    events: int
    digest: str
    sealed_at: datetime


@dataclass(frozen=True, slots=True)
class Forgotten:
    last_event_id: int
    before: datetime
    actor: str
    at: datetime


def newest_ids(session: Session) -> tuple[int, int]:
    """The newest of all events, and of those that are sealed; 0 for none."""
    event, seal = func.max(AuditEvent.id), func.max(AuditSeal.last_event_id)
    row = session.execute(select(select(event).scalar_subquery(), select(seal).scalar_subquery())).one()
    return row[0] or 0, row[1] or 0


def writers(session: Session) -> frozenset[str]:
    """Transactions that may have written events which nobody sees yet: who inserts into a table holds a lock on it from
    before it is given an id to its end. On SQLite there is one writer, and whoever asks in his turn sees everything.
    """
    if session.get_bind().dialect.name == "sqlite":
        return frozenset()
    found = session.scalars(
        text(
            "SELECT virtualtransaction FROM pg_locks WHERE relation = 'audit_events'::regclass AND mode = "
            "'RowExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    )
    return frozenset(found)


def newest_seal(session: Session) -> Seal | None:
    row = session.scalar(select(AuditSeal).order_by(AuditSeal.id.desc()).limit(1))
    return None if row is None else _seal(row)


def seals(session: Session, *, after: int, limit: int) -> list[Seal]:
    """In their order, from behind the seal `after`."""
    statement = select(AuditSeal).where(AuditSeal.id > after).order_by(AuditSeal.id).limit(limit)
    return [_seal(row) for row in session.scalars(statement)]


def insert_seal(session: Session, seal: Seal) -> None:
    """Raises `IntegrityError` where another worker has made it."""
    session.add(AuditSeal(**asdict(seal)))
    session.flush()


def count_events(session: Session, *, after: int, until: int | None = None) -> int:
    statement = select(func.count()).select_from(AuditEvent).where(AuditEvent.id > after)
    return session.scalar(statement if until is None else statement.where(AuditEvent.id <= until)) or 0


def _seal(row: AuditSeal) -> Seal:
    return Seal(row.id, row.last_event_id, row.events, row.digest, row.sealed_at)


# --- what was forgotten -----------------------------------------------------------------------------------------------


def last_forgotten(session: Session) -> Forgotten | None:
    row = session.scalar(select(AuditForgotten).order_by(AuditForgotten.last_event_id.desc()).limit(1))
    return None if row is None else Forgotten(row.last_event_id, row.before, row.actor, row.at)


def last_seal_before(session: Session, before: datetime) -> Seal | None:
    """The last one under which, and under those before it, all events are older."""
    first = select(func.min(AuditEvent.id)).where(AuditEvent.at >= before).scalar_subquery()
    is_older = or_(first.is_(None), AuditSeal.last_event_id < first)
    row = session.scalar(select(AuditSeal).where(is_older).order_by(AuditSeal.id.desc()).limit(1))
    return None if row is None else _seal(row)


def insert_forgotten(session: Session, forgotten: Forgotten) -> None:
    session.add(AuditForgotten(**asdict(forgotten)))
    session.flush()


def delete_events(session: Session, *, until: int, limit: int) -> int:
    """How many. Those that no row of `insert_forgotten` names, the database doesn't let go."""
    some = select(AuditEvent.id).where(AuditEvent.id <= until).order_by(AuditEvent.id).limit(limit)
    return len(session.scalars(delete(AuditEvent).where(AuditEvent.id.in_(some)).returning(AuditEvent.id)).all())
