"""uvicorn, with an announcement when it listens, a look at its connections each second, and an orderly end.

SIGTERM: `/readyz` says 503 at once and every answer closes its connection; for `drain_seconds` new requests are still
answered, so that a balancer has time to look; then nothing new is accepted, and what is under way has
`FINISH_SECONDS` to end.
"""

import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from lorahub_registry.infrastructure.web.connections import look_at

FINISH_SECONDS = 30
_TICKS_OF_A_SECOND = 10


class WebServer(uvicorn.Server):
    """`announce` is called when it listens, not before."""

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, announce: Callable[[], None], *, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._app = app
        self._announce = announce
        self._drain_seconds = drain_seconds
        self._stop_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal, or Ctrl-C, doesn't wait."""
        is_first = not self._app.state.is_stopping
        self._app.state.is_stopping = True
        if sig == signal.SIGTERM and is_first and self._drain_seconds:
            self._stop_at = time.monotonic() + self._drain_seconds
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_OF_A_SECOND == 0:
            look_at(self.server_state.connections)
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self._stop_at = None
            super().handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)
