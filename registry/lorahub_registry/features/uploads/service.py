"""Bringing bytes in, by Git-LFS or by Xet. Both end in `blobs.finish_upload`: received bytes are verified, then moved.

"It is here already" is told only to a principal who may read these bytes, and then leased to him, so that a collection
between this answer and the commit can't take them away.
"""

import math
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO

from lorahub.errors import (
    BlobNotFound,
    InvalidDigest,
    InvalidInput,
    InvalidToken,
    MalformedBody,
    NotFound,
    PayloadTooLarge,
    Refusal,
    SizeMismatch,
)
from lorahub.protocol.digests import Sha256, parse_sha256
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.permissions import Action, Principal
from lorahub_registry.core.blobs import service as blobs
from lorahub_registry.core.blobs.service import Blob, Upload
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.quotas.service import Room
from lorahub_registry.core.repositories.service import Repository, may_read_any, permitted
from lorahub_registry.core.revisions.service import digests_in, repositories_with_blob
from lorahub_registry.features.uploads import queries
from lorahub_registry.features.uploads.shards import ShardFile, hash_text, read_files
from lorahub_registry.features.uploads.unpacking import Unpacking
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.storage.object_keys import Staging, xorb_key

MAX_BATCH = 1000
MAX_PARTS = 1000
MAX_XORBS = 1 << 15
"""That one shard may use: two TiB of chunks."""
FREE_WORK_BYTES = 16 << 20
"""What a Xet session may unpack to, however little it sent: small files that are mostly zeros."""
_SHARERS = 200  # repositories asked about before "you may not read these bytes anywhere"
_LFS, _XET = "lfs-upload", "xet-upload"
_HASH = re.compile(r"[0-9a-f]{64}")
_SESSION = re.compile(r"n-[0-9a-f]{32}")


# --- Git-LFS: the batch -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object that a client wants to upload."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where one object goes. Nothing to do where `credential` is None: the bytes are here, and leased to the caller."""

    wanted: Wanted
    credential: str | None = None
    part_sizes: tuple[int, ...] = ()
    """Bytes of each part; empty for an upload in one piece."""
    parts_here: tuple[int, ...] = ()
    """Numbers of the parts that an earlier, unfinished upload has left."""
    addresses: tuple[str, ...] = ()
    """Where the storage itself takes the whole, or each part; empty where the registry takes them."""
    refusal: Refusal | None = None


def open_batch(
    backend: Backend, principal: Principal, name: RepositoryName, wanted: list[Wanted], *, takes_parts: bool
) -> list[Target]:
    """A target for each object. Raises as `permitted`; what is wrong with one object is in its `refusal`."""
    if len(wanted) > MAX_BATCH:
        raise PayloadTooLarge(f"{len(wanted)} objects in one batch; at most {MAX_BATCH}")
    with backend.database.read() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        sizes = _sizes(backend, wanted)
        here = frozenset(blobs.known_blobs(session, list(sizes)))
        whose = {"account_id": principal.require_account(), "repository_id": repository.id}
        begun = blobs.begun(session, sizes, **whose)
    new = {sha256: size for sha256, size in sizes.items() if sha256 not in here and sha256 not in begun}
    opened = _open_together(backend, new, **whose)
    return [_target(backend, principal, repository, one, here, opened, takes_parts=takes_parts) for one in wanted]


def _sizes(backend: Backend, wanted: list[Wanted]) -> dict[Sha256, int]:
    """By digest, of those that can be taken."""
    found: dict[Sha256, int] = {}
    for one in wanted:
        with suppress(InvalidDigest, PayloadTooLarge):
            _require_size(backend, one.size)
            found[parse_sha256(one.sha256)] = one.size
    return found


def _open_together(
    backend: Backend, sizes: dict[Sha256, int], *, account_id: int, repository_id: int
) -> dict[Sha256, Upload]:
    """None where one of them is refused: each is then opened, or told why not, by itself."""
    try:
        return blobs.open_uploads(backend, sizes, account_id=account_id, repository_id=repository_id) if sizes else {}
    except Refusal:
        return {}


def _target(
    backend: Backend,
    principal: Principal,
    repository: Repository,
    wanted: Wanted,
    here: frozenset[Sha256],
    opened: Mapping[Sha256, Upload],
    *,
    takes_parts: bool,
) -> Target:
    """`here` are the blobs that were here when the batch was asked for, `opened` the uploads that it has opened."""
    try:
        sha256 = parse_sha256(wanted.sha256)
        _require_size(backend, wanted.size)
        if sha256 in here and _lease_if_known(backend, principal, repository, sha256, wanted.size):
            return Target(wanted)
        upload = opened.get(sha256)
        if upload is None or upload.declared_size != wanted.size:
            upload = _resume_or_open(backend, principal.require_account(), repository, sha256, wanted.size)
    except Refusal as error:
        return Target(wanted, refusal=error)
    part_sizes = _part_sizes(backend, wanted.size) if takes_parts else ()
    return Target(
        wanted,
        credential=backend.signer.sign(_LFS, {"upload": upload.id}),
        part_sizes=part_sizes,
        parts_here=_parts_here(backend, upload, part_sizes),
        addresses=_addresses(backend, upload, part_sizes),
    )


def _addresses(backend: Backend, upload: Upload, part_sizes: tuple[int, ...]) -> tuple[str, ...]:
    storage, key, lifetime = backend.blobs.addresses, Staging(upload.id).whole, backend.settings.url_lifetime
    if storage is None:
        return ()
    if part_sizes:
        return storage.to_write_parts(key, sizes=part_sizes, lifetime=lifetime)
    if upload.declared_size > storage.largest_whole_bytes:
        return ()
    return (storage.to_write(key, size=upload.declared_size, lifetime=lifetime),)


def _require_size(backend: Backend, size: int) -> None:
    if not 0 < size <= backend.settings.object_bytes:
        raise PayloadTooLarge(f"an object of {size} bytes; between 1 and {backend.settings.object_bytes} are taken")


def _lease_if_known(backend: Backend, principal: Principal, repository: Repository, sha256: Sha256, size: int) -> bool:
    """Whether the principal need not send these bytes. Raises `SizeMismatch` for a wrong size of readable ones."""
    account_id = principal.require_account()
    with backend.database.write() as session:
        blob = blobs.known_blobs(session, [sha256]).get(sha256)
        if blob is None or blob.is_damaged or not _may_use(session, principal, repository, sha256):
            return False
        if blob.size != size:
            raise SizeMismatch(f"the object {sha256} has {blob.size} bytes, announced were {size}")
        blobs.lease_known(backend, session, account_id=account_id, repository_id=repository.id, blob=blob)
        return True


def _may_use(session: Session, principal: Principal, repository: Repository, sha256: Sha256) -> bool:
    account_id = principal.require_account()
    if blobs.holds_lease(session, account_id=account_id, repository_id=repository.id, sha256=sha256):
        return True
    return may_read_any(session, principal, repositories_with_blob(session, sha256, limit=_SHARERS))


def _resume_or_open(backend: Backend, account_id: int, repository: Repository, sha256: Sha256, size: int) -> Upload:
    which: dict[str, Any] = {
        "account_id": account_id, "repository_id": repository.id, "sha256": sha256, "size": size
    }  # fmt: skip
    unfinished = blobs.unfinished_upload(backend, **which)
    return blobs.renew(backend, unfinished) if unfinished else blobs.open_upload(backend, **which)


def _part_sizes(backend: Backend, size: int) -> tuple[int, ...]:
    if size <= backend.settings.multipart_threshold_bytes:
        return ()
    storage = backend.blobs.addresses
    smallest = storage.smallest_part_bytes if storage else 1
    part = max(backend.settings.part_bytes, smallest, math.ceil(size / MAX_PARTS))
    whole, rest = divmod(size, part)
    return (part,) * whole + ((rest,) if rest else ())


def _parts_here(backend: Backend, upload: Upload, part_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of the parts that have arrived as a whole."""
    if not part_sizes:
        return ()
    staging, storage = Staging(upload.id), backend.blobs.addresses
    found = storage.parts(staging.whole) or {} if storage else None
    return tuple(
        number
        for number, size in enumerate(part_sizes, start=1)
        if (found.get(number) if found is not None else backend.blobs.size(staging.part(number))) == size
    )


# --- Git-LFS: the bytes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a body that is about to arrive goes, and how long it must be."""

    upload: Upload
    key: str
    size: int


def slot_for_whole(backend: Backend, credential: str) -> Slot | None:
    """None: it is here already. Raises `InvalidToken` for a credential that is forged, expired or of an upload that is
    gone; `QuotaExceeded` where its time was over, and its room is others'.
    """
    upload = blobs.renew(backend, _upload_of(backend, credential))
    if upload.blob_sha256 is not None:
        return None
    return Slot(upload, Staging(upload.id).whole, upload.declared_size)


def slot_for_part(backend: Backend, credential: str, number: int) -> Slot | None:
    """As `slot_for_whole`; raises `InvalidInput` for a number that no part has."""
    upload = blobs.renew(backend, _upload_of(backend, credential))
    sizes = _part_sizes(backend, upload.declared_size)
    if not 1 <= number <= len(sizes):
        raise InvalidInput(f"this upload has {len(sizes)} parts; there is no part {number}")
    if upload.blob_sha256 is not None:
        return None
    return Slot(upload, Staging(upload.id).part(number), sizes[number - 1])


def receiving(backend: Backend, slot: Slot) -> AbstractContextManager[BinaryIO]:
    """A file for the body."""
    return blobs.receiving(backend, slot.upload, slot.key)


def part_etag(number: int, size: int) -> str:
    """A name for a received part. Says nothing of its bytes: those are hashed as a whole, once all are here."""
    return f'"part-{number}-{size}"'


def finish_whole(backend: Backend, upload: Upload) -> None:
    """Raises as `finish_upload`."""
    blobs.finish_upload(backend, upload)


def finish_parts(backend: Backend, credential: str, sha256: str) -> None:
    """Joins the parts and verifies the whole. Repeating it after it worked is no fault.

    Raises `InvalidToken`, `InvalidInput`, `SizeMismatch`, `DigestMismatch`.
    """
    upload = _upload_of(backend, credential)
    if parse_sha256(sha256) != upload.declared_sha256:
        raise InvalidInput("this upload is of another object")
    if upload.blob_sha256 is not None:
        return
    upload = blobs.renew(backend, upload)
    _join_parts(backend, upload)
    blobs.finish_upload(backend, upload)
    blobs.delete_staged(backend, upload.id)


def _join_parts(backend: Backend, upload: Upload) -> None:
    """Raises `InvalidInput` where parts are missing."""
    staging, storage = Staging(upload.id), backend.blobs.addresses
    if storage and storage.parts(staging.whole) is None:
        return  # joined by a request that died since
    sizes = _part_sizes(backend, upload.declared_size)
    missing = sorted(set(range(1, len(sizes) + 1)) - set(_parts_here(backend, upload, sizes)))
    if missing:
        raise InvalidInput(f"part {missing[0]} has not arrived, and {len(missing) - 1} more", missing=missing)
    if storage:
        storage.join(staging.whole)
    else:
        backend.blobs.join([staging.part(number) for number in range(1, len(sizes) + 1)], staging.whole)


def _upload_of(backend: Backend, credential: str) -> Upload:
    signed = backend.signer.read(_LFS, credential, lifetime=backend.settings.url_lifetime)
    upload = blobs.find_upload(backend, signed["upload"])
    if upload is None:
        raise InvalidToken("this upload is over", hint="start it again")
    return upload


def finish_brought(backend: Backend, principal: Principal, name: RepositoryName, wanted: Wanted) -> None:
    """LFS `verify`: keeps what the principal sent to the storage itself.

    Raises as `permitted` and `finish_upload`; `BlobNotFound` unless he has brought exactly these bytes here.
    """
    sha256 = parse_sha256(wanted.sha256)
    with backend.database.read() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        blob = blobs.known_blobs(session, [sha256]).get(sha256)
        if blob and blob.size == wanted.size and _may_use(session, principal, repository, sha256):
            return
    account_id = principal.require_account()
    if not blobs.finish_brought(
        backend, account_id=account_id, repository_id=repository.id, sha256=sha256, size=wanted.size
    ):
        raise BlobNotFound(f"the object {sha256} of {wanted.size} bytes is not here", hint="upload it again")


# --- Xet --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class XetSession:
    """One upload session. Its xorbs lie apart from those of any other element, repository or account."""

    element: str
    repository_id: int
    account_id: int

    @property
    def folder(self) -> str:
        return f"{self.element}-{self.repository_id}-{self.account_id}"


def xet_token(backend: Backend, principal: Principal, name: RepositoryName) -> tuple[str, str]:
    """A new random path element and a short-lived token for uploading into this repository. Raises as `permitted`.

    Clients remember for weeks what they sent to one address and don't send it again, so each gets its own address.
    """
    with backend.database.read() as session:
        repository = permitted(session, principal, name, Action.WRITE)
    bound = {"repository": repository.id, "account": principal.require_account()}
    return f"n-{secrets.token_hex(16)}", backend.signer.sign(_XET, bound)


def xet_expiry(backend: Backend) -> int:
    """When a token made now runs out, in Unix seconds."""
    return int((now() + backend.settings.xet_token_lifetime).timestamp())


def xet_session(backend: Backend, element: str, token: str) -> XetSession:
    """Raises `InvalidToken`."""
    bound = backend.signer.read(_XET, token, lifetime=backend.settings.xet_token_lifetime)
    if not _SESSION.fullmatch(element):
        raise InvalidToken("this is no upload address of this registry", hint="start the upload again")
    return XetSession(element, bound["repository"], bound["account"])


def expect_xorb(backend: Backend, session: XetSession, xorb: str, *, size: int) -> str:
    """Counts a xorb before its first byte; the storage key that it may be written to.

    Raises `MalformedBody` for what is no hash, `QuotaExceeded`, `DiskFull`.
    """
    key = xorb_target(session, xorb)
    backend.blobs.require_space(size)
    with quotas.room_of(backend, session) as (rows, room), _counting(backend, session, rows, room) as tally:
        known = queries.xorbs(rows, session.folder, [xorb]).get(xorb)
        if known is not None:  # it is sent again
            tally.promised -= known.size
            tally.received -= known.size if known.is_received else 0
        tally.promised += size
        queries.put_xorb(rows, session.folder, xorb, size)
    return key


def xorb_target(session: XetSession, xorb: str) -> str:
    """The storage key for a xorb of this session. Raises `MalformedBody` for what is no hash."""
    if not _HASH.fullmatch(xorb):
        raise MalformedBody("a xorb is named by 64 lower-case hex digits")
    return xorb_key(session.folder, xorb)


def grant_xorb(backend: Backend, session: XetSession, xorb: str, *, size: int) -> str | None:
    """Where the storage itself takes the xorb; None where the registry does. Raises as `expect_xorb`.

    The address may be used again and again: what a shard makes of the xorbs is verified where no client can write.
    """
    storage = backend.blobs.addresses
    if storage is None:
        return None
    key = expect_xorb(backend, session, xorb, size=size)
    return storage.to_write(key, size=size, lifetime=backend.settings.xet_token_lifetime)


def require_xorb(backend: Backend, session: XetSession, xorb: str) -> None:
    """Raises `NotFound` where it has not arrived: the client asks for another grant then."""
    if backend.blobs.size(xorb_target(session, xorb)) is None:
        raise NotFound(f"the xorb {xorb} has not arrived", hint="send it again")


def take_shard(backend: Backend, session: XetSession, shard: BinaryIO) -> int:
    """Unpacks every file of the shard out of this session's xorbs, and keeps it as an upload. The number of files.

    A file is counted before a byte of it is unpacked, against the namespace's quota and against what the session has
    sent; one that is here already isn't unpacked. Raises `MalformedBody`, `SizeMismatch`, `DigestMismatch`,
    `PayloadTooLarge`, `QuotaExceeded`.
    """
    sizes = _received(backend, session, _xorbs_of(shard))
    unpacking = Unpacking(
        lambda xorb, start, stop: backend.blobs.open_range(xorb_key(session.folder, xorb), start, stop),
        sizes,
        again=lambda size: _spend(backend, session, size),
    )
    count = 0
    for file in read_files(shard):
        _require_size(backend, file.size)
        if not _is_here(backend, session, file):
            _take_file(backend, session, unpacking, file)
        count += 1
    return count


def _xorbs_of(shard: BinaryIO) -> set[str]:
    """Names of those that its files are made of: the whole shard is read before anything is unpacked."""
    found: set[bytes] = set()
    for xorb in chain.from_iterable(file.xorbs() for file in read_files(shard)):
        found.add(xorb)
        if len(found) > MAX_XORBS:
            raise PayloadTooLarge(f"the shard uses more than {MAX_XORBS} xorbs")
    return {hash_text(one) for one in found}


def _received(backend: Backend, session: XetSession, names: set[str]) -> dict[str, int]:
    """The stored bytes of each xorb; those that are used for the first time count as received from now on."""
    with backend.database.read() as rows:
        known = queries.xorbs(rows, session.folder, names)
    new = [xorb.name for xorb in known.values() if not xorb.is_received]
    missing = next((name for name in sorted(names) if name not in known), None) or next(
        (name for name in new if backend.blobs.size(xorb_key(session.folder, name)) != known[name].size), None
    )
    if missing is not None:
        raise MalformedBody(f"this upload has not sent the xorb {missing}", hint="start the upload again")
    if new:
        with quotas.room_of(backend, session) as (rows, room), _counting(backend, session, rows, room) as tally:
            arrived = [one for one in queries.xorbs(rows, session.folder, new).values() if not one.is_received]
            tally.received += sum(one.size for one in arrived)
            queries.set_received(rows, session.folder, [one.name for one in arrived])
    return {name: xorb.size for name, xorb in known.items()}


def _is_here(backend: Backend, session: XetSession, file: ShardFile) -> bool:
    """Whether this account has brought these very bytes into this repository before; then they are leased to it."""
    if file.sha256 is None:
        return False
    with backend.database.write() as rows:
        blob = blobs.known_blobs(rows, [file.sha256]).get(file.sha256)
        if blob is None or blob.is_damaged or blob.size != file.size or not _has(rows, session, file.sha256):
            return False
        blobs.lease_known(backend, rows, account_id=session.account_id, repository_id=session.repository_id, blob=blob)
        return True


def _has(rows: Session, session: XetSession, sha256: Sha256) -> bool:
    here = session.repository_id
    is_brought = blobs.holds_lease(rows, account_id=session.account_id, repository_id=here, sha256=sha256)
    return is_brought or bool(digests_in(rows, here, [sha256]))


def _take_file(backend: Backend, session: XetSession, unpacking: Unpacking, file: ShardFile) -> Blob:
    with (
        blobs.opening(
            backend,
            account_id=session.account_id,
            repository_id=session.repository_id,
            sha256=file.sha256 or blobs.UNKNOWN,
            size=file.size,
        ) as (rows, room, upload),
        _counting(backend, session, rows, room) as tally,
    ):
        _require_sent(backend, tally, file.work)
        tally.unpacked += file.work
        tally.taken += file.size
    try:
        return blobs.receive_pieces(backend, upload, unpacking.chunks(file), sha256=file.sha256)
    except BaseException:
        blobs.forget_upload(backend, upload)
        with quotas.room_of(backend, session) as (rows, room), _counting(backend, session, rows, room) as tally:
            tally.taken -= file.size
        raise


# --- Xet: what a session may cost -------------------------------------------------------------------------------------


@contextmanager
def _counting(backend: Backend, session: XetSession, rows: Session, room: Room) -> Iterator[queries.Tally]:
    """What the session has brought and what it became, to be changed; its time begins anew.

    It takes room for the chunks that are no file yet: both are on the disk for a while, and who uploads a file needs
    room for it once.
    """
    until = now() + backend.settings.patience
    tally = queries.open_session(
        rows,
        session.folder,
        repository_id=session.repository_id,
        account_id=session.account_id,
        expires_at=until,
    )
    yield tally
    queries.set_tally(rows, session.folder, tally)
    room.take(session.folder, max(tally.promised - tally.taken, 0), until=until, is_upload=False)


def _spend(backend: Backend, session: XetSession, work: int) -> None:
    """Raises `PayloadTooLarge`."""
    with quotas.room_of(backend, session) as (rows, room), _counting(backend, session, rows, room) as tally:
        _require_sent(backend, tally, work)
        tally.unpacked += work


def _require_sent(backend: Backend, tally: queries.Tally, work: int) -> None:
    """Raises `PayloadTooLarge` where what a session sent is too little for what is to be made of it."""
    ratio = backend.settings.xet_ratio
    if tally.unpacked + work > FREE_WORK_BYTES + ratio * tally.received:
        raise PayloadTooLarge(
            f"this upload has sent {tally.received} bytes that would unpack to {tally.unpacked + work}; at most "
            f"{ratio} times as many are taken, and {FREE_WORK_BYTES >> 20} MiB",
            hint="send files that repeat themselves like this by Git-LFS: HF_HUB_DISABLE_XET=1",
        )


def collect_sessions(backend: Backend) -> int:
    """Deletes the xorbs of sessions whose time is over; how many."""
    with backend.database.read() as rows:
        expired = queries.expired_sessions(rows)
    for session_id in expired:
        with backend.database.write() as rows:
            queries.delete_expired_session(rows, session_id)
    count = 0
    for stored in backend.blobs.list("xorbs/"):
        if not is_known_xorb(backend, stored.key):
            backend.blobs.delete(stored.key)
            count += 1
    return count


def is_known_xorb(backend: Backend, key: str) -> bool:
    """Whether its session is alive: the row is older than the object."""
    with backend.database.read() as rows:
        return queries.is_session(rows, key.split("/")[1])
