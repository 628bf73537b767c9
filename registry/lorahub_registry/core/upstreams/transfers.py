"""The bytes of an upstream's file: fetched once, however many ask, stored while they stream to whoever asked.

Whoever has the lease on a transfer fetches it: one thread of one process. What came is stored in parts that every
process can read, so who waits in another one gets them as they are done, and who goes on after a kill begins behind
them. The last part is held back until all of the file has the digest that was announced: nobody gets to the end of a
file that is another one.
"""

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from weakref import WeakKeyDictionary

from lorahub.errors import (
    AccessRefused,
    DiskFull,
    Interrupted,
    LimitExceeded,
    LorahubError,
    Unavailable,
    error_class,
)

from lorahub_registry.core.blobs.service import Upload, open_blob, receiving
from lorahub_registry.core.upstreams import service
from lorahub_registry.core.upstreams.hub import Digester, RemoteHub
from lorahub_registry.core.upstreams.service import Transfer, WantedFile
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Database, now
from lorahub_registry.infrastructure.failpoints import reach
from lorahub_registry.infrastructure.storage import ObjectNotFound
from lorahub_registry.infrastructure.storage.object_keys import Staging
from lorahub_registry.infrastructure.threads import UPSTREAM

logger = logging.getLogger("lorahub")

PART_BYTES = 8 << 20
HEADER_BYTES = (8 << 20) + 8
"""Within which whoever reads a header stays: as much is asked of the upstream without fetching the file."""

_MOST_PARTS = 4000
_MOST_AT_ONCE = 8
_PIECE_BYTES = 1 << 20
_PAUSE = 0.05
_LOOK_EVERY = 0.25
_BEAT_EVERY = 2.0
_PATIENCE = 120.0
"""Seconds for which a reader waits for the next byte."""
_WORTH_A_TRANSFER = 1 << 20


# --- reading ----------------------------------------------------------------------------------------------------------


async def pieces(backend: Backend, wanted: WantedFile, start: int, stop: int) -> AsyncIterator[bytes]:
    """The bytes `[start, stop)` as they come. Raises what ended the transfer, and `Unavailable`."""
    reading = _Reading(backend, wanted, start, stop)
    while not reading.is_over:
        piece = await UPSTREAM.go_on(reading.take)
        if piece is None:
            await asyncio.sleep(_PAUSE)
        else:
            yield piece


def read(backend: Backend, wanted: WantedFile, start: int, stop: int) -> bytes:
    """The bytes `[start, stop)`, waited for; a header's without the rest of its file. Raises as `pieces`."""
    is_header = stop <= HEADER_BYTES and wanted.file.size > _WORTH_A_TRANSFER
    blob, transfer = service.transfer_of(backend, wanted)
    if is_header and blob is None and (transfer is None or transfer.done < stop):
        return _header(backend, wanted, start, stop)
    reading, found = _Reading(backend, wanted, start, stop), bytearray()
    while not reading.is_over:
        piece = reading.take()
        if piece is None:
            time.sleep(_PAUSE)
        else:
            found += piece
    return bytes(found)


def fetch(backend: Backend, wanted: Collection[WantedFile]) -> None:
    """All of these, several at once, until they are stored. Raises as `pieces`."""
    for one in wanted:
        begin(backend, one)
    for one in wanted:
        read(backend, one, 0, one.file.size)
        end = time.monotonic() + _PATIENCE
        while one.file.size and service.transfer_of(backend, one)[0] is None:
            if time.monotonic() > end:
                raise Unavailable(f"{one.file.path} came from its upstream, and isn't stored", hint="try again")
            time.sleep(_PAUSE)


def _header(backend: Backend, wanted: WantedFile, start: int, stop: int) -> bytes:
    hub = service.hub_of(backend, service.upstream_of(backend, wanted.repository))
    source = wanted.repository.full_name
    found = b"".join(hub.range(source, wanted.commit_id, wanted.file, start, stop, seconds=_PATIENCE))
    if len(found) != stop - start:
        raise Unavailable(f"{wanted.file.path}: the upstream sent {len(found)} bytes of {stop - start}")
    return found


class _Reading:
    """One reader of one file, wherever its bytes are by now: in the storage, in parts, or in this process's hands."""

    def __init__(self, backend: Backend, wanted: WantedFile, start: int, stop: int) -> None:
        self._backend = backend
        self._wanted = wanted
        self._at = start
        self._stop = stop
        self._stored: Iterator[bytes] = iter(())
        self._look_at = 0.0
        self._moved_at = time.monotonic()

    @property
    def is_over(self) -> bool:
        return self._at >= self._stop

    def take(self) -> bytes | None:
        """The next bytes; None where they aren't here yet."""
        piece = self._next()
        if piece:
            self._at += len(piece)
            self._moved_at = time.monotonic()
        elif time.monotonic() - self._moved_at > _PATIENCE:
            raise Unavailable(f"{self._wanted.file.path} doesn't come from its upstream", hint="try again")
        return piece or None

    def _next(self) -> bytes | None:
        with suppress(ObjectNotFound):  # a part that was joined with the others since
            if piece := next(self._stored, None):
                return piece
        live = _live_of(self._backend, self._wanted)
        if live is not None and (piece := live.piece(self._at, self._stop)) is not None:
            return piece
        if time.monotonic() < self._look_at:
            return None
        found = self._look()
        self._look_at = 0.0 if found else time.monotonic() + _LOOK_EVERY
        return found

    def _look(self) -> bytes | None:
        blob, transfer = service.transfer_of(self._backend, self._wanted)
        if blob is None and (transfer is None or not transfer.is_held):
            _raise_fault(transfer)
            begin(self._backend, self._wanted)
        with suppress(ObjectNotFound):  # parts of a transfer that ended since
            if blob is not None:
                self._stored = open_blob(self._backend, blob, self._at, self._stop, path=self._wanted.file.path)
            elif transfer is not None and transfer.done > self._at and transfer.upload_id is not None:
                self._stored = _part(self._backend, transfer, transfer.upload_id, self._at, self._stop)
            return next(self._stored, None)
        return None


def _part(backend: Backend, transfer: Transfer, upload_id: str, at: int, stop: int) -> Iterator[bytes]:
    """From `at` to the end of the part that it is in. Raises `ObjectNotFound`."""
    number, behind = divmod(at, transfer.part_bytes)
    end = min(stop, transfer.done, (number + 1) * transfer.part_bytes)
    return backend.blobs.open_range(Staging(upload_id).part(number + 1), behind, behind + end - at)


def _raise_fault(transfer: Transfer | None) -> None:
    """Why the last attempt ended, until it may be tried again. That an upstream lies is no refusal of ours."""
    if transfer is None or transfer.fault is None or transfer.retry_at is None or transfer.retry_at <= now():
        return
    seconds = max(1, round((transfer.retry_at - now()).total_seconds()))
    known = error_class(transfer.fault["code"], 503)
    is_answer = issubclass(known, (AccessRefused, LimitExceeded, DiskFull))
    raise (known if is_answer else Unavailable)(transfer.fault["message"], retry_after=seconds)


# --- fetching ---------------------------------------------------------------------------------------------------------


class _Live:
    """A transfer of this process: the part that is being filled, for readers beside it."""

    def __init__(self, wanted: WantedFile) -> None:
        self.wanted = wanted
        self.holder = secrets.token_hex(16)
        self.upload: Upload | None = None
        self.part_bytes = max(PART_BYTES, -(-wanted.file.size // _MOST_PARTS))
        self.is_lost = threading.Event()
        self.is_over = threading.Event()
        self._lock = threading.Lock()
        self._start = 0
        self._buffer = bytearray()
        self._is_verified = False

    def begin(self, done: int) -> None:
        with self._lock:
            self._start = done

    def add(self, piece: bytes) -> None:
        with self._lock:
            self._buffer += piece

    def verified(self) -> None:
        self._is_verified = True

    def full_part(self) -> bytes | None:
        """The part in the making, where all of it is here."""
        is_full = len(self._buffer) >= self.part_bytes
        if not is_full:
            return None
        with self._lock, memoryview(self._buffer) as view:
            return bytes(view[: self.part_bytes])

    def rest(self) -> bytes:
        return bytes(self._buffer)

    def stored(self, size: int) -> int:
        """The part is stored; where the next one begins."""
        with self._lock:
            self._start += size
            del self._buffer[:size]
            return self._start

    def piece(self, start: int, stop: int) -> bytes | None:
        """What is at hand of `[start, stop)`; nothing of the last part before all is known to be right."""
        with self._lock:
            size = self.wanted.file.size
            last = (size - 1) // self.part_bytes * self.part_bytes
            known = self._start + len(self._buffer) if self._is_verified else min(self._start + len(self._buffer), last)
            if not self._start <= start < known:
                return None
            end = min(stop, known, start + _PIECE_BYTES)
            with memoryview(self._buffer) as view:
                return bytes(view[start - self._start : end - self._start])


_lives: "WeakKeyDictionary[Database, dict[tuple[int, str], _Live]]" = WeakKeyDictionary()
_beginning = threading.Lock()
_at_once = threading.BoundedSemaphore(_MOST_AT_ONCE)


def _live_of(backend: Backend, wanted: WantedFile) -> _Live | None:
    with _beginning:
        return _lives.setdefault(backend.database, {}).get(wanted.key)


def begin(backend: Backend, wanted: WantedFile) -> None:
    """In a thread of its own, unless one of this process is at it, or another process proves to be."""
    with _beginning:
        lives = _lives.setdefault(backend.database, {})
        if wanted.key in lives:
            return
        live = lives[wanted.key] = _Live(wanted)
    threading.Thread(target=_run, args=(backend, live), name="upstream", daemon=True).start()


def _run(backend: Backend, live: _Live) -> None:
    try:
        with _at_once:
            transfer = service.claim(backend, live.wanted, holder=live.holder, part_bytes=live.part_bytes)
            if transfer is not None:
                live.part_bytes = transfer.part_bytes
                _hold_and_fetch(backend, live, transfer)
    except Exception:  # nobody waits for this thread: readers look at what it wrote
        logger.exception("a transfer of %s ended", live.wanted.file.path)
    finally:
        live.is_over.set()
        with _beginning:
            _lives.setdefault(backend.database, {}).pop(live.wanted.key, None)


def _hold_and_fetch(backend: Backend, live: _Live, transfer: Transfer) -> None:
    threading.Thread(target=_beat, args=(backend, live), name="upstream-lease", daemon=True).start()
    try:
        _fetch(backend, live, transfer)
    except Interrupted:
        logger.warning("another process goes on with %s", live.wanted.file.path)
    except LorahubError as error:
        logger.warning("%s of %s: %s", live.wanted.file.path, live.wanted.repository.full_name, error.message)
        live.is_over.set()
        service.give_up(backend, live.wanted, error, holder=live.holder, upload=live.upload)


def _beat(backend: Backend, live: _Live) -> None:
    """Renews the lease while the upstream is slow."""
    while not live.is_over.wait(_BEAT_EVERY):
        try:
            service.progress(backend, live.wanted, holder=live.holder)
        except Interrupted:
            live.is_lost.set()
            return
        except Exception as error:  # noqa: BLE001 (a beat that is missed is no end; the next one comes)
            logger.warning("the lease on %s wasn't renewed: %s", live.wanted.file.path, error)


def _fetch(backend: Backend, live: _Live, transfer: Transfer) -> None:
    wanted = live.wanted
    hub = service.hub_of(backend, service.upstream_of(backend, wanted.repository))
    upload, keys, digester, done = _begun(backend, live, transfer)
    for piece in _coming(hub, live, done):
        digester.feed(piece)
        live.add(piece)
        while (part := live.full_part()) is not None and done + len(part) < wanted.file.size:
            done = _store(backend, live, upload, keys, part)
    sha256 = digester.finish()
    live.verified()
    if done < wanted.file.size:
        _store(backend, live, upload, keys, live.rest())
    reach("upstream-fetched")
    service.settle(backend, wanted, upload, keys, sha256)


def _begun(backend: Backend, live: _Live, transfer: Transfer) -> tuple[Upload, list[str], Digester, int]:
    """What whoever began it and died has stored: its upload, the parts' keys, what hashes them, and their bytes."""
    for is_anew in (False, True):
        upload, done = service.resume(backend, live.wanted, transfer, holder=live.holder, anew=is_anew)
        live.upload, digester = upload, Digester(live.wanted.file)
        keys = [Staging(upload.id).part(number) for number in range(1, -(-done // live.part_bytes) + 1)]
        with suppress(ObjectNotFound):  # of a storage that was restored without them
            for key in keys:
                for piece in backend.blobs.open_range(key, 0, live.part_bytes):
                    digester.feed(piece)
            live.begin(done)
            return upload, keys, digester, done
    raise AssertionError("an upload that begins anew has no parts")


def _coming(hub: RemoteHub, live: _Live, start: int) -> Iterator[bytes]:
    def go_on() -> None:
        if live.is_lost.is_set():
            raise Interrupted(f"another process fetches {live.wanted.file.path} now")

    wanted = live.wanted
    return hub.stream(wanted.repository.full_name, wanted.commit_id, wanted.file, start=start, go_on=go_on)


def _store(backend: Backend, live: _Live, upload: Upload, keys: list[str], part: bytes) -> int:
    """How many bytes are stored then."""
    key = Staging(upload.id).part(len(keys) + 1)
    with receiving(backend, upload, key) as file:
        file.write(part)
    keys.append(key)
    done = live.stored(len(part))
    service.progress(backend, live.wanted, holder=live.holder, done=done)
    reach("upstream-part")
    return done
