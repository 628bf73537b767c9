"""Audit rows: inserted and read, never changed."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from lorahub.protocol.messages.accounts import AuditedEvent
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
    token_id: int | None
    address: str | None

    def as_message(self) -> AuditedEvent:
        return AuditedEvent(
            id=self.id,
            at=self.at,
            actor=self.actor,
            action=self.action,
            subject=self.subject,
            details=self.details,
            request_id=self.request_id,
            token_id=self.token_id,
            address=self.address,
        )

    def line(self) -> bytes:
        """What a seal is made of: a line of JSON, without what is null, so that a column more changes no old one."""
        fields = {**asdict(self), "at": self.at.isoformat()}
        known = {name: value for name, value in fields.items() if value is not None}
        return json.dumps(known, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def insert_event(session: Session, event: dict[str, Any]) -> None:
    session.add(AuditEvent(at=now(), **event))


def newest_events(session: Session, *, limit: int, before: int | None) -> list[Event]:
    statement = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(AuditEvent.id < before)
    return [_event(row) for row in session.scalars(statement)]


def events_between(
    session: Session,
    *,
    after: int,
    limit: int,
    last: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Event]:
    """Oldest first, from behind the event `after` to the event `last`; `since` is part of the time asked for, `until`
    isn't.
    """
    statement = select(AuditEvent).where(AuditEvent.id > after).order_by(AuditEvent.id).limit(limit)
    if last is not None:
        statement = statement.where(AuditEvent.id <= last)
    if since is not None:
        statement = statement.where(AuditEvent.at >= since)
    if until is not None:
        statement = statement.where(AuditEvent.at < until)
    return [_event(row) for row in session.scalars(statement)]


def _event(row: AuditEvent) -> Event:
    return Event(
        row.id, row.at, row.actor, row.action, row.subject, row.details, row.request_id, row.token_id, row.address
    )
