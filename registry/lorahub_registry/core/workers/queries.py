"""Rows of workers."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session
from lorahub_registry.infrastructure.database.clock import clock, moment
from lorahub_registry.infrastructure.database.tables import Worker as WorkerRow

__all__ = ["IntegrityError", "clock"]


@dataclass(frozen=True, slots=True)
class Worker:
    name: str
    instance: str
    place: str
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime


def all_workers(session: Session) -> list[Worker]:
    return [_worker(row) for row in session.scalars(select(WorkerRow).order_by(WorkerRow.name))]


def by_name(session: Session, name: str) -> Worker | None:
    row = session.get(WorkerRow, name)
    return None if row is None else _worker(row)


def insert_worker(session: Session, worker: Worker) -> None:
    """Raises `IntegrityError` where another has the name."""
    at = clock(session)
    session.execute(
        insert(WorkerRow).values(
            name=worker.name,
            instance=worker.instance,
            place=worker.place,
            host=worker.host,
            pid=worker.pid,
            started_at=worker.started_at,
            heartbeat_at=at,
        )
    )


def beat(session: Session, worker: Worker) -> bool:
    """False where it bears the name no more."""
    changed = session.execute(
        update(WorkerRow)
        .where(WorkerRow.name == worker.name, WorkerRow.instance == worker.instance)
        .values(heartbeat_at=moment(session))
        .returning(WorkerRow.name)
    )
    return changed.first() is not None


def delete_worker(session: Session, worker: Worker, *, silent_for: timedelta | None = None) -> None:
    """`silent_for`: unless its heart has beaten since."""
    statement = delete(WorkerRow).where(WorkerRow.name == worker.name, WorkerRow.instance == worker.instance)
    if silent_for is not None:
        statement = statement.where(WorkerRow.heartbeat_at < clock(session) - silent_for)
    session.execute(statement)


def _worker(row: WorkerRow) -> Worker:
    return Worker(row.name, row.instance, row.place, row.host, row.pid, row.started_at, row.heartbeat_at)
