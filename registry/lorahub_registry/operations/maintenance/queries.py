"""Questions over the whole database, for fsck: each lists what breaks an invariant. And what scrubs found."""

from datetime import datetime

from lorahub.protocol.digests import Sha256
from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.orm import aliased

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import (
    AuditEvent,
    AuditForgotten,
    Blob,
    Commit,
    CommitFile,
    Reference,
    RefMove,
    Repository,
    UpstreamFile,
)

MOST = 1000  # problems listed of one kind


def files_without_blob(session: Session) -> list[tuple[str, str, str]]:
    statement = (
        select(CommitFile.commit_id, CommitFile.path, CommitFile.blob_sha256)
        .outerjoin(Blob, Blob.sha256 == CommitFile.blob_sha256)
        .where(Blob.sha256.is_(None))
        .limit(MOST)
    )
    return [(commit, path, digest) for commit, path, digest in session.execute(statement)]


def references_without_commit(session: Session) -> list[tuple[int, str, str]]:
    statement = (
        select(Reference.repository_id, Reference.name, Reference.commit_id)
        .outerjoin(Commit, (Commit.id == Reference.commit_id) & (Commit.repository_id == Reference.repository_id))
        .where(Commit.id.is_(None))
        .limit(MOST)
    )
    return [(repository, name, commit) for repository, name, commit in session.execute(statement)]


def commits_without_parent(session: Session) -> list[tuple[str, str | None]]:
    parent = aliased(Commit)
    statement = (
        select(Commit.id, Commit.parent_id)
        .outerjoin(parent, parent.id == Commit.parent_id)
        .where(Commit.parent_id.is_not(None), parent.id.is_(None))
        .limit(MOST)
    )
    return [(commit, missing) for commit, missing in session.execute(statement)]


def repositories_without_main(session: Session) -> list[str]:
    has_main = exists().where(
        Reference.repository_id == Repository.id, Reference.space == "heads", Reference.name == "main"
    )
    statement = select(Repository.namespace, Repository.name).where(~has_main).limit(MOST)
    return [f"{namespace}/{name}" for namespace, name in session.execute(statement)]


def references_off_their_log(session: Session) -> list[tuple[int, str]]:
    """References that are not where their last logged move put them."""
    latest = (
        select(RefMove.to_commit)
        .where(
            RefMove.repository_id == Reference.repository_id,
            RefMove.name == Reference.name,
            RefMove.kind == Reference.kind,
        )
        .order_by(RefMove.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    statement = select(Reference.repository_id, Reference.name).where(latest.is_distinct_from(Reference.commit_id))
    return [(repository, name) for repository, name in session.execute(statement.limit(MOST))]


def commits_without_audit(session: Session) -> list[str]:
    """Commits other than a repository's first (which its creation covers) and squashes, that no audit row names; but
    for those from times whose rows were forgotten.
    """
    named = exists().where(
        AuditEvent.action == "revision.publish", AuditEvent.details["commit"].as_string() == Commit.id
    )
    forgotten = select(func.max(AuditForgotten.before)).scalar_subquery()
    is_remembered = or_(forgotten.is_(None), Commit.created_at >= forgotten)
    statement = select(Commit.id).where(Commit.parent_id.is_not(None), is_remembered, ~named).limit(MOST)
    return list(session.scalars(statement))


def all_commits(session: Session, *, after: str, limit: int) -> list[tuple[str, str, int | None]]:
    """Id, digest and size, in order of id; not of those that retention has dropped, nor of an upstream's, whose bytes
    come one by one.
    """
    is_listed = exists().where(UpstreamFile.commit_id == Commit.id)
    statement = (
        select(Commit.id, Commit.digest, Commit.size)
        .where(Commit.id > after, Commit.dropped_at.is_(None), ~is_listed)
        .order_by(Commit.id)
        .limit(limit)
    )
    return [(commit, digest, size) for commit, digest, size in session.execute(statement)]


def files_unlike_their_listing(session: Session) -> list[tuple[str, str]]:
    """Commit and path of files whose bytes are others than their upstream announced."""
    statement = (
        select(UpstreamFile.commit_id, UpstreamFile.path)
        .join(CommitFile, (CommitFile.commit_id == UpstreamFile.commit_id) & (CommitFile.path == UpstreamFile.path))
        .join(Blob, Blob.sha256 == CommitFile.blob_sha256)
        .where(
            or_(
                Blob.size != UpstreamFile.size,
                (Blob.sha256 != UpstreamFile.digest) & (Blob.git_sha1 != UpstreamFile.digest),
            )
        )
        .limit(MOST)
    )
    return [(commit, path) for commit, path in session.execute(statement)]


def files_of(session: Session, commit_id: str) -> list[tuple[str, int, str]]:
    """Path, size and sha256 of every file."""
    statement = (
        select(CommitFile.path, Blob.size, CommitFile.blob_sha256)
        .join(Blob, Blob.sha256 == CommitFile.blob_sha256)
        .where(CommitFile.commit_id == commit_id)
    )
    return [(path, size, digest) for path, size, digest in session.execute(statement)]


# --- scrub ------------------------------------------------------------------------------------------------------------


def oldest_verified(session: Session, *, before: datetime, limit: int) -> list[Sha256]:
    """Blobs that were last verified before that time; those that never were come first."""
    statement = (
        select(Blob.sha256)
        .where(or_(Blob.verified_at.is_(None), Blob.verified_at < before))
        .order_by(Blob.verified_at.asc().nulls_first(), Blob.sha256)
        .limit(limit)
    )
    return [Sha256(sha256) for sha256 in session.scalars(statement)]


def set_verified(session: Session, sha256: Sha256) -> None:
    """That its stored bytes were read, whatever they are."""
    session.execute(update(Blob).where(Blob.sha256 == sha256).values(verified_at=now()))


def damaged(session: Session) -> list[str]:
    """Digests, the longest known first."""
    statement = select(Blob.sha256).where(Blob.damaged_at.is_not(None)).order_by(Blob.damaged_at).limit(MOST)
    return list(session.scalars(statement))
