"""Counts over the whole database, and the cheapest question that proves one."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import case, func, or_, select, text

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import (
    Account,
    AdapterOverlap,
    AdapterStatistics,
    Blob,
    MergedRevision,
    MergeJob,
    Mirror,
    Repository,
    Upload,
)

OPEN = ("queued", "running", "publishing", "wanted")


@dataclass(frozen=True, slots=True)
class Jobs:
    kind: str
    state: str
    count: int
    oldest: datetime


def answers(session: Session) -> None:
    session.execute(text("SELECT 1"))


def time_of_the_database(session: Session) -> datetime:
    """On SQLite our own, to the second."""
    found = session.scalar(select(func.current_timestamp()))
    time = datetime.fromisoformat(found) if isinstance(found, str) else found
    assert time is not None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def accounts(session: Session) -> int:
    return session.scalar(select(func.count(Account.id))) or 0


def repositories(session: Session) -> int:
    return session.scalar(select(func.count(Repository.id))) or 0


def blobs(session: Session) -> tuple[int, int, int]:
    """How many, their bytes, and how many of them are damaged."""
    count, total, damaged = session.execute(
        select(func.count(), func.sum(Blob.size), func.count(Blob.damaged_at))
    ).one()
    return int(count), int(total or 0), int(damaged)


def open_uploads(session: Session) -> tuple[int, int]:
    """How many, and the bytes they announced."""
    statement = select(func.count(), func.sum(Upload.declared_size))
    statement = statement.where(Upload.blob_sha256.is_(None), Upload.expires_at > now())
    count, total = session.execute(statement).one()
    return int(count), int(total or 0)


def jobs(session: Session) -> list[Jobs]:
    """The jobs of every kind, by state."""
    merges = select(MergeJob.status, func.count(), func.min(MergeJob.created_at)).group_by(MergeJob.status)
    statistics = select(AdapterStatistics.status, func.count(), func.min(AdapterStatistics.wanted_at))
    statistics = statistics.group_by(AdapterStatistics.status)
    overlaps = select(AdapterOverlap.status, func.count(), func.min(AdapterOverlap.wanted_at))
    overlaps = overlaps.group_by(AdapterOverlap.status)
    state = case((Mirror.wanted_at.is_not(None), "wanted"), (Mirror.error.is_not(None), "failed"), else_="done")
    since = func.min(func.coalesce(Mirror.wanted_at, Mirror.created_at))
    mirrors = select(state, func.count(), since).group_by(state)
    made = case(
        (MergedRevision.stored_at.is_not(None), "done"), (MergedRevision.fault.is_not(None), "failed"), else_="wanted"
    )
    since_wanted = func.min(func.coalesce(MergedRevision.wanted_at, MergedRevision.created_at))
    readers = select(made, func.count(), since_wanted).where(
        or_(MergedRevision.wanted_at.is_not(None), MergedRevision.fault.is_not(None))
    )
    return [
        Jobs(kind, state, count, oldest)
        for kind, statement in (
            ("merge", merges),
            ("statistics", statistics),
            ("overlap", overlaps),
            ("mirror", mirrors),
            ("merged", readers.group_by(made)),
        )
        for state, count, oldest in session.execute(statement)
    ]
