"""Who waits for an event in this process: told by one bell for all of them, so that nobody asks the database meanwhile.

Belongs to one event loop, so nothing is locked; the bell's thread only tells the loop.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from lorahub.errors import Busy

from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.bell import Bell, Sound

_TOGETHER_SECONDS = 0.05
"""After a ring: who rings in that time is heard by the same look."""
_SLICE_SECONDS = 1.0
"""Between two looks whether whoever waits is still there."""
_SHARE = 4
"""One caller may take one of so many places; callers without an account are one."""


class Waiters:
    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._of: Counter[str] = Counter()
        self._rings = 0
        self._rung: asyncio.Event | None = None

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Raises `Busy` where too many wait already."""
        share = max(1, self._most // _SHARE)
        if self._of.total() >= self._most or self._of[caller] >= share:
            raise Busy(
                f"{self._of[caller]} requests of this caller and {self._of.total()} in all wait for events already",
                hint="ask without `wait`, or let one of them end",
                retry_after=5,
            )
        self._of[caller] += 1
        if self._rung is None:
            self._rung = asyncio.Event()
            bell, loop = Bell(self._database, Sound.EVENT), asyncio.get_running_loop()
            threading.Thread(target=self._hear, args=(bell, loop), name="events", daemon=True).start()
        try:
            yield
        finally:
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]

    @property
    def rings(self) -> int:
        """How often it has rung: whoever looks at the feed remembers this first."""
        return self._rings

    async def wait(self, rings: int, seconds: float, *, is_over: Callable[[], Awaitable[bool]]) -> bool:
        """Until it has rung more often than that; whether it has. `is_over`: nobody is there to be told any more."""
        end = time.monotonic() + seconds
        while self._rings == rings and (left := end - time.monotonic()) > 0 and not await is_over():
            assert self._rung is not None
            try:
                await asyncio.wait_for(self._rung.wait(), min(left, _SLICE_SECONDS))
            except TimeoutError:
                continue
        return self._rings != rings

    def _hear(self, bell: Bell, loop: asyncio.AbstractEventLoop) -> None:
        while not loop.is_closed():
            if bell.wait(_SLICE_SECONDS * 10):
                time.sleep(_TOGETHER_SECONDS)
                try:
                    loop.call_soon_threadsafe(self._tell)
                except RuntimeError:  # the loop has ended meanwhile
                    return

    def _tell(self) -> None:
        self._rings += 1
        assert self._rung is not None
        self._rung.set()
        self._rung = asyncio.Event()
