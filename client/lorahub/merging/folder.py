"""A merged model written to a folder: several threads, resumable, and nothing half-done under its name.

Bytes go to `.<name>.merging` beside the folder, which is renamed when it is complete. A journal there says which pieces
are written; it counts as long as the machine wasn't restarted, for what a killed process wrote is in the page cache.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import chain, zip_longest
from pathlib import Path
from typing import Self, TextIO

from threadpoolctl import threadpool_limits

from lorahub.adapters.files import OpenFolder
from lorahub.errors import AlreadyExists, Conflict, NotMergeable
from lorahub.merging.layout import Extent, WeightFile
from lorahub.merging.plan import MergePlan

Progress = Callable[[int], None]
Written = Future[tuple[str, int]]
"""A piece's name and size, once it is written."""
Piece = tuple[WeightFile, Extent, int, int]
"""The bytes [start, stop) of a tensor."""

_PIECE = 16 << 20
_JOURNAL = "journal"


def write_model(
    plan: MergePlan,
    folder: Path,
    *,
    threads: int | None = None,
    fingerprint: str = "",
    progress: Progress = lambda _: None,
) -> Path:
    """All files of the plan in `folder`. `progress` is called with the bytes just written.

    `fingerprint` is of sources whose digests aren't known: pieces of an earlier try count only with the same one.

    Raises `AlreadyExists` where the folder has files, `Conflict` where another process writes it, and what computing
    raises. The pieces so far are kept for the next try, but not where that can't help: `NotMergeable`.
    """
    folder = folder.absolute()
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise AlreadyExists(f"{folder} has files already", hint="name another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.merging"
    try:
        with _Work(plan, partial, fingerprint) as work, threadpool_limits(limits=1, user_api="blas"):
            work.prepare()
            work.run(threads or os.cpu_count() or 1, progress)
    except NotMergeable:  # another try would come to the same
        shutil.rmtree(partial)
        raise
    (partial / _JOURNAL).unlink()
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    return folder


class _Work:
    """The files under way."""

    def __init__(self, plan: MergePlan, place: Path, fingerprint: str) -> None:
        self.plan = plan
        self.fingerprint = fingerprint
        self.place = place
        self._handles: dict[str, int] = {}
        self._journal = place / _JOURNAL
        self.done: set[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            os.close(handle)

    def prepare(self) -> None:
        """The pieces of an earlier try are kept if they are of the same plan and of this boot."""
        self._take_alone()
        self.done = self._read_journal()
        if self.done is None:
            for leftover in self.place.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            self._journal.write_text(json.dumps(self._identity()) + "\n")
            self.done = set()
        for path, file in self.plan.weights.items():
            place = self.place / path
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = self._handles[path] = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
            if os.fstat(handle).st_size != file.size:
                _reserve(handle, file.size)
            _write(handle, file.header, 0)

    def _take_alone(self) -> None:
        """Raises `Conflict` where another process merges into the same folder. The lock goes with the process."""
        self.place.mkdir(exist_ok=True)
        handle = self._handles["."] = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another merge is writing {self.place.name}", hint="wait for it, or name another folder"
            ) from None

    def run(self, threads: int, progress: Progress) -> None:
        self._write_others()
        pieces = self._pieces()
        with ThreadPoolExecutor(threads) as pool, self._journal.open("a") as journal:
            running: set[Written] = set()
            try:
                for piece in pieces:
                    if self._name(piece) in (self.done or ()):
                        progress(piece[3] - piece[2])
                        continue
                    running.add(pool.submit(self._write_piece, piece))
                    if len(running) > 2 * threads:
                        running = self._collect(running, journal, progress)
                while running:
                    running = self._collect(running, journal, progress)
            except BaseException:
                for future in running:
                    future.cancel()
                raise

    @staticmethod
    def _collect(running: set[Written], journal: TextIO, progress: Progress) -> set[Written]:
        finished, rest = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            name, size = future.result()
            journal.write(f"{name}\n")
            journal.flush()
            progress(size)
        return rest

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _pieces(self) -> Iterator[Piece]:
        """Pieces of two files in turn: a file is written by one thread at a time, the other would wait for it."""
        files = [*self.plan.weights.values()]
        halves = (chain.from_iterable(map(self._pieces_of, files[first::2])) for first in (0, 1))
        for pair in zip_longest(*halves):
            yield from filter(None, pair)

    def _pieces_of(self, file: WeightFile) -> Iterator[Piece]:
        """Tensors in order, large ones in pieces of whole blocks."""
        for extent in file.extents:
            size = extent.stop - extent.start
            block = _PIECE if extent.is_copy else self.plan.block_bytes(extent)
            step = max(1, _PIECE // block) * block
            for start in range(0, size, step):
                yield file, extent, start, min(size, start + step)

    def _name(self, piece: Piece) -> str:
        file, extent, start, _ = piece
        return f"{file.path} {extent.start + start}"

    def _write_piece(self, piece: Piece) -> tuple[str, int]:
        file, extent, start, stop = piece
        handle, at = self._handles[file.path], extent.start + start
        if not (extent.is_copy and self._copy(handle, at, extent, start, stop)):
            for block in self.plan.extent(extent, start, stop):
                _write(handle, block, at)
                at += len(block)
        return self._name(piece), stop - start

    def _copy(self, handle: int, at: int, extent: Extent, start: int, stop: int) -> bool:
        """Inside the kernel, where the base is a local file."""
        assert extent.source is not None  # what is copied is somewhere
        files = self.plan.base_files
        if not isinstance(files, OpenFolder) or not hasattr(os, "copy_file_range"):
            return False
        source = files.handle(extent.source.path)
        begin = extent.source.start + start
        while start < stop:
            try:
                moved = os.copy_file_range(source, handle, stop - start, begin, at)
            except OSError:
                return False
            if not moved:
                return False
            start, begin, at = start + moved, begin + moved, at + moved
        return True

    def _write_others(self) -> None:
        for path, size in self.plan.files.items():
            if path in self.plan.weights:
                continue
            place = self.place / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                for piece in self.plan.stream(path, 0, size):
                    file.write(piece)

    # --- the journal --------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, str]:
        return {"digest": self.plan.digest, "sources": self.fingerprint, "boot": _boot()}

    def _read_journal(self) -> set[str] | None:
        with suppress(OSError, ValueError):
            first, *names = self._journal.read_text().split("\n")
            if json.loads(first) == self._identity() and _boot():
                return set(names[:-1])  # a line without its end wasn't written whole
        return None


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _reserve(handle: int, size: int) -> None:
    """Takes the space at once, so that a full disk shows before any work is done."""
    os.ftruncate(handle, 0)
    if size:
        try:
            os.posix_fallocate(handle, 0, size)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) == _NO_SPACE:
                raise
            os.ftruncate(handle, size)


_NO_SPACE = 28


def _write(handle: int, content: bytes | memoryview, at: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written
