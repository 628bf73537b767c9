"""Rows of merged revisions and of the files that merges computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorahub.protocol.digests import CommitId, Sha256
from sqlalchemy import delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.failures import UNAVAILABLE
from lorahub_registry.infrastructure.database.tables import Blob, MergeJob, MergeOutput
from lorahub_registry.infrastructure.database.tables import MergedRevision as MergedRow

__all__ = ["UNAVAILABLE", "IntegrityError"]


@dataclass(frozen=True, slots=True)
class MergedRevision:
    id: CommitId
    repository_id: int
    digest: str
    sources: dict[str, Any]
    author_id: int
    author: str
    created_at: datetime
    wanted_at: datetime | None = None
    stored_at: datetime | None = None
    fault: str | None = None
    failed_at: datetime | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether a worker has been asked for it, and it isn't made yet."""
        return self.wanted_at is not None and self.stored_at is None


def _merged(row: MergedRow) -> MergedRevision:
    return MergedRevision(
        CommitId(row.id),
        row.repository_id,
        row.digest,
        row.sources,
        row.author_id,
        row.author,
        row.created_at,
        row.wanted_at,
        row.stored_at,
        row.fault,
        row.failed_at,
    )


def by_key(session: Session, key: str) -> MergedRevision | None:
    row = session.scalar(select(MergedRow).where(MergedRow.key == key))
    return None if row is None else _merged(row)


def by_id(session: Session, repository_id: int, merged_id: str) -> MergedRevision | None:
    row = session.get(MergedRow, merged_id)
    return None if row is None or row.repository_id != repository_id else _merged(row)


def insert_merged(session: Session, merged: MergedRevision, key: str) -> None:
    values = {
        "id": merged.id,
        "repository_id": merged.repository_id,
        "key": key,
        "digest": merged.digest,
        "sources": merged.sources,
        "author_id": merged.author_id,
        "author": merged.author,
        "reads": 0,
        "created_at": merged.created_at,
    }
    session.execute(insert(MergedRow).values(values))


def count_read(session: Session, merged_id: str) -> int:
    """How many there were, this one among them."""
    values = {"reads": MergedRow.reads + 1, "used_at": now()}
    counted = update(MergedRow).where(MergedRow.id == merged_id).values(values)
    return session.execute(counted.returning(MergedRow.reads)).scalar() or 0


def want(session: Session, merged_id: str) -> None:
    """Somebody waits for it."""
    values = {"wanted_at": now(), "used_at": now(), "stored_at": None, "fault": None, "failed_at": None}
    session.execute(update(MergedRow).where(MergedRow.id == merged_id).values(values))


def being_made(session: Session, *, author_id: int) -> int:
    """How many of an author's are wanted, and not stored yet."""
    statement = select(func.count()).where(
        MergedRow.author_id == author_id, MergedRow.wanted_at.is_not(None), MergedRow.stored_at.is_(None)
    )
    return session.scalar(statement) or 0


def to_store(session: Session, *, reads: int, limit: int) -> list[MergedRevision]:
    """Those that aren't stored yet: who is waited for first, then those that were read so often; 0 for none."""
    is_wanted = MergedRow.wanted_at.is_not(None)
    is_chosen = is_wanted | (MergedRow.reads >= reads) if reads else is_wanted
    statement = select(MergedRow).where(is_chosen, MergedRow.stored_at.is_(None))
    statement = statement.order_by(MergedRow.wanted_at.is_(None), MergedRow.wanted_at, MergedRow.id)
    return [_merged(row) for row in session.scalars(statement.limit(limit))]


def set_stored(session: Session, merged_id: str) -> None:
    session.execute(update(MergedRow).where(MergedRow.id == merged_id).values(stored_at=now()))


def stored_bytes(session: Session, *, but: str) -> list[tuple[str, int]]:
    """Id and bytes of each stored one, the one that was asked for longest ago first."""
    statement = (
        select(MergedRow.id, func.sum(Blob.size))
        .join(MergeOutput, MergeOutput.digest == MergedRow.digest)
        .join(Blob, Blob.sha256 == MergeOutput.blob_sha256)
        .where(MergedRow.stored_at.is_not(None), MergedRow.id != but)
        .group_by(MergedRow.id, MergedRow.used_at)
        .order_by(MergedRow.used_at.is_not(None), MergedRow.used_at, MergedRow.id)
    )
    return [(merged_id, int(size)) for merged_id, size in session.execute(statement)]


def give_up(session: Session, merged_id: str) -> None:
    """Its files are nobody's from now on, until it is wanted again."""
    values = {"reads": 0, "wanted_at": None, "stored_at": None}
    session.execute(update(MergedRow).where(MergedRow.id == merged_id).values(values))


def put_off(session: Session, merged_id: str, fault: str) -> None:
    values = {"reads": 0, "wanted_at": None, "fault": fault, "failed_at": now()}
    session.execute(update(MergedRow).where(MergedRow.id == merged_id).values(values))


# --- files ------------------------------------------------------------------------------------------------------------


def outputs(session: Session, digest: str) -> Mapping[str, Sha256]:
    """Path -> blob."""
    statement = select(MergeOutput.path, MergeOutput.blob_sha256).where(MergeOutput.digest == digest)
    return {path: Sha256(sha256) for path, sha256 in session.execute(statement)}


def insert_output(session: Session, digest: str, path: str, sha256: Sha256) -> None:
    """Nothing, where another was first: the bytes are the same."""
    if session.get(MergeOutput, (digest, path)) is None:
        session.add(MergeOutput(digest=digest, path=path, blob_sha256=sha256, created_at=now()))
        session.flush()


def delete_outputs(session: Session) -> None:
    """Those that no merged revision is read as, and no job is making."""
    is_wanted = MergedRow.wanted_at.is_not(None)
    is_read = exists().where(MergedRow.digest == MergeOutput.digest, (MergedRow.reads > 0) | is_wanted)
    is_made = exists().where(
        MergeJob.digest == MergeOutput.digest, MergeJob.status.in_(("queued", "running", "publishing"))
    )
    session.execute(delete(MergeOutput).where(~is_read, ~is_made))
