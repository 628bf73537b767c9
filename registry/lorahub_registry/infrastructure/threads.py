"""Threads by what they wait for, so that slow work of one kind never holds up another.

A route's own work, which is the database's, runs in the server's threads (`DATABASE_THREADS`). What waits for the
storage, and what computes, has threads of its own: a request in line for one of them holds none of the server's, and
one that is in line for too long is told to come again (`Busy`). The event loop does no work at all, so whoever only
asks whether the process lives is answered at once.
"""

import asyncio
import contextvars
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from anyio import CancelScope, CapacityLimiter, fail_after, to_thread
from anyio.lowlevel import RunVar
from lorahub.errors import Busy

P = ParamSpec("P")
R = TypeVar("R")

DATABASE_THREADS = 32
"""Each may hold one database connection and one megabyte of a file."""


class Threads:
    """`most` threads for one kind of work. `patience` is how many seconds a request waits for one of them."""

    def __init__(self, kind: str, most: int, *, patience: float = 30) -> None:
        self.patience = patience
        self._kind = kind
        self._most = most
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=kind)
        self._of_this_loop: RunVar[CapacityLimiter] = RunVar(f"threads for {kind}")

    async def begin(self, work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """What `work` returns. Raises what it does, and `Busy` where no thread was free in time."""
        limiter = self._limiter()
        try:
            with fail_after(self.patience):
                await limiter.acquire()
        except TimeoutError:
            raise Busy(
                f"all {self._most} threads for {self._kind} have been busy for {self.patience:g} seconds",
                hint="try again in a moment",
                retry_after=max(1, round(self.patience / 2)),
            ) from None
        return await self._run(limiter, functools.partial(work, *arguments, **options))

    async def go_on(self, work: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """The same for an answer or a body that is under way: it waits as long as it takes."""
        limiter = self._limiter()
        await limiter.acquire()
        return await self._run(limiter, functools.partial(work, *arguments, **options))

    async def each(self, pieces: Iterator[R]) -> AsyncIterator[R]:
        """Each piece is made by one of these threads; nobody holds one between two pieces."""
        end: Any = object()
        while (piece := await self.go_on(lambda: next(pieces, end))) is not end:
            yield piece

    def serves(self, route: Callable[..., R]) -> Callable[..., Awaitable[R]]:
        """A route that does its work in these threads."""

        @functools.wraps(route)
        async def begin(**arguments: Any) -> R:
            return await self.begin(route, **arguments)

        return begin

    async def _run(self, limiter: CapacityLimiter, work: Callable[[], R]) -> R:
        """Holds the place until the thread is done, whoever stops waiting for it."""
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, contextvars.copy_context().run, work)
            with CancelScope(shield=True):
                await asyncio.wait([future])
            return future.result()
        finally:
            limiter.release()

    def _limiter(self) -> CapacityLimiter:
        try:
            return self._of_this_loop.get()
        except LookupError:
            self._of_this_loop.set(limiter := CapacityLimiter(self._most))
            return limiter


STORAGE = Threads("the storage", 32)
UPSTREAM = Threads("files of upstreams", 16)
"""None of them waits: who has nothing to take yet comes again."""
COMPUTING = Threads("merged weights", max(1, min(4, (os.cpu_count() or 1) - 1)))
"""One core is left for everybody else. They keep scratch memory, so nothing else runs in them."""


def set_up(*, storage_wait_seconds: float) -> None:
    """In the event loop of a server, when it starts."""
    to_thread.current_default_thread_limiter().total_tokens = DATABASE_THREADS
    STORAGE.patience = storage_wait_seconds
