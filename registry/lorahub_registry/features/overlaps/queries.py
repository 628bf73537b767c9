"""Rows of overlaps: wishes, and what came of them."""

from dataclasses import dataclass
from typing import Any

from lorahub.protocol.digests import CommitId
from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.bell import ring
from lorahub_registry.infrastructure.database.tables import AdapterOverlap, Commit, Repository

__all__ = ["IntegrityError"]


@dataclass(frozen=True, slots=True)
class AdapterPair:
    """Two adapters by their digests, the lesser first."""

    first: str
    second: str


@dataclass(frozen=True, slots=True)
class OverlapOutcome:
    """`status` is none where nobody wanted it yet, else wanted, done or failed."""

    status: str
    reason: str | None = None
    overlap: dict[str, Any] | None = None


def outcome_of(session: Session, pair: AdapterPair) -> OverlapOutcome:
    row = session.get(AdapterOverlap, (pair.first, pair.second))
    return OverlapOutcome("none") if row is None else OverlapOutcome(row.status, row.reason, row.overlap)


def insert_wish(session: Session, pair: AdapterPair, commits: tuple[CommitId, CommitId], account_id: int) -> None:
    """`commits` have the files. Raises `IntegrityError` where it is there."""
    row = AdapterOverlap(
        first_digest=pair.first,
        second_digest=pair.second,
        first_commit_id=commits[0],
        second_commit_id=commits[1],
        account_id=account_id,
        status="wanted",
        wanted_at=now(),
    )
    session.add(row)
    session.flush()
    ring(session)


def open_wishes_of(session: Session, account_id: int) -> int:
    statement = select(func.count()).where(AdapterOverlap.account_id == account_id, AdapterOverlap.status == "wanted")
    return session.scalar(statement) or 0


def wishes(session: Session, *, limit: int) -> list[AdapterPair]:
    """Those that nobody has worked on to the end, oldest first."""
    statement = (
        select(AdapterOverlap.first_digest, AdapterOverlap.second_digest)
        .where(AdapterOverlap.status == "wanted")
        .order_by(AdapterOverlap.wanted_at)
        .limit(limit)
    )
    return [AdapterPair(first, second) for first, second in session.execute(statement)]


def commits_of(session: Session, pair: AdapterPair) -> tuple[CommitId, CommitId] | None:
    row = session.get(AdapterOverlap, (pair.first, pair.second))
    return None if row is None else (CommitId(row.first_commit_id), CommitId(row.second_commit_id))


def namespace_of(session: Session, commit_id: CommitId) -> str:
    statement = select(Repository.namespace).join(Commit, Commit.repository_id == Repository.id)
    return session.scalars(statement.where(Commit.id == commit_id)).one()


def settle(session: Session, pair: AdapterPair, outcome: OverlapOutcome) -> None:
    session.execute(
        update(AdapterOverlap)
        .where(_is(pair))
        .values(status=outcome.status, reason=outcome.reason, overlap=outcome.overlap, done_at=now())
    )


def want_again(session: Session, pair: AdapterPair) -> bool:
    """Whether it had failed."""
    changed = session.execute(
        update(AdapterOverlap)
        .where(_is(pair), AdapterOverlap.status == "failed")
        .values(status="wanted", reason=None, wanted_at=now(), done_at=None)
        .returning(AdapterOverlap.first_digest)
    )
    ring(session)
    return changed.first() is not None


def take_wish(session: Session, pair: AdapterPair, commits: tuple[CommitId, CommitId], account_id: int) -> None:
    """It is this account's now; `commits` have the files, which those of the first wish may have lost."""
    session.execute(
        update(AdapterOverlap)
        .where(_is(pair))
        .values(first_commit_id=commits[0], second_commit_id=commits[1], account_id=account_id)
    )


def _is(pair: AdapterPair) -> ColumnElement[bool]:
    return and_(AdapterOverlap.first_digest == pair.first, AdapterOverlap.second_digest == pair.second)
