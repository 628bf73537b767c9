"""Rows of statistics: wishes, and what came of them."""

from dataclasses import dataclass
from typing import Any

from lorahub.protocol.digests import CommitId
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.bell import ring
from lorahub_registry.infrastructure.database.tables import AdapterStatistics, Commit

__all__ = ["IntegrityError"]


@dataclass(frozen=True, slots=True)
class StatisticsRequest:
    adapter_digest: str
    commit_id: CommitId
    repository_id: int


@dataclass(frozen=True, slots=True)
class StatisticsOutcome:
    status: str
    reason: str | None
    statistics: dict[str, Any] | None


def insert_wish(session: Session, adapter_digest: str, commit_id: str) -> None:
    """Nothing, where the same bytes were wanted before."""
    if session.get(AdapterStatistics, adapter_digest) is None:
        row = AdapterStatistics(adapter_digest=adapter_digest, commit_id=commit_id, status="wanted", wanted_at=now())
        session.add(row)
        session.flush()
        ring(session)


def wishes(session: Session, *, limit: int) -> list[str]:
    """Digests that nobody has worked on to the end, oldest first."""
    statement = (
        select(AdapterStatistics.adapter_digest)
        .where(AdapterStatistics.status == "wanted")
        .order_by(AdapterStatistics.wanted_at)
        .limit(limit)
    )
    return list(session.scalars(statement))


def wish(session: Session, adapter_digest: str) -> StatisticsRequest | None:
    statement = (
        select(AdapterStatistics.adapter_digest, Commit.id, Commit.repository_id)
        .join(Commit, Commit.id == AdapterStatistics.commit_id)
        .where(AdapterStatistics.adapter_digest == adapter_digest)
    )
    row = session.execute(statement).first()
    return None if row is None else StatisticsRequest(row[0], CommitId(row[1]), row[2])


def settle(session: Session, adapter_digest: str, outcome: StatisticsOutcome) -> None:
    session.execute(
        update(AdapterStatistics)
        .where(AdapterStatistics.adapter_digest == adapter_digest)
        .values(status=outcome.status, reason=outcome.reason, statistics=outcome.statistics, done_at=now())
    )


def want_again(session: Session, adapter_digest: str) -> bool:
    """False where nobody wanted them, or they are there."""
    changed = session.execute(
        update(AdapterStatistics)
        .where(AdapterStatistics.adapter_digest == adapter_digest, AdapterStatistics.status == "failed")
        .values(status="wanted", reason=None, done_at=None)
        .returning(AdapterStatistics.adapter_digest)
    )
    ring(session)
    return changed.first() is not None


def outcome_of(session: Session, adapter_digest: str) -> StatisticsOutcome | None:
    row = session.get(AdapterStatistics, adapter_digest)
    return None if row is None else StatisticsOutcome(row.status, row.reason, row.statistics)
