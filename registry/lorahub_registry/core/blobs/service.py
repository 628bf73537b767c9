"""From received to kept: open an upload → receive → move → verify → record. Bytes first, row last.

Verified is what lies under a key that no client can write to, or could swap the bytes between the check and the move.

Whatever is undone is undone by upload id, never by digest: another upload of the same bytes may have won meanwhile.
"""

import hashlib
import logging
import threading
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import RawIOBase
from typing import Any, BinaryIO, Self, cast

from lorahub.errors import (
    BlobDamaged,
    BlobNotFound,
    BlobVanished,
    ContentBlocked,
    DigestMismatch,
    InvalidConfiguration,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    SizeMismatch,
    Unavailable,
)
from lorahub.protocol.digests import Sha256, sha256_of

from lorahub_registry.core.accounts.permissions import OPERATOR, Principal, require_site_admin
from lorahub_registry.core.audit.service import record
from lorahub_registry.core.blobs import queries
from lorahub_registry.core.blobs.inspection import Inspection, inspect
from lorahub_registry.core.blobs.queries import Blob, Block, Upload
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.quotas.service import Room
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.failpoints import reach
from lorahub_registry.infrastructure.storage import ObjectNotFound
from lorahub_registry.infrastructure.storage.object_keys import BLOBS, Staging, batch_keys, blob_folder, blob_key

logger = logging.getLogger("lorahub")

__all__ = ["Blob", "Block", "Upload"]

MAX_REASON = 2000

UNKNOWN = Sha256("0" * 64)
"""Announced in place of the digest of what is hashed as it comes, or of many files at once."""

_MOST_AT_ONCE, _BYTES_AT_ONCE = 2000, 8 << 20  # of small contents
_TRIES = 5  # a blob that exists when we look and is collected before we lease it; each try has its own bytes at hand


def open_upload(backend: Backend, *, account_id: int, repository_id: int | None, sha256: Sha256, size: int) -> Upload:
    """A place for bytes that are about to come, and room for them. Written before the first of them.

    Raises `ContentBlocked`, `QuotaExceeded`, `DiskFull`.
    """
    with opening(backend, account_id=account_id, repository_id=repository_id, sha256=sha256, size=size) as (_, _, one):
        upload = one
    reach("upload-opened")
    return upload


def open_uploads(
    backend: Backend, sizes: Mapping[Sha256, int], *, account_id: int, repository_id: int
) -> dict[Sha256, Upload]:
    """As `open_upload`, of many at once by their digest. Where one of them is refused, none is opened."""
    until = now() + backend.settings.patience
    with backend.database.write() as session:
        with quotas.upload(session, backend.settings, account_id=account_id, repository_id=repository_id) as room:
            refuse_blocked(session, *sizes)
            found = queries.insert_uploads(
                session, sizes, account_id=account_id, repository_id=repository_id, expires_at=until
            )
            room.take_new({upload.id: upload.declared_size for upload in found.values()}, until=until)
        backend.blobs.require_space(sum(sizes.values()))
    reach("upload-opened")
    return found


@contextmanager
def opening(
    backend: Backend,
    *,
    account_id: int,
    repository_id: int | None,
    sha256: Sha256,
    size: int,
    digests: Iterable[Sha256] = (),
) -> Iterator[tuple[Session, Room, Upload]]:
    """As `open_upload`, with the transaction that opens it and the room that it takes of. `digests`: of all that one
    upload brings.
    """
    until = now() + backend.settings.patience
    with backend.database.write() as session:
        with quotas.upload(session, backend.settings, account_id=account_id, repository_id=repository_id) as room:
            refuse_blocked(session, *digests, *(() if sha256 == UNKNOWN else (sha256,)))
            upload = queries.insert_upload(
                session, account_id=account_id, repository_id=repository_id, sha256=sha256, size=size, expires_at=until
            )
            room.take_new({upload.id: size}, until=until)
            yield session, room, upload
        backend.blobs.require_space(size)  # behind the quota, which the client can do something about


def renew(backend: Backend, upload: Upload) -> Upload:
    """Somebody is about to send its bytes, or sends them: it waits for them anew, and its room is taken again where it
    was given back meanwhile. Nothing is written before half of its time is over.

    Raises `BlobVanished` where it is collected, `QuotaExceeded`.
    """
    patience = backend.settings.patience
    if upload.blob_sha256 is not None or upload.expires_at - now() > patience / 2:
        return upload
    until = now() + patience
    with quotas.room_of(backend, upload) as (session, room):
        if queries.renew_upload(session, upload.id, until):
            room.take(upload.id, upload.declared_size, until=until)
            return replace(upload, expires_at=until)
        finished = queries.upload_by_id(session, upload.id)  # by another request with the same bytes
    if finished is None:
        raise BlobVanished("this upload expired before it was complete", hint="start it again")
    return finished


@contextmanager
def receiving(backend: Backend, upload: Upload, key: str | None = None) -> Iterator[BinaryIO]:
    """What is written here becomes the staged object of this upload, or one of its parts; as long as something is
    written, it doesn't expire. Raises as `renew`, and `DiskFull`.
    """
    with backend.blobs.writer(key or Staging(upload.id).whole) as file:
        yield cast(BinaryIO, _Receiving(backend, upload, file))


class _Receiving(RawIOBase):
    def __init__(self, backend: Backend, upload: Upload, file: BinaryIO) -> None:
        self._backend = backend
        self._upload = upload
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._upload = renew(self._backend, self._upload)
        return self._file.write(piece)


def _renewing(backend: Backend, upload: Upload, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Reading terabytes takes its time too."""
    for piece in pieces:
        upload = renew(backend, upload)
        yield piece


def find_upload(backend: Backend, upload_id: str) -> Upload | None:
    with backend.database.read() as session:
        return queries.upload_by_id(session, upload_id)


def begun(session: Session, digests: Iterable[Sha256], *, account_id: int, repository_id: int) -> set[Sha256]:
    """Those of which the account has an unfinished upload here."""
    return queries.begun(session, digests, account_id=account_id, repository_id=repository_id)


def unfinished_upload(
    backend: Backend, *, account_id: int, repository_id: int, sha256: Sha256, size: int
) -> Upload | None:
    """The newest upload of these bytes by this account that can be gone on with."""
    with backend.database.read() as session:
        return queries.open_upload_of(
            session, account_id=account_id, repository_id=repository_id, sha256=sha256, size=size
        )


def finish_upload(backend: Backend, upload: Upload) -> Blob:
    """Takes what was received out of every client's reach, verifies it there and keeps it. May be repeated.

    Raises `BlobNotFound` where nothing was received; `SizeMismatch`, `DigestMismatch` or `ContentBlocked`, and forgets
    the bytes; `BlobVanished` if the upload expired meanwhile.
    """
    reach("bytes-received")
    upload = renew(backend, upload)
    try:
        key = _out_of_reach(backend, upload)
    except BlobNotFound:
        finished = _finished_meanwhile(backend, upload)
        if finished is None:
            raise
        return finished
    reach("blob-moved")
    return _verify_and_keep(backend, upload, key)


def _verify_and_keep(backend: Backend, upload: Upload, key: str) -> Blob:
    try:
        inspection = verify(backend, key, upload)
    except (SizeMismatch, DigestMismatch):
        finished = _finished_meanwhile(backend, upload)
        if finished is not None:
            return finished
        metrics.UPLOADS.labels("refused").inc()
        forget_upload(backend, upload)
        raise
    reach("bytes-verified")
    try:
        blob = _keep(backend, upload, inspection, key)
    except (ContentBlocked, QuotaExceeded):  # since the upload was opened, or what was known of it then lapsed
        forget_upload(backend, upload)
        raise
    reach("blob-recorded")
    metrics.UPLOADS.labels("kept").inc()
    return blob


def finish_brought(backend: Backend, *, account_id: int, repository_id: int, sha256: Sha256, size: int) -> Blob | None:
    """What a client has sent to the storage itself; None where nothing came. Raises as `finish_upload`."""
    upload = unfinished_upload(backend, account_id=account_id, repository_id=repository_id, sha256=sha256, size=size)
    try:
        return None if upload is None else finish_upload(backend, upload)
    except BlobNotFound:
        return None


def _out_of_reach(backend: Backend, upload: Upload) -> str:
    """The key under which the received bytes lie from now on. Raises `BlobNotFound`."""
    key = blob_key(upload.declared_sha256, upload.id)
    try:
        backend.blobs.move(Staging(upload.id).whole, key)
    except ObjectNotFound:
        moved = _moved(backend, upload)  # by a request that died since, or is busy with them
        if not moved:
            raise BlobNotFound(f"the object {upload.declared_sha256} has not arrived", hint="upload it again") from None
        return moved[0]
    return key


def _moved(backend: Backend, upload: Upload) -> list[str]:
    """Keys of the bytes of this upload, whole, that were taken out of reach."""
    folder = blob_folder(upload.declared_sha256)
    start = f"{folder}{upload.declared_sha256}-"
    keys = [stored.key for stored in backend.blobs.list(folder)]
    return [key for key in keys if key.startswith(start) and key.endswith(f"-{upload.id}")]


def _finished_meanwhile(backend: Backend, upload: Upload) -> Blob | None:
    """The blob of an upload whose bytes were sent twice at once: the other attempt was first, and is left alone."""
    with backend.database.read() as session:
        current = queries.upload_by_id(session, upload.id)
        if current is None or current.blob_sha256 is None:
            return None
        return queries.blob_by_sha256(session, current.blob_sha256)


def verify(backend: Backend, key: str, upload: Upload) -> Inspection:
    """Reads the stored bytes, whatever any client or storage says of them. Raises `SizeMismatch`, `DigestMismatch`."""
    size = backend.blobs.size(key)
    if size != upload.declared_size:
        raise SizeMismatch(f"{size} bytes arrived, {upload.declared_size} were announced", hint="upload the file again")
    inspection = inspect(_renewing(backend, upload, backend.blobs.open_range(key, 0, size)), size=size)
    _require_digest(inspection, upload.declared_sha256)
    return inspection


def _require_digest(inspection: Inspection, announced: Sha256) -> None:
    if inspection.sha256 != announced:
        raise DigestMismatch(
            f"the bytes have the sha256 {inspection.sha256}, announced was {announced}",
            hint="the file changed while it was read, or was damaged on the way: upload it again",
        )


def _keep(backend: Backend, upload: Upload, inspection: Inspection, key: str) -> Blob:
    """Records the verified bytes at `key` as a blob. Where these bytes are known already, theirs is used instead; a
    damaged blob gets these, and its old object has no row any more, so that it is collected.
    """
    new = Blob(inspection.sha256, inspection.size, inspection.git_sha1, key, inspection.findings)
    for _ in range(_TRIES):
        try:
            with quotas.room_of(backend, upload) as (session, room):
                refuse_blocked(session, new.sha256)
                known = queries.blob_by_sha256(session, new.sha256, lock=True)
                if known is None:
                    queries.insert_blobs(session, [new])
                elif known.is_damaged:
                    _heal(session, new)
                kept = new if known is None or known.is_damaged else known
                _lease(backend, session, room, upload, kept)
        except queries.IntegrityError:  # another upload of the same bytes was first
            continue
        if kept.storage_key != key:
            backend.blobs.delete(key)
        return kept
    raise _collected_again()


def _collected_again() -> BlobVanished:
    return BlobVanished("these bytes are being collected again and again", hint="try again in a moment")


def _heal(session: Session, blob: Blob) -> None:
    queries.replace_object(session, blob.sha256, blob.storage_key)
    _record(session, "blob.heal", blob.sha256)


def _lease(backend: Backend, session: Session, room: Room, upload: Upload, blob: Blob) -> None:
    """The room that was taken for the upload is the blob's from now on."""
    until = now() + backend.settings.upload_lifetime
    if not queries.finish_upload(session, upload.id, blob.sha256, until):
        raise _expired()
    room.give_back(upload.id)
    room.keep({blob.sha256: blob.size}, until=until)


def _expired() -> BlobVanished:
    return BlobVanished("this upload expired before it was complete", hint="start it again")


def store_bytes(backend: Backend, content: bytes, *, account_id: int, repository_id: int | None) -> Blob:
    """Small content, made or received here: no client could write to it, so it is written where it stays."""
    upload = open_upload(
        backend,
        account_id=account_id,
        repository_id=repository_id,
        sha256=sha256_of(content),
        size=len(content),
    )
    key = blob_key(upload.declared_sha256, upload.id)
    with backend.blobs.writer(key) as file:
        file.write(content)
    return _verify_and_keep(backend, upload, key)


def store_stream(
    backend: Backend, pieces: Iterator[bytes], *, size: int, account_id: int, repository_id: int | None
) -> Blob:
    """Content of `size` bytes that is made while it is stored. Raises what `pieces` does; then nothing is kept."""
    upload = open_upload(backend, account_id=account_id, repository_id=repository_id, sha256=UNKNOWN, size=size)
    try:
        return receive_pieces(backend, upload, pieces, sha256=None)
    except BaseException:
        forget_upload(backend, upload)
        raise


def receive_pieces(backend: Backend, upload: Upload, pieces: Iterator[bytes], *, sha256: Sha256 | None) -> Blob:
    """Stages and finishes what is made while it is stored; where nobody knows its digest yet, it is hashed meanwhile.

    Raises what `pieces` and `finish_upload` do; then what was staged is the caller's to forget.
    """
    digest = hashlib.sha256()
    with receiving(backend, upload) as file:
        for piece in pieces:
            if sha256 is None:
                digest.update(piece)
            file.write(piece)
    if sha256 is None:
        with backend.database.write() as session:
            upload = queries.declare_sha256(session, upload.id, Sha256(digest.hexdigest()))
    return finish_upload(backend, upload)


def finish_parts(backend: Backend, upload: Upload, parts: list[str], sha256: Sha256) -> Blob:
    """Joins what was staged in parts, by their keys in order, and finishes it as what it was found to be while it came.

    May be repeated. Raises as `finish_upload`.
    """
    if upload.declared_sha256 == UNKNOWN:
        with backend.database.write() as session:
            upload = queries.declare_sha256(session, upload.id, sha256)
    backend.blobs.join(parts, Staging(upload.id).whole)
    return finish_upload(backend, upload)


# --- many small ones --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """Small contents that are stored and verified, and no blobs yet: one upload keeps them until they are adopted, or
    until it is given up.
    """

    upload: Upload
    blobs: list[Blob]


def store_all(
    backend: Backend, contents: Iterable[tuple[Sha256, bytes]], *, account_id: int, repository_id: int | None
) -> None:
    """As `store_bytes`, of small contents by their digests, as many at a time as memory may hold."""
    for stored in stage_all(backend, contents, account_id=account_id, repository_id=repository_id):
        try:
            _keep_all(backend, stored)
        except (ContentBlocked, QuotaExceeded):  # since it was asked
            give_up(backend, stored)
            raise
        metrics.UPLOADS.labels("kept").inc(len(stored.blobs))


def stage_all(
    backend: Backend, contents: Iterable[tuple[Sha256, bytes]], *, account_id: int, repository_id: int | None
) -> Iterator[Stored]:
    """Stores and verifies small contents, as many at a time as memory may hold: each time one upload, one wait for the
    storage. Whoever takes one adopts it, or gives it up.

    Raises `ContentBlocked`, `QuotaExceeded`, `DiskFull`.
    """
    for batch in _batches(contents):
        size = sum(map(len, batch.values()))
        with opening(
            backend, account_id=account_id, repository_id=repository_id, sha256=UNKNOWN, size=size, digests=batch
        ) as (_, _, opened):
            upload = opened
        reach("upload-opened")
        keys = batch_keys(batch, upload.id)
        try:
            backend.blobs.write_all({keys[sha256]: content for sha256, content in batch.items()})
            reach("files-stored")
            blobs = _verify_all(backend, {keys[sha256]: (sha256, len(content)) for sha256, content in batch.items()})
        except BaseException:
            give_up(backend, Stored(upload, []))
            raise
        reach("files-verified")
        yield Stored(upload, blobs)


def _batches(contents: Iterable[tuple[Sha256, bytes]]) -> Iterator[dict[Sha256, bytes]]:
    batch, size = dict[Sha256, bytes](), 0
    for sha256, content in contents:
        if batch and (len(batch) == _MOST_AT_ONCE or size + len(content) > _BYTES_AT_ONCE):
            yield batch
            batch, size = {}, 0
        batch[sha256] = content
        size += len(content)
    if batch:
        yield batch


def _verify_all(backend: Backend, announced: Mapping[str, tuple[Sha256, int]]) -> list[Blob]:
    """Reads what is stored under each key, as `verify` does. Raises `DigestMismatch`."""
    blobs = []
    try:
        stored = backend.blobs.read_all({key: size for key, (_, size) in announced.items()})
        for (key, (sha256, _)), content in zip(announced.items(), stored, strict=True):
            found = inspect([content], size=len(content))
            _require_digest(found, sha256)
            blobs.append(Blob(sha256, found.size, found.git_sha1, key, found.findings))
    except ObjectNotFound as error:
        raise Unavailable("the registry's storage lost what was just written", hint="try again in a moment") from error
    return blobs


def _keep_all(backend: Backend, stored: Stored) -> None:
    """Makes blobs of it, and leases them all."""
    sizes = {blob.sha256: blob.size for blob in stored.blobs}
    for _ in range(_TRIES):
        until = now() + backend.settings.upload_lifetime
        try:
            with quotas.room_of(backend, stored.upload) as (session, room):
                needless = adopt(session, [stored], known=sizes)
                queries.insert_leases(session, stored.upload, sizes, until)
                room.give_back(stored.upload.id)
                room.keep(sizes, until=until)
        except queries.IntegrityError:  # another upload of some of these bytes was first
            continue
        reach("files-recorded")
        backend.blobs.delete_all(needless)
        return
    raise _collected_again()


def adopt(session: Session, stored: Collection[Stored], *, known: Container[Sha256]) -> list[str]:
    """Makes blobs of it, in a transaction that refers to them: their uploads are over. `known` are those that had a
    blob when somebody looked. The keys of objects that nobody needs: their bytes lie under another key.

    Raises `ContentBlocked`; `BlobVanished` where an upload has expired; `IntegrityError` where another upload of some
    of these bytes was first.
    """
    if not stored:
        return []
    new = {blob.sha256: blob for one in stored for blob in one.blobs}
    refuse_blocked(session, *new)
    here = queries.blobs_by_sha256(session, (sha256 for sha256 in new if sha256 in known), lock=True)
    queries.insert_blobs(session, (blob for sha256, blob in new.items() if sha256 not in here))
    for sha256 in (sha256 for sha256, blob in here.items() if blob.is_damaged):
        _heal(session, new[sha256])
    if not queries.delete_uploads(session, [one.upload.id for one in stored]):
        raise _expired()
    return [new[sha256].storage_key for sha256, blob in here.items() if not blob.is_damaged]


def give_up(backend: Backend, stored: Stored) -> None:
    """Whatever was stored has no row from now on: it is the collector's."""
    with quotas.room_of(backend, stored.upload) as (session, room):
        room.give_back(stored.upload.id)
        queries.delete_upload(session, stored.upload.id)


# --- undoing ----------------------------------------------------------------------------------------------------------


def forget_upload(backend: Backend, upload: Upload) -> None:
    """Row first, bytes second: what a crash leaves between the two has no row, so the collector knows it as garbage."""
    with quotas.room_of(backend, upload) as (session, room):
        room.give_back(upload.id)
        queries.delete_upload(session, upload.id)
    delete_staged(backend, upload.id)
    for key in _moved(backend, upload):
        if not is_known_object(backend, key):
            backend.blobs.delete(key)


def delete_staged(backend: Backend, upload_id: str) -> None:
    for stored in list(backend.blobs.list(Staging(upload_id).prefix)):
        backend.blobs.delete(stored.key)


def open_blob(backend: Backend, blob: Blob, start: int, stop: int, *, path: str | None = None) -> Iterator[bytes]:
    """The bytes `[start, stop)`, every one: where some are lost, `BlobDamaged` comes before the first piece or behind
    the last. `path` is what the file is called where it is read. Raises as `require_servable`.
    """
    require_servable(blob, path)
    try:
        pieces = backend.blobs.open_range(blob.storage_key, start, stop)
    except ObjectNotFound:
        raise _damaged(blob, path, "are lost") from None
    return _whole(pieces, blob, stop - start, path)


def _whole(pieces: Iterator[bytes], blob: Blob, size: int, path: str | None) -> Iterator[bytes]:
    for piece in pieces:
        size -= len(piece)
        yield piece
    if size > 0:
        raise _damaged(blob, path, f"end {size} bytes too early")


def read_range(backend: Backend, blob: Blob, start: int, stop: int, *, path: str | None = None) -> bytes:
    return b"".join(open_blob(backend, blob, start, stop, path=path))


def read_blob(backend: Backend, blob: Blob, *, limit: int, path: str | None = None) -> bytes:
    """At most the first `limit` bytes. Raises as `open_blob`."""
    return read_range(backend, blob, 0, min(blob.size, limit), path=path)


# --- out of circulation -----------------------------------------------------------------------------------------------


def require_servable(blob: Blob, path: str | None = None) -> None:
    """Stands before every way out of the storage. Raises `ContentBlocked`, `BlobDamaged`."""
    if blob.is_blocked:
        raise _blocked(blob.sha256)
    if blob.is_damaged:
        raise _damaged(blob, path, "are damaged")


def _damaged(blob: Blob, path: str | None, how: str) -> BlobDamaged:
    return BlobDamaged(
        f"the stored bytes of {path or blob.sha256} {how}; they are not served",
        hint="push the file again from a good copy: that heals every revision that has it",
        sha256=blob.sha256,
        **({"path": path} if path else {}),
    )


def refuse_blocked(session: Session, *digests: Sha256) -> None:
    """Raises `ContentBlocked`."""
    if (sha256 := queries.first_blocked(session, digests)) is not None:
        raise _blocked(sha256)


def _blocked(sha256: Sha256) -> ContentBlocked:
    return ContentBlocked(
        f"the bytes with the sha256 {sha256} were blocked by an administrator of this registry",
        hint="ask the registry's administrators",
        sha256=sha256,
    )


def block(backend: Backend, principal: Principal, sha256: Sha256, reason: str) -> Block:
    """From now on nobody brings these bytes and nobody gets them. Raises `NotPermitted`, `InvalidInput`."""
    require_site_admin(principal)
    if not reason.strip() or len(reason) > MAX_REASON:
        raise InvalidInput(f"a block needs a reason of 1 to {MAX_REASON} characters")
    with backend.database.write() as session:
        blocked = queries.insert_block(session, sha256, reason=reason, by=principal.name)
        _record(session, "blob.block", sha256, by=principal, reason=reason)
        return blocked


def unblock(backend: Backend, principal: Principal, sha256: Sha256) -> None:
    """Raises `NotPermitted`, `NotFound` where it isn't blocked."""
    require_site_admin(principal)
    with backend.database.write() as session:
        if not queries.delete_block(session, sha256):
            raise NotFound(f"the sha256 {sha256} is not blocked")
        _record(session, "blob.unblock", sha256, by=principal)


def blocks(backend: Backend, principal: Principal) -> list[Block]:
    """Newest first. Raises `NotPermitted`."""
    require_site_admin(principal)
    with backend.database.read() as session:
        return queries.blocks(session)


def set_damaged(backend: Backend, sha256: Sha256, *, is_damaged: bool) -> None:
    """What a reading of the stored bytes found. Nothing happens where it is known."""
    with backend.database.write() as session:
        is_new = queries.set_damaged(session, sha256, now() if is_damaged else None)
        if is_new:
            _record(session, "blob.damaged" if is_damaged else "blob.sound", sha256)
    if is_new and is_damaged:
        logger.error("stored bytes are damaged, and not served any more", extra={"facts": {"sha256": sha256}})
    elif is_new:
        logger.warning("stored bytes that were damaged are sound again", extra={"facts": {"sha256": sha256}})


def _record(session: Session, action: str, sha256: Sha256, *, by: Principal = OPERATOR, **details: object) -> None:
    record(session, actor=by.name, token_id=by.token_id, action=action, subject=f"sha256:{sha256}", **details)


# --- inside somebody's transaction ------------------------------------------------------------------------------------


def lease_known(backend: Backend, session: Session, *, account_id: int, repository_id: int | None, blob: Blob) -> None:
    """Keeps a blob that its account need not send again from being collected before the commit that names it.

    The caller has made sure that this account may read these bytes. Raises `BlobVanished`, `ContentBlocked`,
    `QuotaExceeded`.
    """
    until = now() + backend.settings.upload_lifetime
    with quotas.upload(session, backend.settings, account_id=account_id, repository_id=repository_id) as room:
        refuse_blocked(session, blob.sha256)
        if queries.blob_by_sha256(session, blob.sha256, lock=True) is None:
            raise BlobVanished("these bytes were just collected", hint="send them again")
        queries.insert_upload(
            session,
            account_id=account_id,
            repository_id=repository_id,
            sha256=blob.sha256,
            size=blob.size,
            blob_sha256=blob.sha256,
            expires_at=until,
        )
        room.keep({blob.sha256: blob.size}, until=until)


def leased(session: Session, *, account_id: int, repository_id: int, digests: Iterable[Sha256]) -> set[Sha256]:
    """Those of these bytes that this account has brought into this repository."""
    return queries.leased(session, account_id=account_id, repository_id=repository_id, digests=digests)


def known_blobs(session: Session, digests: list[Sha256]) -> dict[Sha256, Blob]:
    return queries.blobs_by_sha256(session, digests)


def holds_lease(session: Session, *, account_id: int, repository_id: int, sha256: Sha256) -> bool:
    """Whether this account has brought these very bytes into this repository."""
    return queries.holds_lease(session, account_id=account_id, repository_id=repository_id, sha256=sha256)


def release_leases(session: Session, *, account_id: int, repository_id: int | None, digests: list[Sha256]) -> None:
    """Once a commit refers to the blobs, the leases are spent."""
    queries.release_leases(session, account_id=account_id, repository_id=repository_id, digests=digests)


# --- collection -------------------------------------------------------------------------------------------------------


def expired_uploads(backend: Backend) -> list[Upload]:
    """Those whose time is over."""
    with backend.database.read() as session:
        return queries.expired_uploads(session)


def unreferenced_blobs(backend: Backend, *, created_before: datetime) -> Iterator[Blob]:
    """As of when each page of them is read: `collect_blob` looks again."""
    after = ""
    while page := _unreferenced_page(backend, created_before, after):
        yield from page
        after = page[-1].sha256


def _unreferenced_page(backend: Backend, created_before: datetime, after: str) -> list[Blob]:
    with backend.database.read() as session:
        return queries.unreferenced_blobs(session, created_before=created_before, after=after, limit=500)


def collect_upload(backend: Backend, upload: Upload) -> bool:
    """Forgets an upload whose time is over, unless it was renewed or finished meanwhile, or bytes come that the
    registry doesn't see: they are sent to the storage itself. Whether it is gone.
    """
    if upload.blob_sha256 is None and _is_arriving(backend, upload):
        with suppress(QuotaExceeded, BlobVanished):  # without room, or already gone
            renew(backend, upload)
            return False
    with backend.database.write() as session:
        is_gone = queries.delete_expired_upload(session, upload.id)
    if is_gone:
        delete_staged(backend, upload.id)
    return is_gone


def _is_arriving(backend: Backend, upload: Upload) -> bool:
    last = backend.blobs.last_arrival(Staging(upload.id).prefix)
    return last is not None and now() - last < backend.settings.patience


class Hold:
    """Keeps every blob where it is while the block runs. Ends by itself if nobody renews it: its holder was killed."""

    LIFETIME = timedelta(minutes=15)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._until = now()
        self._renewing = threading.Lock()

    def __enter__(self) -> Self:
        self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        with self._backend.database.write() as session:
            queries.release_hold(session, self._until)

    def renew(self) -> None:
        """To be called again and again; writes only where half of its life is over."""
        with self._renewing:
            if self._until - now() < self.LIFETIME / 2:
                self._until = now() + self.LIFETIME
                with self._backend.database.write() as session:
                    queries.hold_until(session, self._until)


def collect_blob(backend: Backend, blob: Blob) -> bool:
    """Row first, under the foreign keys; then the object.

    False if something came to refer to it meanwhile, or collection is held.
    """
    try:
        with backend.database.write() as session:
            is_gone = not queries.is_held(session) and queries.delete_blob(session, blob)
    except queries.IntegrityError:
        return False
    if is_gone:
        backend.blobs.delete(blob.storage_key)
    return is_gone


def is_known_object(backend: Backend, key: str) -> bool:
    """Whether a blob lies under this storage key, or an upload may still make one of what lies there."""
    upload_id = key.split("/")[1] if key.startswith("staging/") else key.rpartition("-")[2]
    with backend.database.read() as session:
        return queries.is_known_key(session, key, upload_id)


def all_blobs(backend: Backend, *, page_size: int) -> Iterator[Blob]:
    after = ""
    while page := _blob_page(backend, after, page_size):
        yield from page
        after = page[-1].sha256


def _blob_page(backend: Backend, after: str, limit: int) -> list[Blob]:
    with backend.database.read() as session:
        return queries.all_blobs(session, after=after, limit=limit)


def require_its_storage(backend: Backend) -> None:
    """Raises `InvalidConfiguration` where the database knows of bytes and the storage holds none: it is another one, or
    its disk isn't mounted. What can't be asked now isn't decided here.
    """
    with suppress(Unavailable):
        is_empty = next(backend.blobs.list(BLOBS), None) is None
        if is_empty and _blob_page(backend, "", 1):
            raise InvalidConfiguration(
                "the storage is empty, and the database knows of bytes in it",
                hint="is it the right one (LORAHUB_STORAGE), and is its disk mounted? admin restore fills a new one",
            )


def find_blob(backend: Backend, sha256: Sha256) -> Blob | None:
    with backend.database.read() as session:
        return queries.blob_by_sha256(session, sha256)


def still_there(backend: Backend, blob: Blob) -> bool:
    found = find_blob(backend, blob.sha256)
    return found is not None and found.storage_key == blob.storage_key
