"""Backup: hold collection → all tables as of one moment → every blob of them → the manifest, last.

    backups/<id>/<table>.jsonl.gz   rows, see infrastructure.database.dump
    backups/<id>/manifest.json      sizes and sha256 of the tables; a backup without one never ended
    incoming/<random>               whatever is being written
    blobs/<ab>/<cd>/<sha256>        bytes, shared by all backups in the place: what is there isn't copied again

The manifest names the tables by sha256, the table `blobs` names all bytes: whoever trusts the manifest trusts the rest.
Restore: the reverse, into a registry that has nothing yet; every byte is hashed on its way, and again at the end.
"""

import gzip
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any, BinaryIO, TypeVar, cast

from alembic.util.exc import CommandError
from lorahub.errors import (
    AlreadyExists,
    BlobVanished,
    DigestMismatch,
    InvalidConfiguration,
    NotFound,
)
from lorahub.protocol.digests import Sha256, sha256_of

from lorahub_registry.core.accounts.permissions import OPERATOR
from lorahub_registry.core.audit.service import record
from lorahub_registry.core.blobs.service import Hold, find_blob, set_damaged
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Database, dump, now
from lorahub_registry.infrastructure.database.migrate import require_known, upgrade
from lorahub_registry.infrastructure.storage import BlobStore, ObjectNotFound
from lorahub_registry.operations.maintenance.service import FsckReport, check_invariants

FORMAT = "lorahub-backup-v1"
AT_ONCE = 8  # blobs that are copied side by side
_LEFT_BEHIND = timedelta(days=1)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class TableFile:
    name: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What the table of blobs says of one."""

    sha256: Sha256
    size: int
    storage_key: str


@dataclass(slots=True)
class BackupManifest:
    id: str
    created_at: str
    schema: str
    tables: list[TableFile]
    blobs: int = 0
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """Blobs whose bytes the registry itself had lost when the backup was made."""

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def _encoded(manifest: BackupManifest) -> bytes:
    return json.dumps(manifest.as_json(), indent=1).encode()


@dataclass(slots=True)
class BackupReport:
    manifest: BackupManifest
    copied: int = 0
    copied_bytes: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            **self.manifest.as_json(),
            "ok": not self.manifest.damaged,
            "manifest_sha256": sha256_of(_encoded(self.manifest)),
            "copied": self.copied,
            "copied_bytes": self.copied_bytes,
        }

    def __str__(self) -> str:
        made = self.manifest
        rows = sum(table.rows for table in made.tables)
        lines = [
            f"✓ {made.id}: {rows} rows, {made.blobs} blobs of {made.bytes / 1e6:.1f} MB",
            f"  copied now: {self.copied} of them ({self.copied_bytes / 1e6:.1f} MB)",
            f"  sha256 of its manifest: {sha256_of(_encoded(made))}",
        ]
        if made.damaged:
            lines += [f"✗ {len(made.damaged)} blobs are damaged in the registry itself, and not in the backup:"]
            lines += [f"  {digest}" for digest in made.damaged]
        return "\n".join(lines)


def _table_key(backup_id: str, table: str) -> str:
    return f"backups/{backup_id}/{table}.jsonl.gz"


def _manifest_key(backup_id: str) -> str:
    return f"backups/{backup_id}/manifest.json"


def _blob_key(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256[2:4]}/{sha256}"


# --- backup -----------------------------------------------------------------------------------------------------------


def back_up(backend: Backend, target: BlobStore) -> BackupReport:
    """Writers go on. Holds what was acknowledged before the start, and of what comes later all of a commit or nothing.

    Raises `BlobVanished` where it took so long that bytes were collected meanwhile; then nothing says it is a backup;
    `InvalidConfiguration` where a newer lorahub has migrated the database.
    """
    require_known(backend.database)
    _sweep(target)
    backup_id = f"{now():%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(3)}"  # in the order of time
    with Hold(backend) as hold:
        report = BackupReport(_dump_tables(backend.database, target, backup_id, hold.renew))
        _copy_blobs(backend, target, report, hold.renew)
    _write(target, _manifest_key(backup_id), _encoded(report.manifest))
    with backend.database.write() as session:
        record(session, actor=OPERATOR.name, action="registry.backup", subject=backup_id)
    return report


def _dump_tables(database: Database, target: BlobStore, backup_id: str, tick: Callable[[], None]) -> BackupManifest:
    with dump.snapshot(database) as connection:
        manifest = BackupManifest(backup_id, now().isoformat(), dump.schema_of(connection), [])
        for table in dump.table_names():
            tick()
            with _keeping(target, _table_key(backup_id, table)) as file:
                rows = _write_lines(file, dump.dump(connection, table))
            manifest.tables.append(TableFile(table, rows, file.size, file.sha256))
    return manifest


def _write_lines(file: "_Hashing", lines: Iterator[bytes]) -> int:
    rows = 0
    with gzip.GzipFile(fileobj=cast(BinaryIO, file), mode="wb", compresslevel=6, mtime=0) as packed:
        for line in lines:
            packed.write(line)
            rows += 1
    return rows


def _copy_blobs(backend: Backend, target: BlobStore, report: BackupReport, tick: Callable[[], None]) -> None:
    def copy(blob: StoredBlob) -> tuple[StoredBlob, bool | None]:
        """None: it was there."""
        tick()
        is_there = target.size(_blob_key(blob.sha256)) == blob.size
        return blob, None if is_there else _copy_current(backend, blob, target, tick)

    manifest = report.manifest
    for blob, copied in _each(_blobs_in(target, manifest), copy):
        manifest.blobs += 1
        manifest.bytes += blob.size
        report.copied += copied is True
        report.copied_bytes += blob.size if copied else 0
        if copied is False:
            manifest.damaged.append(blob.sha256)


def _copy_current(backend: Backend, blob: StoredBlob, target: BlobStore, tick: Callable[[], None]) -> bool:
    """False where the registry has lost the bytes. Looks again, since they may have been healed under another key."""
    for _ in range(2):
        try:
            _copy(backend.blobs, blob.storage_key, blob, target, _blob_key(blob.sha256), tick)
        except (ObjectNotFound, DigestMismatch):
            current = find_blob(backend, blob.sha256)
            if current is None:
                raise BlobVanished(
                    f"{blob.sha256} was collected while the backup ran; collection was not held long enough",
                    hint="start the backup again: what it copied is kept",
                ) from None
            if current.storage_key == blob.storage_key:
                return False
            blob = StoredBlob(blob.sha256, blob.size, current.storage_key)
        else:
            return True
    return False


# --- restore ----------------------------------------------------------------------------------------------------------


def backups_in(source: BlobStore) -> list[BackupManifest]:
    """Those that are whole, newest first."""
    ids = {stored.key.split("/")[1] for stored in source.list("backups/") if stored.key.endswith("/manifest.json")}
    return [read_manifest(source, backup_id) for backup_id in sorted(ids, reverse=True)]


def read_manifest(source: BlobStore, backup_id: str | None = None) -> BackupManifest:
    """The newest one where no id is given. Raises `NotFound`, `DigestMismatch` for what is no manifest."""
    if backup_id is None:
        found = backups_in(source)
        if not found:
            raise NotFound("there is no backup in this place, or none that ended")
        return found[0]
    key = _manifest_key(backup_id)
    size = source.size(key)
    if size is None:
        raise NotFound(f"there is no backup called {backup_id[:80]}, or it never ended")
    try:
        said = json.loads(b"".join(source.open_range(key, 0, size)))
        tables = [TableFile(**table) for table in said.pop("tables")]
        is_ours = said.pop("format") == FORMAT
        manifest = BackupManifest(tables=tables, **said)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DigestMismatch(f"{key} is no manifest of a backup") from None
    if not is_ours:
        raise InvalidConfiguration(f"{key} has another format than {FORMAT}", hint="use the version that made it")
    return manifest


def restore(backend: Backend, source: BlobStore, backup_id: str | None = None) -> FsckReport:
    """Makes the registry of a backup, in a database that has nothing yet. Bytes first, rows last, then every proof.

    Raises `AlreadyExists`, `DigestMismatch` for a backup that isn't what its manifest says.
    """
    if not dump.is_empty(backend.database):
        raise AlreadyExists(
            "the database has tables already; a backup is restored into a registry that was never started",
            hint="choose another --home, or another LORAHUB_DATABASE_URL",
        )
    manifest = read_manifest(source, backup_id)
    for table in manifest.tables:
        _verify_table(source, manifest, table)
    _bring_blobs(backend, source, manifest)
    _load_tables(backend.database, source, manifest)
    for digest in manifest.damaged:
        set_damaged(backend, Sha256(digest), is_damaged=True)
    with backend.database.write() as session:
        record(session, actor=OPERATOR.name, action="registry.restore", subject=manifest.id)
    return check_invariants(backend, is_deep=True)


def _verify_table(source: BlobStore, manifest: BackupManifest, table: TableFile) -> None:
    key, digest = _table_key(manifest.id, table.name), hashlib.sha256()
    if source.size(key) != table.size:
        raise DigestMismatch(f"{key} has not the {table.size} bytes that the manifest says")
    for piece in source.open_range(key, 0, table.size):
        digest.update(piece)
    if digest.hexdigest() != table.sha256:
        raise DigestMismatch(f"{key} has the sha256 {digest.hexdigest()}, the manifest says {table.sha256}")


def _bring_blobs(backend: Backend, source: BlobStore, manifest: BackupManifest) -> None:
    """What an earlier try has brought isn't brought again; the deep check at the end hashes it."""
    lost = set(manifest.damaged)

    def bring(blob: StoredBlob) -> None:
        if blob.sha256 in lost or backend.blobs.size(blob.storage_key) == blob.size:
            return
        try:
            _copy(source, _blob_key(blob.sha256), blob, backend.blobs, blob.storage_key, _nothing)
        except ObjectNotFound:
            raise DigestMismatch(f"the backup lacks the bytes of {blob.sha256}", hint="nothing was restored") from None

    for _ in _each(_blobs_in(source, manifest), bring):
        pass


def _load_tables(database: Database, source: BlobStore, manifest: BackupManifest) -> None:
    try:
        upgrade(database, to=manifest.schema)
    except CommandError:
        raise InvalidConfiguration(
            f"the backup has the schema {manifest.schema}, which this lorahub doesn't know",
            hint="restore it with the version that made it, or a newer one",
        ) from None
    dump.load(database, ((table.name, _lines(source, manifest, table.name)) for table in manifest.tables))
    upgrade(database)


# --- bytes ------------------------------------------------------------------------------------------------------------


def _each(blobs: Iterator[StoredBlob], act: Callable[[StoredBlob], Result]) -> Iterator[Result]:
    """Several at once; the results in the order of the blobs."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while some := list(islice(blobs, 1000)):
            yield from pool.map(act, some)


def _copy(source: BlobStore, key: str, blob: StoredBlob, target: BlobStore, to: str, tick: Callable[[], None]) -> None:
    """Raises `ObjectNotFound`, and `DigestMismatch` for other bytes than the blob's; then nothing is kept."""
    with _keeping(target, to) as file:
        for piece in source.open_range(key, 0, blob.size):
            file.write(piece)
            tick()
        if (file.size, file.sha256) != (blob.size, blob.sha256):
            raise DigestMismatch(f"the bytes of {blob.sha256} have the sha256 {file.sha256}")


def _blobs_in(source: BlobStore, manifest: BackupManifest) -> Iterator[StoredBlob]:
    for line in _lines(source, manifest, "blobs"):
        row = json.loads(line)
        yield StoredBlob(Sha256(row["sha256"]), row["size"], row["storage_key"])


def _lines(source: BlobStore, manifest: BackupManifest, table: str) -> Iterator[bytes]:
    key = _table_key(manifest.id, table)
    size = source.size(key)
    with gzip.GzipFile(fileobj=cast(BinaryIO, _Reading(source.open_range(key, 0, size or 0))), mode="rb") as unpacked:
        yield from unpacked


class _Hashing:
    """What is written to a file, counted and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> int:
        self._digest.update(piece)
        self.size += len(piece)
        return self._file.write(piece)

    def flush(self) -> None:
        """The storage does, when the block ends."""

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def _keeping(store: BlobStore, key: str) -> Iterator[_Hashing]:
    """A file that is durable under `key` when the block ends, and nothing when it raises."""
    arriving = f"incoming/{secrets.token_hex(16)}"
    with store.writer(arriving) as file:
        yield _Hashing(file)
    store.move(arriving, key)


class _Reading:
    """Pieces as a file, for gzip."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        taken = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(taken) :]
        return taken


def _write(store: BlobStore, key: str, content: bytes) -> None:
    with _keeping(store, key) as file:
        file.write(content)


def _sweep(target: BlobStore) -> None:
    """What a backup that was killed had half-written."""
    for stored in list(target.list("incoming/")):
        if stored.modified_at < now() - _LEFT_BEHIND:
            target.delete(stored.key)


def _nothing() -> None:
    pass
