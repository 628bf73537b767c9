"""What namespaces keep: counted when it changes, so that asking costs nothing, and provable at any time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, delete, exists, func, insert, select, update

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import (
    Account,
    Blob,
    Commit,
    CommitFile,
    MergeJob,
    NamespaceBlob,
    Repository,
    Upload,
)

MOST = 1000  # miscounts listed of one kind
_OPEN_JOB = ("queued", "running", "publishing")


@dataclass(frozen=True, slots=True)
class Namespace:
    """Own limits, None where the registry's apply; 0 is none."""

    id: int
    name: str
    stored_bytes: int
    byte_quota: int | None
    repository_quota: int | None


def namespace_by_id(session: Session, account_id: int, *, lock: bool = False) -> Namespace:
    """`lock` lets one transaction at a time count for this namespace (PostgreSQL; SQLite has one writer)."""
    columns = (Account.id, Account.name, Account.stored_bytes, Account.byte_quota, Account.repository_quota)
    statement = select(*columns).where(Account.id == account_id)
    row = session.execute(statement.with_for_update(key_share=True) if lock else statement).one()
    return Namespace(*row)


def namespaces(session: Session) -> list[int]:
    return list(session.scalars(select(Account.id).order_by(Account.id)))


def namespace_of(session: Session, repository_id: int) -> int | None:
    return session.scalar(select(Repository.namespace_id).where(Repository.id == repository_id))


def set_quotas(session: Session, account_id: int, **quotas: int | None) -> None:
    session.execute(update(Account).where(Account.id == account_id).values(**quotas))


# --- what is there ----------------------------------------------------------------------------------------------------


def reserved_bytes(session: Session, account_id: int) -> int:
    """Announced by open uploads, and of distinct leased blobs that no commit of the namespace has."""
    live = (
        select(Upload.blob_sha256, Upload.declared_size)
        .join(Repository, Repository.id == Upload.repository_id)
        .where(Repository.namespace_id == account_id, Upload.expires_at > now())
        .subquery()
    )
    announced = select(func.sum(live.c.declared_size)).where(live.c.blob_sha256.is_(None))
    kept = exists().where(NamespaceBlob.account_id == account_id, NamespaceBlob.blob_sha256 == Blob.sha256)
    leased = select(func.sum(Blob.size)).where(Blob.sha256.in_(select(live.c.blob_sha256)), ~kept)
    return int(session.scalar(announced) or 0) + int(session.scalar(leased) or 0)


def repositories(session: Session, account_id: int) -> int:
    return session.scalar(select(func.count()).where(Repository.namespace_id == account_id)) or 0


def open_uploads(session: Session, account_id: int) -> int:
    """Of one uploader, whatever the namespace."""
    statement = select(func.count()).where(
        Upload.account_id == account_id, Upload.blob_sha256.is_(None), Upload.expires_at > now()
    )
    return session.scalar(statement) or 0


def open_merges(session: Session, account_id: int) -> int:
    statement = select(func.count()).where(MergeJob.account_id == account_id, MergeJob.status.in_(_OPEN_JOB))
    return session.scalar(statement) or 0


# --- counting ---------------------------------------------------------------------------------------------------------


def add_blobs(session: Session, account_id: int, digests: Iterable[str]) -> None:
    """Those that the namespace has already count once."""
    wanted = sorted(set(digests))
    for start in range(0, len(wanted), 500):
        page = wanted[start : start + 500]
        known = set(
            session.scalars(
                select(NamespaceBlob.blob_sha256).where(
                    NamespaceBlob.account_id == account_id, NamespaceBlob.blob_sha256.in_(page)
                )
            )
        )
        new = [digest for digest in page if digest not in known]
        if new:
            session.execute(insert(NamespaceBlob), [{"account_id": account_id, "blob_sha256": one} for one in new])
            added = select(func.sum(Blob.size)).where(Blob.sha256.in_(new)).scalar_subquery()
            session.execute(
                update(Account).where(Account.id == account_id).values(stored_bytes=Account.stored_bytes + added)
            )


def drop_blobs(session: Session, account_id: int, digests: Sequence[str]) -> None:
    """Those that a commit of the namespace still has stay."""
    is_there = exists().where(
        Repository.namespace_id == account_id,
        Commit.repository_id == Repository.id,
        CommitFile.commit_id == Commit.id,
        CommitFile.blob_sha256 == NamespaceBlob.blob_sha256,
    )
    for start in range(0, len(digests), 500):
        page = NamespaceBlob.blob_sha256.in_(digests[start : start + 500])
        statement = delete(NamespaceBlob).where(NamespaceBlob.account_id == account_id, page, ~is_there)
        gone = session.scalars(statement.returning(NamespaceBlob.blob_sha256)).all()
        if gone:
            dropped = select(func.sum(Blob.size)).where(Blob.sha256.in_(gone)).scalar_subquery()
            session.execute(
                update(Account).where(Account.id == account_id).values(stored_bytes=Account.stored_bytes - dropped)
            )


def recount(session: Session, account_id: int) -> None:
    """From the commits, whatever was counted before."""
    session.execute(delete(NamespaceBlob).where(NamespaceBlob.account_id == account_id))
    add_blobs(session, account_id, session.scalars(_referred(account_id)).all())
    total = (
        select(func.coalesce(func.sum(Blob.size), 0))
        .join(NamespaceBlob, NamespaceBlob.blob_sha256 == Blob.sha256)
        .where(NamespaceBlob.account_id == account_id)
        .scalar_subquery()
    )
    session.execute(update(Account).where(Account.id == account_id).values(stored_bytes=total))


def _referred(account_id: int) -> Select[str]:
    return (
        select(CommitFile.blob_sha256)
        .join(Commit, Commit.id == CommitFile.commit_id)
        .join(Repository, Repository.id == Commit.repository_id)
        .where(Repository.namespace_id == account_id)
        .distinct()
    )


def blobs_of(session: Session, repository_id: int) -> Sequence[str]:
    statement = select(CommitFile.blob_sha256).join(Commit, Commit.id == CommitFile.commit_id)
    return session.scalars(statement.where(Commit.repository_id == repository_id).distinct()).all()


# --- proof ------------------------------------------------------------------------------------------------------------


def uncounted(session: Session) -> list[tuple[str, str]]:
    """Namespace and blob that a commit of it has and that is not counted."""
    counted = exists().where(
        NamespaceBlob.account_id == Repository.namespace_id, NamespaceBlob.blob_sha256 == CommitFile.blob_sha256
    )
    statement = (
        select(Repository.namespace, CommitFile.blob_sha256)
        .join(Commit, Commit.repository_id == Repository.id)
        .join(CommitFile, CommitFile.commit_id == Commit.id)
        .where(~counted)
        .distinct()
        .limit(MOST)
    )
    return [(namespace, digest) for namespace, digest in session.execute(statement)]


def counted_for_nothing(session: Session) -> list[tuple[str, str]]:
    """Namespace and blob that is counted and that no commit of it has."""
    is_there = exists().where(
        Repository.namespace_id == NamespaceBlob.account_id,
        Commit.repository_id == Repository.id,
        CommitFile.commit_id == Commit.id,
        CommitFile.blob_sha256 == NamespaceBlob.blob_sha256,
    )
    statement = select(Account.name, NamespaceBlob.blob_sha256).join(Account, Account.id == NamespaceBlob.account_id)
    return [(name, digest) for name, digest in session.execute(statement.where(~is_there).limit(MOST))]


def wrong_sums(session: Session) -> list[tuple[str, int, int]]:
    """Namespace, the bytes recorded, and those that its counted blobs have."""
    actual = (
        select(func.coalesce(func.sum(Blob.size), 0))
        .join(NamespaceBlob, NamespaceBlob.blob_sha256 == Blob.sha256)
        .where(NamespaceBlob.account_id == Account.id)
        .correlate(Account)
        .scalar_subquery()
    )
    statement = select(Account.name, Account.stored_bytes, actual).where(Account.stored_bytes != actual).limit(MOST)
    return [(name, int(recorded), int(found)) for name, recorded, found in session.execute(statement)]
