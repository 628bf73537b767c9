"""Rows of merge jobs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorahub.protocol.digests import CommitId
from sqlalchemy import case, func, select, update
from sqlalchemy.exc import OperationalError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.bell import ring
from lorahub_registry.infrastructure.database.tables import MergeFile
from lorahub_registry.infrastructure.database.tables import MergeJob as JobRow

__all__ = ["OperationalError"]

_OPEN = ("queued", "running", "publishing")


@dataclass(frozen=True, slots=True)
class StoredJob:
    id: str
    account_id: int
    repository_id: int
    digest: str
    sources: dict[str, Any]
    status: str
    faults: int
    bytes: int
    done: int
    error: str | None
    commit_id: CommitId | None
    version: str | None
    created_at: datetime
    finished_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.status in _OPEN


def _job(row: JobRow) -> StoredJob:
    return StoredJob(
        row.id,
        row.account_id,
        row.repository_id,
        row.digest,
        row.sources,
        row.status,
        row.faults,
        row.bytes,
        row.done,
        row.error,
        None if row.commit_id is None else CommitId(row.commit_id),
        row.version,
        row.created_at,
        row.finished_at,
    )


def insert_job(session: Session, job: StoredJob) -> None:
    session.add(
        JobRow(
            id=job.id,
            account_id=job.account_id,
            repository_id=job.repository_id,
            digest=job.digest,
            sources=job.sources,
            status=job.status,
            faults=0,
            bytes=job.bytes,
            done=0,
            created_at=job.created_at,
        )
    )
    session.flush()
    ring(session)


def job_by_id(session: Session, job_id: str) -> StoredJob | None:
    row = session.get(JobRow, job_id)
    return None if row is None else _job(row)


def same_job(session: Session, *, repository_id: int, digest: str) -> StoredJob | None:
    """The newest job with this result for this repository that wasn't given up."""
    statement = (
        select(JobRow)
        .where(JobRow.repository_id == repository_id, JobRow.digest == digest, JobRow.status.in_((*_OPEN, "done")))
        .order_by(JobRow.created_at.desc())
        .limit(1)
    )
    row = session.scalar(statement)
    return None if row is None else _job(row)


def open_jobs_of(session: Session, account_id: int) -> int:
    statement = select(func.count()).where(JobRow.account_id == account_id, JobRow.status.in_(_OPEN))
    return session.scalar(statement) or 0


def open_jobs(session: Session, *, limit: int) -> list[str]:
    """Oldest first."""
    statement = select(JobRow.id).where(JobRow.status.in_(_OPEN)).order_by(JobRow.created_at).limit(limit)
    return list(session.scalars(statement))


def jobs_of(session: Session, account_id: int, *, limit: int) -> list[StoredJob]:
    """Newest first."""
    statement = select(JobRow).where(JobRow.account_id == account_id).order_by(JobRow.created_at.desc()).limit(limit)
    return [_job(row) for row in session.scalars(statement)]


def begin(session: Session, job_id: str) -> bool:
    """False where the job is over."""
    changed = session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.status.in_(_OPEN))
        .values(status=case((JobRow.status == "publishing", "publishing"), else_="running"))
        .returning(JobRow.id)
    )
    return changed.first() is not None


def insert_files(session: Session, job_id: str, paths: list[str]) -> None:
    """Those that it has not yet."""
    known = set(session.scalars(select(MergeFile.path).where(MergeFile.job_id == job_id)))
    session.add_all(MergeFile(job_id=job_id, path=path, done=0) for path in paths if path not in known)
    session.flush()


def count_fault(session: Session, job_id: str) -> None:
    session.execute(update(JobRow).where(JobRow.id == job_id).values(faults=JobRow.faults + 1))


def set_done(session: Session, job_id: str, path: str, done: int) -> bool:
    """Bytes of one of its files, and with them of all. False where the job is over."""
    session.execute(update(MergeFile).where(MergeFile.job_id == job_id, MergeFile.path == path).values(done=done))
    total = select(func.coalesce(func.sum(MergeFile.done), 0)).where(MergeFile.job_id == job_id).scalar_subquery()
    changed = session.execute(
        update(JobRow).where(JobRow.id == job_id, JobRow.status.in_(_OPEN)).values(done=total).returning(JobRow.id)
    )
    return changed.first() is not None


def reopen(session: Session, job_id: str) -> bool:
    """False where it didn't fail and wasn't cancelled."""
    changed = session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.status.in_(("failed", "cancelled")))
        .values(status="queued", error=None, finished_at=None, faults=0)
        .returning(JobRow.id)
    )
    ring(session)
    return changed.first() is not None


def begin_publishing(session: Session, job_id: str) -> bool:
    """From here on it can't be cancelled. False where it was before."""
    changed = session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.status.in_(_OPEN))
        .values(status="publishing")
        .returning(JobRow.id)
    )
    return changed.first() is not None


def cancel(session: Session, job_id: str) -> bool:
    """False where it is over, or being published."""
    changed = session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.status.in_(("queued", "running")))
        .values(status="cancelled", finished_at=now())
        .returning(JobRow.id)
    )
    return changed.first() is not None


def settle(session: Session, job_id: str, status: str, **values: Any) -> bool:
    """False where it was settled before."""
    changed = session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.status.in_(_OPEN))
        .values(status=status, finished_at=now(), **values)
        .returning(JobRow.id)
    )
    return changed.first() is not None
