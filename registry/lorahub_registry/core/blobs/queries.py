"""Rows of blobs and uploads."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorahub.protocol.digests import GitSha1, Sha256
from lorahub.protocol.messages.repositories import BlockedContent
from sqlalchemy import delete, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.paging import pages
from lorahub_registry.infrastructure.database.tables import Blob as BlobRow
from lorahub_registry.infrastructure.database.tables import BlockedDigest as BlockRow
from lorahub_registry.infrastructure.database.tables import CollectionHold as HoldRow
from lorahub_registry.infrastructure.database.tables import CommitFile, MergeOutput
from lorahub_registry.infrastructure.database.tables import Upload as UploadRow

__all__ = ["Blob", "Block", "IntegrityError", "Upload"]


@dataclass(frozen=True, slots=True)
class Blob:
    sha256: Sha256
    size: int
    git_sha1: GitSha1
    storage_key: str
    inspection: dict[str, Any]
    is_damaged: bool = False
    is_blocked: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A digest that nobody may bring or fetch."""

    sha256: Sha256
    reason: str
    by: str
    at: datetime

    def as_message(self) -> BlockedContent:
        return BlockedContent(self.sha256, self.reason, self.by, self.at)


@dataclass(frozen=True, slots=True)
class Upload:
    id: str
    repository_id: int | None
    account_id: int
    declared_sha256: Sha256
    declared_size: int
    blob_sha256: Sha256 | None
    expires_at: datetime


def blob_by_sha256(session: Session, sha256: Sha256, *, lock: bool = False) -> Blob | None:
    """`lock` keeps the row from being collected until the transaction ends (PostgreSQL; SQLite has one writer)."""
    statement = select(BlobRow).where(BlobRow.sha256 == sha256)
    row = session.scalar(statement.with_for_update(read=True, key_share=True) if lock else statement)
    return None if row is None else _blob(row)


def blobs_by_sha256(session: Session, digests: Iterable[Sha256], *, lock: bool = False) -> dict[Sha256, Blob]:
    """`lock` as in `blob_by_sha256`."""
    found: dict[Sha256, Blob] = {}
    for page in pages(digests):
        statement = select(BlobRow).where(BlobRow.sha256.in_(page))
        rows = session.scalars(statement.with_for_update(read=True, key_share=True) if lock else statement)
        found.update((Sha256(row.sha256), _blob(row)) for row in rows)
    return found


def insert_blobs(session: Session, blobs: Iterable[Blob]) -> None:
    """In order of digest, so that two who insert the same wait for each other in the same order."""
    at = now()
    rows = [
        {
            "sha256": blob.sha256,
            "size": blob.size,
            "git_sha1": blob.git_sha1,
            "storage_key": blob.storage_key,
            "inspection": blob.inspection,
            "created_at": at,
            "verified_at": at,
        }
        for blob in sorted(blobs, key=lambda blob: blob.sha256)
    ]
    if rows:
        session.execute(insert(BlobRow), rows)


def new_upload_id() -> str:
    return secrets.token_hex(16)


def insert_upload(
    session: Session,
    *,
    account_id: int,
    repository_id: int | None,
    sha256: Sha256,
    size: int,
    expires_at: datetime,
    blob_sha256: Sha256 | None = None,
) -> Upload:
    row = UploadRow(
        id=new_upload_id(),
        account_id=account_id,
        repository_id=repository_id,
        declared_sha256=sha256,
        declared_size=size,
        blob_sha256=blob_sha256,
        created_at=now(),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return _upload(row)


def insert_uploads(
    session: Session, sizes: Mapping[Sha256, int], *, account_id: int, repository_id: int, expires_at: datetime
) -> dict[Sha256, Upload]:
    """One for each digest, of so many bytes."""
    found = {
        sha256: Upload(new_upload_id(), repository_id, account_id, sha256, size, None, expires_at)
        for sha256, size in sizes.items()
    }
    at = now()
    rows = [
        {
            "id": one.id,
            "account_id": account_id,
            "repository_id": repository_id,
            "declared_sha256": one.declared_sha256,
            "declared_size": one.declared_size,
            "blob_sha256": None,
            "created_at": at,
            "expires_at": expires_at,
        }
        for one in found.values()
    ]
    if rows:
        session.execute(insert(UploadRow), rows)
    return found


def begun(session: Session, digests: Iterable[Sha256], *, account_id: int, repository_id: int) -> set[Sha256]:
    """Those of which the account has an upload here that can be gone on with."""
    found: set[Sha256] = set()
    for page in pages(digests):
        statement = select(UploadRow.declared_sha256).where(
            UploadRow.account_id == account_id,
            UploadRow.repository_id == repository_id,
            UploadRow.declared_sha256.in_(page),
            UploadRow.blob_sha256.is_(None),
        )
        found.update(map(Sha256, session.scalars(statement)))
    return found


def declare_sha256(session: Session, upload_id: str, sha256: Sha256) -> Upload:
    """Of an upload whose content was made while it was written."""
    row = session.get_one(UploadRow, upload_id)
    row.declared_sha256 = sha256
    session.flush()
    return _upload(row)


def upload_by_id(session: Session, upload_id: str) -> Upload | None:
    row = session.get(UploadRow, upload_id)
    return None if row is None else _upload(row)


def open_upload_of(
    session: Session, *, account_id: int, repository_id: int, sha256: Sha256, size: int
) -> Upload | None:
    """The newest upload of these bytes that can be gone on with, as long as it isn't collected."""
    statement = (
        select(UploadRow)
        .where(
            UploadRow.account_id == account_id,
            UploadRow.repository_id == repository_id,
            UploadRow.declared_sha256 == sha256,
            UploadRow.declared_size == size,
            UploadRow.blob_sha256.is_(None),
        )
        .order_by(UploadRow.created_at.desc())
    )
    row = session.scalar(statement.limit(1))
    return None if row is None else _upload(row)


def renew_upload(session: Session, upload_id: str, expires_at: datetime) -> bool:
    """False if the upload is gone, or finished."""
    changed = session.execute(
        update(UploadRow)
        .where(UploadRow.id == upload_id, UploadRow.blob_sha256.is_(None))
        .values(expires_at=expires_at)
        .returning(UploadRow.id)
    )
    return changed.first() is not None


def finish_upload(session: Session, upload_id: str, sha256: Sha256, expires_at: datetime) -> bool:
    """False if the upload is gone: expired and collected."""
    changed = session.execute(
        update(UploadRow)
        .where(UploadRow.id == upload_id)
        .values(blob_sha256=sha256, expires_at=expires_at)
        .returning(UploadRow.id)
    )
    return changed.first() is not None


def insert_leases(session: Session, upload: Upload, sizes: Mapping[Sha256, int], expires_at: datetime) -> None:
    """A lease on each of these blobs, by digest, for whom the upload was."""
    at = now()
    leases = [
        {
            "id": new_upload_id(),
            "account_id": upload.account_id,
            "repository_id": upload.repository_id,
            "declared_sha256": sha256,
            "declared_size": size,
            "blob_sha256": sha256,
            "created_at": at,
            "expires_at": expires_at,
        }
        for sha256, size in sizes.items()
    ]
    session.execute(insert(UploadRow), leases)


def leased(session: Session, *, account_id: int, repository_id: int, digests: Iterable[Sha256]) -> set[Sha256]:
    """Those of these blobs that the account holds a lease on here."""
    found: set[Sha256] = set()
    for page in pages(digests):
        statement = select(UploadRow.blob_sha256).where(
            UploadRow.account_id == account_id,
            UploadRow.repository_id == repository_id,
            UploadRow.blob_sha256.in_(page),
        )
        found.update(Sha256(sha256) for sha256 in session.scalars(statement) if sha256)
    return found


def holds_lease(session: Session, *, account_id: int, repository_id: int, sha256: Sha256) -> bool:
    statement = select(UploadRow.id).where(
        UploadRow.account_id == account_id,
        UploadRow.repository_id == repository_id,
        UploadRow.blob_sha256 == sha256,
    )
    return session.execute(statement.limit(1)).first() is not None


def delete_upload(session: Session, upload_id: str) -> None:
    session.execute(delete(UploadRow).where(UploadRow.id == upload_id))


def delete_uploads(session: Session, ids: Sequence[str]) -> bool:
    """False if one of them is gone: expired and collected."""
    gone = session.execute(delete(UploadRow).where(UploadRow.id.in_(ids)).returning(UploadRow.id)).all()
    return len(gone) == len(ids)


def release_leases(session: Session, *, account_id: int, repository_id: int | None, digests: Sequence[Sha256]) -> None:
    for page in pages(digests):
        session.execute(
            delete(UploadRow).where(
                UploadRow.account_id == account_id,
                UploadRow.repository_id == repository_id,
                UploadRow.blob_sha256.in_(page),
            )
        )


# --- out of circulation -----------------------------------------------------------------------------------------------


def set_damaged(session: Session, sha256: Sha256, at: datetime | None) -> bool:
    """False if nothing changed."""
    is_set = BlobRow.damaged_at.is_not(None)
    changed = session.execute(
        update(BlobRow)
        .where(BlobRow.sha256 == sha256, is_set if at is None else ~is_set)
        .values(damaged_at=at)
        .returning(BlobRow.sha256)
    )
    return changed.first() is not None


def replace_object(session: Session, sha256: Sha256, storage_key: str) -> None:
    """The blob's bytes lie under another key now, sound."""
    values = {"storage_key": storage_key, "damaged_at": None}
    session.execute(update(BlobRow).where(BlobRow.sha256 == sha256).values(**values))


def block_of(session: Session, sha256: Sha256) -> Block | None:
    row = session.get(BlockRow, sha256)
    return None if row is None else Block(Sha256(row.sha256), row.reason, row.by, row.at)


def first_blocked(session: Session, digests: Iterable[Sha256]) -> Sha256 | None:
    for page in pages(digests):
        statement = select(BlockRow.sha256).where(BlockRow.sha256.in_(page)).limit(1)
        if (found := session.scalar(statement)) is not None:
            return Sha256(found)
    return None


def insert_block(session: Session, sha256: Sha256, *, reason: str, by: str) -> Block:
    session.merge(BlockRow(sha256=sha256, reason=reason, by=by, at=now()))
    session.flush()
    found = block_of(session, sha256)
    assert found is not None
    return found


def delete_block(session: Session, sha256: Sha256) -> bool:
    gone = session.execute(delete(BlockRow).where(BlockRow.sha256 == sha256).returning(BlockRow.sha256))
    return gone.first() is not None


def blocks(session: Session) -> list[Block]:
    """Newest first."""
    rows = session.scalars(select(BlockRow).order_by(BlockRow.at.desc(), BlockRow.sha256))
    return [Block(Sha256(row.sha256), row.reason, row.by, row.at) for row in rows]


# --- collection -------------------------------------------------------------------------------------------------------


def expired_uploads(session: Session) -> list[Upload]:
    return [_upload(row) for row in session.scalars(select(UploadRow).where(UploadRow.expires_at <= now()))]


def delete_expired_upload(session: Session, upload_id: str) -> bool:
    gone = session.execute(
        delete(UploadRow).where(UploadRow.id == upload_id, UploadRow.expires_at <= now()).returning(UploadRow.id)
    )
    return gone.first() is not None


def is_held(session: Session) -> bool:
    """Whether collecting has to wait; nobody can begin to hold it before this transaction ends."""
    until = session.scalar(select(HoldRow.until).with_for_update(read=True))
    return until is not None and until > now()


def hold_until(session: Session, until: datetime) -> None:
    """Waits for collectors that looked before. An earlier end than the present one changes nothing."""
    is_later = or_(HoldRow.until.is_(None), HoldRow.until < until)
    session.execute(update(HoldRow).where(is_later).values(until=until))


def release_hold(session: Session, until: datetime) -> None:
    """Unless somebody else has prolonged it."""
    session.execute(update(HoldRow).where(HoldRow.until == until).values(until=None))


def unreferenced_blobs(session: Session, *, created_before: datetime, after: str, limit: int) -> list[Blob]:
    """In order of digest, from behind `after`."""
    statement = (
        select(BlobRow)
        .where(BlobRow.created_at <= created_before, BlobRow.sha256 > after, *_is_unreferenced())
        .order_by(BlobRow.sha256)
        .limit(limit)
    )
    return [_blob(row) for row in session.scalars(statement)]


def delete_blob(session: Session, blob: Blob) -> bool:
    """Only if still nothing refers to it; the foreign keys refuse what this misses."""
    gone = session.execute(
        delete(BlobRow)
        .where(BlobRow.sha256 == blob.sha256, BlobRow.storage_key == blob.storage_key, *_is_unreferenced())
        .returning(BlobRow.sha256)
    )
    return gone.first() is not None


def _is_unreferenced() -> tuple[Any, Any, Any]:
    return (
        ~exists().where(MergeOutput.blob_sha256 == BlobRow.sha256),
        ~exists().where(CommitFile.blob_sha256 == BlobRow.sha256),
        ~exists().where(UploadRow.blob_sha256 == BlobRow.sha256),
    )


def is_known_key(session: Session, storage_key: str, upload_id: str) -> bool:
    """Whether a blob lies under this key, or an upload may still turn what lies there into one."""
    statement = select(
        or_(
            exists().where(BlobRow.storage_key == storage_key),
            exists().where(UploadRow.id == upload_id),
        )
    )
    return bool(session.scalar(statement))


def all_blobs(session: Session, *, after: str, limit: int) -> list[Blob]:
    """In order of digest, from behind `after`."""
    statement = select(BlobRow).where(BlobRow.sha256 > after).order_by(BlobRow.sha256).limit(limit)
    return [_blob(row) for row in session.scalars(statement)]


def _blob(row: BlobRow) -> Blob:
    return Blob(
        sha256=Sha256(row.sha256),
        size=row.size,
        git_sha1=GitSha1(row.git_sha1),
        storage_key=row.storage_key,
        inspection=row.inspection,
        is_damaged=row.damaged_at is not None,
        is_blocked=row.is_blocked,
    )


def _upload(row: UploadRow) -> Upload:
    return Upload(
        id=row.id,
        repository_id=row.repository_id,
        account_id=row.account_id,
        declared_sha256=Sha256(row.declared_sha256),
        declared_size=row.declared_size,
        blob_sha256=None if row.blob_sha256 is None else Sha256(row.blob_sha256),
        expires_at=row.expires_at,
    )
