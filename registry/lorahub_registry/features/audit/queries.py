"""Audit rows: inserted and read, never changed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import AuditEvent
from lorahub_registry.infrastructure.web.times import wire_time


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    request_id: str | None
    token_id: int | None

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "at": wire_time(self.at),
            "actor": self.actor,
            "action": self.action,
            "subject": self.subject,
            "details": self.details,
            "requestId": self.request_id,
            "tokenId": self.token_id,
        }


def insert_event(session: Session, event: dict[str, Any]) -> None:
    session.add(AuditEvent(at=now(), **event))


def newest_events(session: Session, *, limit: int, before: int | None) -> list[Event]:
    statement = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(AuditEvent.id < before)
    return [_event(row) for row in session.scalars(statement)]


def events_between(
    session: Session, *, after: int, since: datetime | None, until: datetime | None, limit: int
) -> list[Event]:
    """Oldest first, from behind the event `after`; `since` is part of the time asked for, `until` isn't."""
    statement = select(AuditEvent).where(AuditEvent.id > after).order_by(AuditEvent.id).limit(limit)
    if since is not None:
        statement = statement.where(AuditEvent.at >= since)
    if until is not None:
        statement = statement.where(AuditEvent.at < until)
    return [_event(row) for row in session.scalars(statement)]


def _event(row: AuditEvent) -> Event:
    return Event(row.id, row.at, row.actor, row.action, row.subject, row.details, row.request_id, row.token_id)
