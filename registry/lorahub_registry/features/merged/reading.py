"""Computing a merged revision while it is read.

A block is computed once, whoever waits for it, in threads of their own (`threads.COMPUTING`): how many there are bounds
the work at once, and `MOST_MEMORY` for each of them the memory. What is kept, blocks and the factors that they are made
of, is counted in bytes together. What takes more than that for one block, as every method does that needs a tensor
whole, is no reader's business: a worker makes the file.
"""

import asyncio
import functools
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from lorahub.merging.layout import Extent
from lorahub.merging.plan import MergePlan, Piece
from threadpoolctl import threadpool_limits

from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.threads import COMPUTING, STORAGE

MOST_MEMORY = 64 << 20
"""Bytes that the computing of one block may take, its factors included."""
MOST_WORK = 1 << 28
"""Multiplications for one block: about a tenth of a second."""
_MOST_PLANS = 16
_SECONDS_TO_START = 5
_MOST_SECONDS = 60
_PER_SECOND = {"svd": 500_000}
"""Numbers of a tensor that a core of a worker computes."""
_USUALLY = 4_000_000


class ResultCache:
    """What was computed, the last used of it, up to a number of bytes. Safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str) -> Any | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: str, value: Any, size: int) -> None:
        with self._lock:
            if key in self._kept or size > self._limit:
                return
            self._kept[key] = value, size
            self._size += size
            while self._size > self._limit:
                self._size -= self._kept.popitem(last=False)[1][1]


@dataclass(frozen=True, slots=True)
class Readable:
    """A plan, and by file the tensors that are left to workers."""

    plan: MergePlan
    heavy: Mapping[str, tuple[Extent, ...]]

    @classmethod
    def of(cls, plan: MergePlan) -> "Readable":
        heavy = {path: tuple(e for e in file.extents if _is_heavy(plan, e)) for path, file in plan.weights.items()}
        return cls(plan, {path: extents for path, extents in heavy.items() if extents})

    def needs_worker(self, path: str, start: int, stop: int) -> bool:
        return any(extent.start < stop and start < extent.stop for extent in self.heavy.get(path, ()))

    def seconds(self, path: str) -> int:
        """About how long a worker takes for a file; what a client is told to wait."""
        numbers = sum(extent.target.matrix[0] * extent.target.matrix[1] for extent in self.heavy.get(path, ()))
        estimated = numbers / _PER_SECOND.get(self.plan.recipe.method, _USUALLY)
        return min(_MOST_SECONDS, _SECONDS_TO_START + round(estimated))


def _is_heavy(plan: MergePlan, extent: Extent) -> bool:
    if extent.is_copy:
        return False
    effort = plan.effort(extent)
    return plan.is_whole(extent) or effort.memory > MOST_MEMORY or effort.work > MOST_WORK


class Plans:
    """The plans that were read last, each made once however many ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Readable] = OrderedDict()
        self._making: dict[str, Lock] = {}
        self._lock = Lock()

    def get(self, key: str, make: Callable[[], MergePlan]) -> Readable:
        with self._lock:
            making = self._making.setdefault(key, Lock())
        try:
            with making:
                return self._keep(key, self._kept.get(key) or Readable.of(make()))
        finally:
            with self._lock:
                self._making.pop(key, None)

    def _keep(self, key: str, readable: Readable) -> Readable:
        with self._lock:
            self._kept[key] = readable
            self._kept.move_to_end(key)
            while len(self._kept) > _MOST_PLANS:
                self._kept.popitem(last=False)
        return readable


class Flights:
    """Work that is under way, by name: who wants the same waits for it."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Task[bytes]] = {}

    async def join(self, key: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        here = asyncio.get_running_loop(), key
        task = self._under_way.get(here)
        if task is None:
            task = self._under_way[here] = asyncio.ensure_future(make())
            task.add_done_callback(functools.partial(self._land, here))
        return await asyncio.shield(task)  # whoever leaves doesn't take it from the others

    def _land(self, here: tuple[asyncio.AbstractEventLoop, str], task: asyncio.Task[bytes]) -> None:
        del self._under_way[here]
        if not task.cancelled():
            task.exception()  # it is somebody's, even if everybody has left


@functools.cache
def kept(limit: int) -> ResultCache:
    threadpool_limits(limits=1, user_api="blas")  # the threads are ours
    return ResultCache(limit)


plans = Plans()
_flights = Flights()


async def stream(backend: Backend, plan: MergePlan, path: str, start: int, stop: int) -> AsyncIterator[bytes]:
    """The bytes [start, stop) of a file; between two pieces a reader holds no thread, and no more than a piece."""
    cache, compute = kept(backend.settings.merged_cache_bytes), COMPUTING.begin
    for piece in plan.pieces(path, start, stop):
        if piece.read is not None:
            yield await STORAGE.go_on(piece.read)
        else:
            yield (await _block(cache, plan, path, piece, compute))[piece.start : piece.stop]
        compute = COMPUTING.go_on


async def _block(
    cache: ResultCache, plan: MergePlan, path: str, piece: Piece, compute: Callable[..., Awaitable[Any]]
) -> bytes:
    """`compute` runs what it is given in a thread."""
    extent = piece.extent
    assert extent is not None  # what isn't read is computed
    key = f"{plan.digest}/{path}/{extent.target.name}/{piece.number}"

    async def make() -> bytes:
        raw, dtype = await STORAGE.go_on(plan.block_of_base, extent, piece.number)
        block: bytes = await compute(_finished, plan, extent, piece.number, raw, dtype)
        cache.put(key, block, len(block))
        return block

    return cache.get(key) or await _flights.join(key, make)


def _finished(plan: MergePlan, extent: Extent, number: int, raw: bytes, dtype: str) -> bytes:
    """A copy: the thread's own array is overwritten by its next block."""
    return bytes(plan.finish(extent, number, raw, dtype))
