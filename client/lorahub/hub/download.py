"""Fetches files of a revision: several at once, each resumed where it broke off, each verified before it gets its name.

Sizes and digests are known from the contents before the first byte, so a hub that sends more, or other bytes, is caught
at once.
"""

import errno
import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from lorahub.errors import DigestMismatch, DiskFull, RegistryUnreachable, SizeMismatch
from lorahub.hub.cache import Cache, has, put
from lorahub.hub.contents import ListedFile
from lorahub.hub.progress import Progress
from lorahub.hub.together import run_all
from lorahub.hub.transport import Transport, retrying

PIECE_BYTES = 1 << 20


class Download:
    """Files of `repository` at `commit`, from one hub into one cache."""

    def __init__(
        self,
        transport: Transport,
        cache: Cache,
        repository: str,
        commit: str,
        progress: Progress,
        *,
        beside: Path | None = None,
    ) -> None:
        """`beside` is a folder of files by their keys, which others have fetched."""
        self._transport = transport
        self._cache = cache
        self._repository = repository
        self._commit = commit
        self._progress = progress
        self._beside = beside

    def fetch(self, files: Sequence[ListedFile]) -> None:
        """Every file's bytes are in the cache afterwards, under their keys.

        Raises `DigestMismatch`, `SizeMismatch`, `DiskFull` and what the transport raises.
        """
        missing = list({file.key: file for file in files if not self._cache.has_blob(file)}.values())
        self._progress.begin(f"Pulling {self._repository}", sum(file.size for file in missing))
        try:
            largest_first = sorted(missing, key=lambda file: -file.size)
            run_all([partial(self._fetch_one, file) for file in largest_first])
        finally:
            self._progress.end()

    def _fetch_one(self, file: ListedFile) -> None:
        blob = self._cache.blob(file.key)
        with _disk_full_named(), self._cache.bringing(file.key):
            if self._cache.has_blob(file):
                self._progress.advance(file.size)
                return
            if not self._take_from_beside(file, blob):
                part = blob.with_suffix(".part")
                retrying(lambda: self._bring(file, part))
                part.replace(blob)
            blob.with_suffix(".head").unlink(missing_ok=True)

    def _take_from_beside(self, file: ListedFile, blob: Path) -> bool:
        """Whether it is there, whole and right; weights are linked, what people edit by hand is copied."""
        place = None if self._beside is None else (self._beside / file.key).resolve()
        if place is None or not has(place, file.size):
            return False
        with place.open("rb") as source:
            digest, _ = _hash_what_is_there(source, file)
        if not file.is_right(digest.hexdigest()):
            return False
        put(place, blob, may_link=file.size > PIECE_BYTES)
        self._progress.advance(file.size)
        return True

    def _bring(self, file: ListedFile, part: Path) -> None:
        """Appends what is missing to `part`, which then has the file's bytes; removes it where they are wrong."""
        with _open_for_append(part) as target:
            digest, have = _hash_what_is_there(target, file)
            if have > file.size:
                _start_over(target)
                digest, have = file.hash(), 0
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
            raise _broken_off(f"{file.path} broke off at byte {have} of {file.size}")
        if not file.is_right(digest.hexdigest()):
            part.unlink()
            if resumed:  # what an earlier pull left may have been the damaged part: once more, from the start
                raise _broken_off(f"{file.path} did not continue what was there")
            raise DigestMismatch(
                f"{file.path}: {self._transport.endpoint} sent bytes with the digest {digest.hexdigest()}; "
                f"expected {file.key}",
                hint="nothing was kept; try again, and tell the hub's operator if it happens twice",
            )

    def _receive(
        self, file: ListedFile, target: BinaryIO, digest: "hashlib._Hash", have: int
    ) -> tuple["hashlib._Hash", int]:
        """What `target` has afterwards: its hash, and how many bytes."""
        path = f"/{self._repository}/resolve/{self._commit}/{quote(file.path)}"
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._transport.stream(path, headers) as incoming:
            if have and not incoming.goes_on(have):
                self._progress.advance(-have)
                _start_over(target)
                digest, have = file.hash(), 0
            for piece in incoming.pieces():
                if have + len(piece) > file.size:
                    raise SizeMismatch(f"{file.path}: more is sent than the announced {file.size} bytes")
                target.write(piece)
                digest.update(piece)
                have += len(piece)
                self._progress.advance(len(piece))
        return digest, have


def _broken_off(what: str) -> RegistryUnreachable:
    return RegistryUnreachable(what, hint="try again; what arrived is kept")


def _open_for_append(part: Path) -> BinaryIO:
    part.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(part, flags, 0o644), "r+b")


def _hash_what_is_there(target: BinaryIO, file: ListedFile) -> tuple["hashlib._Hash", int]:
    digest, have = file.hash(), 0
    while piece := target.read(PIECE_BYTES):
        digest.update(piece)
        have += len(piece)
    return digest, have


def _start_over(target: BinaryIO) -> None:
    target.seek(0)
    target.truncate()


class _disk_full_named:  # noqa: N801 (a context manager, read as a phrase)
    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"no space left for the files: {error.strerror}",
                hint="free space, then pull again; what arrived is kept",
            ) from error
