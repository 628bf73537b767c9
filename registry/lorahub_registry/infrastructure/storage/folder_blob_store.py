"""The embedded storage: a folder.

What is written appears whole, by a rename; what is moved to its permanent key is on the disk when `move` returns.
"""

import errno
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from lorahub.errors import DiskFull, Unavailable

from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.observations import Observation, expect, observe
from lorahub_registry.infrastructure.storage.blob_store import ObjectNotFound, StoredObject
from lorahub_registry.infrastructure.storage.disk import Disk
from lorahub_registry.infrastructure.storage.examination import examine_store
from lorahub_registry.infrastructure.storage.object_keys import SHORT_LIVED
from lorahub_registry.infrastructure.storage.several import Several

logger = logging.getLogger("lorahub")

PIECE_BYTES = 1 << 20
_LEAST_FREE_BYTES = 1 << 30
_TEMPORARY = ".writing-"


class FolderBlobStore:
    """Objects are files below `root`; a key is a relative path. `reserve_bytes` stay free on its disk."""

    addresses = None

    def __init__(self, root: Path, *, reserve_bytes: int = 0) -> None:
        self.root = root
        self._disk = Disk(root, reserve_bytes)
        root.mkdir(parents=True, exist_ok=True)
        self._inode = root.stat().st_ino  # stays when its disk is mounted anew, unlike the device number
        self._waiting = Several("sync")

    def path(self, key: str) -> Path:
        return self.root / key

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        target = self.path(key)
        temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{target.name}")
        with _named():
            self._require_mounted()
            try:
                with _create(temporary) as file:
                    yield self._disk.guarded(file)
                if key.startswith(SHORT_LIVED):
                    temporary.replace(target)
                else:
                    _sync(temporary)
                    temporary.replace(target)
                    _sync(target.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def require_space(self, size: int) -> None:
        with _named():
            self._disk.require(size)

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        written: dict[Path, Path] = {}
        with _named():
            self._require_mounted()
            self._disk.require(sum(map(len, contents.values())))
            folders = {self.path(key).parent for key in contents}
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            try:
                for key, content in contents.items():
                    target = self.path(key)
                    temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}-{target.name}")
                    with temporary.open("xb") as file:
                        written[temporary] = target
                        file.write(content)
                self._waiting.all(_sync, written)  # a journal ends several waits with one write to the disk
                for temporary, target in written.items():
                    temporary.replace(target)
                self._waiting.all(_sync, folders)
            except BaseException:
                for path in (*written, *written.values()):
                    path.unlink(missing_ok=True)
                raise

    def read_all(self, sizes: Mapping[str, int]) -> Iterator[bytes]:
        for key, size in sizes.items():
            yield b"".join(self.open_range(key, 0, size + 1))

    def open_range(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        return _pieces(self._open(key), start, stop)

    def _open(self, key: str) -> BinaryIO:
        with _named():
            try:
                return self.path(key).open("rb", buffering=0)
            except FileNotFoundError:
                self._require_mounted()
                raise ObjectNotFound(key) from None

    def _require_mounted(self) -> None:
        """A disk that isn't mounted, now or any more, has lost nothing, and nothing is put in its place."""
        if self.root.stat().st_ino != self._inode:
            raise OSError(errno.ENODEV, "not the folder that was opened; is its disk mounted?", str(self.root))

    def size(self, key: str) -> int | None:
        with _named():
            try:
                return self.path(key).stat().st_size
            except FileNotFoundError:
                return None

    def move(self, key: str, to: str) -> None:
        source, target = self.path(key), self.path(to)
        with _named():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                _sync(source)
                source.replace(target)
            except FileNotFoundError:
                if not target.exists():
                    raise ObjectNotFound(key) from None
            _sync(target.parent)

    def join(self, keys: Sequence[str], to: str) -> None:
        with self.writer(to) as whole:
            for key in keys:
                with self._open(key) as part:
                    shutil.copyfileobj(part, whole, PIECE_BYTES)

    def delete(self, key: str) -> None:
        path = self.path(key)
        with _named():
            path.unlink(missing_ok=True)
        if key.startswith(SHORT_LIVED):
            with suppress(OSError):  # not empty yet, or gone already
                path.parent.rmdir()

    def delete_all(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for folder, _, names in os.walk(self.path(prefix), onerror=_unless_gone):
            for name in names:
                path = Path(folder) / name
                try:
                    status = path.stat()
                except OSError as error:
                    _unless_gone(error)
                    continue
                modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
                yield StoredObject(path.relative_to(self.root).as_posix(), status.st_size, modified_at)

    def last_arrival(self, prefix: str) -> datetime | None:
        return max((stored.modified_at for stored in self.list(prefix)), default=None)

    def abort_unfinished(self, is_known: Callable[[str, datetime], bool]) -> int:  # noqa: ARG002
        """None: an unfinished write is a file below its folder, listed and collected like any other."""
        return 0

    def create(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    def probe(self) -> None:
        with os.scandir(self.root) as entries:
            next(entries, None)

    def examine(self, folder: str) -> Iterator[Observation]:
        yield from examine_store(self, folder)
        yield observe("storage space", self._space)

    def _space(self) -> str:
        free = shutil.disk_usage(self.root).free
        least = max(_LEAST_FREE_BYTES, self._disk.reserve_bytes)
        expect(free >= least, f"only {free / 1e9:.1f} GB are free on the disk of {self.root}")
        return f"{free / 1e9:.1f} GB free"


def _create(path: Path) -> BinaryIO:
    """A new file; its folder may be removed by `delete` between the two calls, then again."""
    for _ in range(10):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return path.open("xb")
    return path.open("xb")


def _pieces(file: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < stop and (piece := _read(file, min(PIECE_BYTES, stop - start))):
            start += len(piece)
            yield piece


def _read(file: BinaryIO, size: int) -> bytes:
    with _named():
        return file.read(size)


def _unless_gone(error: OSError) -> None:
    """What was removed while a folder is read isn't in it."""
    if not isinstance(error, FileNotFoundError):
        with _named():
            raise error


def _sync(path: Path) -> None:
    """Waits until the file, or the folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named() -> Iterator[None]:
    """The system's faults under our names; what it said is for the operator's log only."""
    try:
        yield
    except OSError as error:
        metrics.STORAGE_FAULTS.labels(errno.errorcode.get(error.errno or 0, "other")).inc()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                "the registry's storage is full; nothing of this upload is kept",
                hint="free space on the registry, then try again",
            ) from error
        logger.error("storage: %s", error)  # noqa: TRY400 (an operator needs the path and the reason)
        raise Unavailable("the registry's storage can't be used", hint="try again in a moment") from error
