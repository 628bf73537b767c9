"""Fetches files of a revision: several at once, each resumed where it broke off, each verified before it gets its name.

Sizes and digests are known from the revision before the first byte, so a registry that sends more, or other bytes, is
caught at once.
"""

import errno
import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx2

from lorahub.errors import DigestMismatch, DiskFull, InvalidPath, SizeMismatch
from lorahub.hub.cache import Cache, place
from lorahub.hub.messages import Revision
from lorahub.hub.progress import Progress
from lorahub.hub.together import run_all
from lorahub.hub.transport import Transport, goes_on, retrying
from lorahub.protocol.digests import FileEntry

PIECE_BYTES = 1 << 20


class Download:
    """One revision's files, from one registry into one cache."""

    def __init__(self, transport: Transport, cache: Cache, revision: Revision, progress: Progress) -> None:
        self._transport = transport
        self._cache = cache
        self._revision = revision
        self._progress = progress

    def fetch(self, files: Sequence[FileEntry]) -> None:
        """Every file's bytes are in the cache afterwards, under their digests.

        Raises `DigestMismatch`, `SizeMismatch`, `DiskFull` and what the transport raises.
        """
        distinct = list({file.sha256: file for file in files}.values())
        missing = [file for file in distinct if not self._cache.blob(file.sha256).exists()]
        self._progress.begin(f"Pulling {self._revision.id}", sum(file.size for file in missing))
        try:
            largest_first = sorted(missing, key=lambda file: -file.size)
            run_all([partial(self._fetch_one, file) for file in largest_first])
        finally:
            self._progress.end()

    def _fetch_one(self, file: FileEntry) -> None:
        blob = self._cache.blob(file.sha256)
        with _disk_full_named(), self._cache.lock(file.sha256):
            if blob.exists():
                self._progress.advance(file.size)
                return
            part = blob.with_suffix(".part")
            retrying(lambda: self._bring(file, part))
            part.replace(blob)

    def _bring(self, file: FileEntry, part: Path) -> None:
        """Appends what is missing to `part`, which then has the file's bytes; removes it where they are wrong."""
        with _open_for_append(part) as target:
            digest, have = _hash_what_is_there(target)
            if have > file.size:
                _start_over(target)
                digest, have = hashlib.sha256(), 0
            self._progress.advance(have)
            resumed = have > 0
            try:
                if have < file.size:
                    digest, have = self._receive(file, target, digest, have)
            except BaseException:
                self._progress.advance(-target.tell())
                raise
            target.flush()
            os.fsync(target.fileno())
        if have != file.size:
            raise httpx2.ReadError(f"{file.path} broke off at byte {have} of {file.size}")
        if digest.hexdigest() != file.sha256:
            part.unlink()
            if resumed:  # what an earlier pull left may have been the damaged part: once more, from the start
                raise httpx2.ReadError(f"{file.path} did not continue what was there")
            raise DigestMismatch(
                f"{file.path}: the registry sent bytes with the sha256 {digest.hexdigest()}; expected {file.sha256}",
                hint="nothing was kept; try again, and tell the registry's operator if it happens twice",
            )

    def _receive(
        self, file: FileEntry, target: BinaryIO, digest: "hashlib._Hash", have: int
    ) -> tuple["hashlib._Hash", int]:
        """What `target` has afterwards: its hash, and how many bytes."""
        path = f"/{self._revision.id}/resolve/{self._revision.commit}/{quote(file.path)}"
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._transport.stream(path, headers) as response:
            if have and not goes_on(response, have):
                self._progress.advance(-have)
                _start_over(target)
                digest, have = hashlib.sha256(), 0
            for piece in response.iter_bytes():
                if have + len(piece) > file.size:
                    raise SizeMismatch(f"{file.path}: the registry sends more than the announced {file.size} bytes")
                target.write(piece)
                digest.update(piece)
                have += len(piece)
                self._progress.advance(len(piece))
        return digest, have

    def place(self, files: Sequence[FileEntry], folder: Path) -> None:
        """The files under their names in `folder`; what else is there stays.

        Raises `InvalidPath` for a symbolic link in the way.
        """
        is_cache = folder.is_relative_to(self._cache.folder)
        for file in files:
            target = folder / file.path
            _refuse_links(folder, target)
            place(self._cache.blob(file.sha256), target, may_link=is_cache)


def _open_for_append(part: Path) -> BinaryIO:
    part.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(part, flags, 0o644), "r+b")


def _hash_what_is_there(target: BinaryIO) -> tuple["hashlib._Hash", int]:
    digest, have = hashlib.sha256(), 0
    while piece := target.read(PIECE_BYTES):
        digest.update(piece)
        have += len(piece)
    return digest, have


def _start_over(target: BinaryIO) -> None:
    target.seek(0)
    target.truncate()


def _refuse_links(folder: Path, target: Path) -> None:
    """Nothing is written through a symbolic link that somebody put into the folder."""
    for parent in (target, *target.parents):
        if parent == folder:
            return
        if parent.is_symlink():
            raise InvalidPath(f"{parent} is a symbolic link; files are not written through it", hint="remove the link")


class _disk_full_named:  # noqa: N801 (a context manager, read as a phrase)
    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"no space left for the files: {error.strerror}",
                hint="free space, then pull again; what arrived is kept",
            ) from error
