"""Rows of repositories, retired names, access requests and likes."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lorahub.protocol.names import RepositoryName
from sqlalchemy import case, delete, func, select, update

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.listed import is_listed
from lorahub_registry.infrastructure.database.tables import AccessRequest as AccessRequestRow
from lorahub_registry.infrastructure.database.tables import (
    Account,
    Blob,
    CatalogEntry,
    Commit,
    CommitFile,
    Like,
    RetiredName,
)
from lorahub_registry.infrastructure.database.tables import Repository as RepositoryRow


@dataclass(frozen=True, slots=True)
class Quarantine:
    reason: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Repository:
    id: int
    public_id: str
    namespace_id: int
    namespace: str
    name: str
    is_private: bool
    gated: str | None
    created_at: datetime
    updated_at: datetime
    next_version: int
    downloads: int
    likes: int
    quarantine: Quarantine | None
    trending: float
    upstream: str | None = None
    """Whose it is, where it is another hub's; None: this registry's own."""
    is_kept: bool = False
    """Of an upstream: whether an administrator keeps its files here."""

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class AccessRequest:
    id: str
    user: str
    fullname: str
    email: str | None
    status: str
    rejection_reason: str | None
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class Liker:
    user: str
    fullname: str
    at: datetime


def repository_by_key(session: Session, key: str) -> Repository | None:
    row = session.scalar(select(RepositoryRow).where(RepositoryRow.name_key == key))
    return None if row is None else to_repository(row)


def repository_by_id(session: Session, repository_id: int) -> Repository | None:
    row = session.get(RepositoryRow, repository_id)
    return None if row is None else to_repository(row)


def repository_by_public_id(session: Session, public_id: str) -> Repository | None:
    row = session.scalar(select(RepositoryRow).where(RepositoryRow.public_id == public_id))
    return None if row is None else to_repository(row)


def repositories_by_id(session: Session, ids: Sequence[int]) -> list[Repository]:
    return [to_repository(row) for row in session.scalars(select(RepositoryRow).where(RepositoryRow.id.in_(ids)))]


def quarantined(session: Session) -> list[Repository]:
    """Oldest quarantine first."""
    statement = select(RepositoryRow).where(RepositoryRow.quarantined_at.is_not(None))
    return [to_repository(row) for row in session.scalars(statement.order_by(RepositoryRow.quarantined_at))]


def repositories_in(session: Session, namespace_id: int, *, after: int, limit: int) -> list[Repository]:
    """In order of id, from behind `after`."""
    statement = select(RepositoryRow).where(RepositoryRow.namespace_id == namespace_id, RepositoryRow.id > after)
    return [to_repository(row) for row in session.scalars(statement.order_by(RepositoryRow.id).limit(limit))]


def stored_bytes(session: Session, repository_id: int) -> int:
    """Bytes of the distinct blobs that the repository's commits refer to."""
    digests = (
        select(CommitFile.blob_sha256)
        .join(Commit, Commit.id == CommitFile.commit_id)
        .where(Commit.repository_id == repository_id)
        .distinct()
    )
    statement = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.sha256.in_(digests))
    return int(session.execute(statement).scalar_one())


def insert_repository(
    session: Session,
    name: RepositoryName,
    *,
    key: str,
    namespace_id: int,
    is_private: bool,
    public_id: str | None = None,
    upstream: str | None = None,
) -> Repository:
    at = now()
    row = RepositoryRow(
        public_id=public_id or secrets.token_hex(12),
        namespace_id=namespace_id,
        namespace=name.namespace,
        name=name.name,
        name_key=key,
        is_private=is_private,
        created_at=at,
        updated_at=at,
        next_version=1,
        downloads=0,
        likes=0,
        trending=0,
        upstream=upstream,
    )
    session.add(row)
    session.flush()
    session.add(CatalogEntry(repository_id=row.id, name=str(name).lower(), terms=[]))
    return to_repository(row)


def rename_repository(
    session: Session, repository_id: int, name: RepositoryName, *, key: str, namespace_id: int
) -> None:
    session.execute(
        update(RepositoryRow)
        .where(RepositoryRow.id == repository_id)
        .values(
            namespace_id=namespace_id,
            namespace=name.namespace,
            name=name.name,
            name_key=key,
            updated_at=now(),
        )
    )
    session.execute(
        update(CatalogEntry).where(CatalogEntry.repository_id == repository_id).values(name=str(name).lower())
    )


def change_repository(session: Session, repository_id: int, **columns: object) -> None:
    session.execute(update(RepositoryRow).where(RepositoryRow.id == repository_id).values(**columns))


def take_version_number(session: Session, repository_id: int, *, at_least: int = 0) -> int:
    """The next number, or `at_least` if that is higher; numbers below it are spent."""
    next_one = case((RepositoryRow.next_version < at_least, at_least), else_=RepositoryRow.next_version)
    statement = update(RepositoryRow).where(RepositoryRow.id == repository_id).values(next_version=next_one + 1)
    return session.execute(statement.returning(RepositoryRow.next_version)).scalar_one() - 1


def spend_version_number(session: Session, repository_id: int, number: int) -> None:
    session.execute(
        update(RepositoryRow)
        .where(RepositoryRow.id == repository_id, RepositoryRow.next_version <= number)
        .values(next_version=number + 1)
    )


def delete_repository(session: Session, repository_id: int) -> None:
    session.execute(delete(RepositoryRow).where(RepositoryRow.id == repository_id))


# --- names that were given up -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retired:
    name: str
    repository_id: int | None


def retired_name(session: Session, key: str) -> Retired | None:
    row = session.get(RetiredName, key)
    return None if row is None else Retired(row.name, row.repository_id)


def retire_name(session: Session, key: str, name: str, *, repository_id: int | None) -> None:
    session.merge(RetiredName(name_key=key, name=name, repository_id=repository_id, retired_at=now()))


def give_name_back(session: Session, key: str) -> None:
    session.execute(delete(RetiredName).where(RetiredName.name_key == key))


# --- gated access -----------------------------------------------------------------------------------------------------


def access_status(session: Session, repository_id: int, user_id: int) -> str | None:
    statement = select(AccessRequestRow.status).where(
        AccessRequestRow.repository_id == repository_id, AccessRequestRow.user_id == user_id
    )
    return session.scalar(statement)


def set_access(session: Session, repository_id: int, user_id: int, *, status: str, reason: str | None = None) -> None:
    statement = select(AccessRequestRow).where(
        AccessRequestRow.repository_id == repository_id, AccessRequestRow.user_id == user_id
    )
    row = session.scalar(statement)
    if row is None:
        row = AccessRequestRow(
            id=secrets.token_hex(12),
            repository_id=repository_id,
            user_id=user_id,
            requested_at=now(),
            status=status,
        )
        session.add(row)
    row.status, row.rejection_reason = status, reason
    session.flush()


def access_requests(session: Session, repository_id: int, status: str) -> list[AccessRequest]:
    statement = (
        select(AccessRequestRow, Account)
        .join(Account, Account.id == AccessRequestRow.user_id)
        .where(AccessRequestRow.repository_id == repository_id, AccessRequestRow.status == status)
        .order_by(AccessRequestRow.requested_at)
    )
    return [
        AccessRequest(row.id, user.name, user.fullname, user.email, row.status, row.rejection_reason, row.requested_at)
        for row, user in session.execute(statement)
    ]


def user_of_request(session: Session, repository_id: int, request_id: str) -> str | None:
    statement = (
        select(Account.name)
        .join(AccessRequestRow, AccessRequestRow.user_id == Account.id)
        .where(AccessRequestRow.id == request_id, AccessRequestRow.repository_id == repository_id)
    )
    return session.scalar(statement)


# --- likes ------------------------------------------------------------------------------------------------------------


def set_like(session: Session, repository_id: int, user_id: int, *, liked: bool) -> None:
    if liked:
        session.merge(Like(repository_id=repository_id, user_id=user_id, created_at=now()))
        session.flush()
    else:
        session.execute(delete(Like).where(Like.repository_id == repository_id, Like.user_id == user_id))
    count = select(func.count()).select_from(Like).where(Like.repository_id == repository_id).scalar_subquery()
    session.execute(update(RepositoryRow).where(RepositoryRow.id == repository_id).values(likes=count))


def likers(session: Session, repository_id: int) -> list[Liker]:
    statement = (
        select(Account, Like.created_at)
        .join(Like, Like.user_id == Account.id)
        .where(Like.repository_id == repository_id)
        .order_by(Like.created_at)
    )
    return [Liker(account.name, account.fullname, at) for account, at in session.execute(statement)]


def liked_by(
    session: Session, user_id: int, *, visible_namespaces: Sequence[int] | None
) -> list[tuple[Repository, datetime]]:
    """Newest first; private ones only in `visible_namespaces` (None: all)."""
    statement = select(RepositoryRow, Like.created_at).join(Like, Like.repository_id == RepositoryRow.id)
    statement = statement.where(Like.user_id == user_id, is_listed(visible_namespaces))
    found = session.execute(statement.order_by(Like.created_at.desc()))
    return [(to_repository(row), at) for row, at in found]


def to_repository(row: RepositoryRow) -> Repository:
    return Repository(
        id=row.id,
        public_id=row.public_id,
        namespace_id=row.namespace_id,
        namespace=row.namespace,
        name=row.name,
        is_private=row.is_private,
        gated=row.gated,
        created_at=row.created_at,
        updated_at=row.updated_at,
        next_version=row.next_version,
        downloads=row.downloads,
        likes=row.likes,
        quarantine=_quarantine(row),
        trending=row.trending,
        upstream=row.upstream,
        is_kept=row.kept_at is not None,
    )


def _quarantine(row: RepositoryRow) -> Quarantine | None:
    if row.quarantined_at is None:
        return None
    return Quarantine(row.quarantine_reason or "", row.quarantined_by or "", row.quarantined_at)
