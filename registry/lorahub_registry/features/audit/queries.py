"""Audit rows: inserted and read, never changed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import AuditEvent


@dataclass(frozen=True, slots=True)
class Event:
    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    request_id: str | None


def insert_event(session: Session, event: dict[str, Any]) -> None:
    session.add(AuditEvent(at=now(), **event))


def newest_events(session: Session, *, limit: int, before: int | None) -> list[Event]:
    statement = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(AuditEvent.id < before)
    return [
        Event(row.id, row.at, row.actor, row.action, row.subject, row.details, row.request_id)
        for row in session.scalars(statement)
    ]
