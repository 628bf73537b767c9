"""Who may hold a connection to this process, and how slowly he may use it: before any route, whatever is asked.

uvicorn gives every client all the time and all the descriptors there are; its protocol is taken here with bounds
(docs/decisions/0011-…). Once a second each connection is looked at:

- the lines before a body arrive within `header_seconds`, and are no longer than `MOST_HEADER_BYTES`;
- a body comes, and an answer is taken, at `least_bytes_per_second`, or more slowly for `stall_seconds` at most.
  What we make the client wait for is not his slowness;
- a connection that has nothing under way gives its place to a new one when there is none left, the longest-waiting
  first. Only when all of them are at work is the new one refused.
"""

import asyncio
import enum
import logging
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from lorahub.errors import HeaderTooLong, LorahubError, MalformedBody, TooManyRequests, TooSlow, Unavailable
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.web import problems
from lorahub_registry.infrastructure.web.proxies import Proxies, is_near, subscriber

logger = logging.getLogger("lorahub")

IDLE_SECONDS = 75
"""Between two requests of a connection: longer than nginx keeps one to us, or it would ask on one that just ends."""
LATE_SECONDS = 2.0
"""For a request that is on its way to a process which ends."""
MOST_HEADER_BYTES = 64 << 10
"""The most that one request may have, its address and the lines behind a chunked body included."""
MOST_PIPELINED = 16
"""Requests that a client sends ahead, before the first of them is answered."""

_ACKNOWLEDGED_AT = 120
"""Where Linux says in its `struct tcp_info` how many bytes the other side has: `tcpi_bytes_acked`."""


@dataclass(frozen=True, slots=True)
class Bounds:
    connections: int
    connections_per_address: int
    """0: any."""
    header_seconds: float
    least_bytes_per_second: int
    """0: any."""
    stall_seconds: float


class Door:
    """The connections of this process, those that began to wait longest ago first. One event loop's, so not locked."""

    def __init__(self, bounds: Bounds, proxies: Proxies) -> None:
        self.bounds = bounds
        self.proxies = proxies
        self._all: dict[Connection, None] = {}
        self._of: dict[str, dict[Connection, None]] = {}
        self._has_warned = False

    def enter(self, one: "Connection") -> LorahubError | None:
        """Why there is no place for it; None where there is."""
        refusal = self._make_room(one)
        if refusal is None:
            self._take(one)
            metrics.CONNECTIONS.set(len(self._all))
        return refusal

    def _make_room(self, one: "Connection") -> LorahubError | None:
        of_address = {} if one.subscriber is None else self._of.get(one.subscriber, {})
        if 0 < self.bounds.connections_per_address <= len(of_address):
            if not self._displace_one_of(of_address):
                return TooManyRequests(
                    f"{len(of_address)} connections of this address are at work, all that one address may have",
                    hint="use fewer at once",
                    retry_after=2,
                )
        elif len(self._all) >= self.bounds.connections and not self._displace_one_of(self._all):
            return Unavailable(f"{len(self._all)} connections are at work, which is all that this process takes")
        return None

    def _displace_one_of(self, connections: Iterable["Connection"]) -> bool:
        waiting = next((one for one in connections if one.is_waiting), None)
        if waiting is None:
            return False
        waiting.end("crowded")
        return True

    def wait(self, one: "Connection") -> None:
        """It begins to wait anew: behind all others."""
        if one in self._all:
            self._leave(one)
            self._take(one)

    def leave(self, one: "Connection") -> None:
        """Whether it has a place or not."""
        if one in self._all:
            self._leave(one)
            metrics.CONNECTIONS.set(len(self._all))

    def _take(self, one: "Connection") -> None:
        self._all[one] = None
        if one.subscriber is not None:
            self._of.setdefault(one.subscriber, {})[one] = None

    def _leave(self, one: "Connection") -> None:
        del self._all[one]
        if one.subscriber is not None:
            del self._of[one.subscriber][one]
            if not self._of[one.subscriber]:
                del self._of[one.subscriber]

    def note_forwarded(self, host: str) -> None:
        """`host` says for whom it asks, and isn't believed. Said once: most likely it is a proxy that nobody named."""
        if not self._has_warned and host not in self.proxies and is_near(host):
            self._has_warned = True
            logger.warning(
                "%s sends X-Forwarded-For and is not believed; if it is a proxy of yours, name it in "
                "LORAHUB_TRUSTED_PROXIES, or all its clients count as one address",
                host,
            )


class _Phase(enum.Enum):
    """What the next bytes from a client are."""

    BETWEEN = enum.auto()
    HEADER = enum.auto()
    BODY = enum.auto()


class _Pace:
    """Every byte buys its time at the least rate, and no more than `stall_seconds` are ever in hand."""

    def __init__(self, bounds: Bounds, total: int, at: float) -> None:
        self._rate = bounds.least_bytes_per_second
        self._most = self._left = bounds.stall_seconds
        self._total = total
        self._at = at

    def holds(self, total: int, at: float) -> bool:
        """With `total` bytes by now."""
        self._left = min(self._left - (at - self._at) + (total - self._total) / self._rate, self._most)
        self._total, self._at = total, at
        return self._left > 0


class Connection(HttpToolsProtocol):
    def __init__(
        self,
        door: Door,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._door = door
        self.subscriber: str | None = None
        """Whose place it takes; None for a proxy's, which takes none, as its clients do by their requests."""
        self._phase = _Phase.BETWEEN
        self._is_new = True
        self._since = self.loop.time()
        """When it began to wait for a request, or the header to come."""
        self._header_bytes = self._unfinished_bytes = self._body_bytes = 0
        self._receiving: _Pace | None = None
        self._sending: _Pace | None = None
        self._refusal: LorahubError | None = None

    @property
    def is_waiting(self) -> bool:
        """Nothing is asked, or being answered."""
        return self._under_way is None and not self.pipeline and not self.transport.get_write_buffer_size()

    @property
    def _under_way(self) -> RequestResponseCycle | None:
        """The request that came last, until it is answered."""
        last = cast(RequestResponseCycle | None, self.cycle)
        return None if last is None or last.response_complete else last

    # --- what uvicorn and its parser call -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if self.client is not None and self.client[0] not in self._door.proxies:
            self.subscriber = subscriber(self.client[0])
        if (refusal := self._door.enter(self)) is not None:
            self._turn_away(refusal, "full")

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        was_header = self._phase is _Phase.HEADER
        super().data_received(data)
        if was_header and self._phase is _Phase.HEADER:  # the parser tells nothing of a line before its end
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > MOST_HEADER_BYTES:
                self._turn_away(_header_too_long(), "header")

    def send_400_response(self, msg: str) -> None:
        self._turn_away(self._refusal or MalformedBody(msg), "malformed" if self._refusal is None else "header")

    def _unsupported_upgrade_warning(self) -> None:
        """We speak nothing else, and answer as if nothing else was asked for: that is no matter for the log."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _Phase.HEADER
        self._since = self.loop.time()
        self._header_bytes = self._unfinished_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._phase = _Phase.BODY
        self._receiving = None
        if any(name == b"x-forwarded-for" for name, _ in self.headers) and self.client is not None:
            self._door.note_forwarded(self.client[0])
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = _Phase.BETWEEN
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._is_new = False
        self._since = self.loop.time()
        self._door.wait(self)

    def shutdown(self) -> None:
        """Called when the process ends. What was let in and has said nothing yet has sent its request already."""
        is_coming = self._is_new or self._phase is _Phase.HEADER
        if is_coming and self._under_way is None:
            self.loop.call_later(LATE_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _count_header(self, size: int) -> None:
        """What is raised here ends the parsing, and uvicorn calls `send_400_response`."""
        self._header_bytes += size
        if self._header_bytes > MOST_HEADER_BYTES:
            self._refusal = _header_too_long()
        elif len(self.pipeline) >= MOST_PIPELINED:
            self._refusal = TooManyRequests(
                f"more than {MOST_PIPELINED} requests were sent ahead on one connection",
                hint="wait for answers",
                retry_after=1,
            )
        if self._refusal is not None:
            raise self._refusal

    # --- bounds -------------------------------------------------------------------------------------------------------

    def look(self, at: float) -> None:
        """Ends it if it is too slow; `at` is the loop's time."""
        if not self._takes_its_answer(at):
            self.end("slow reader")
        elif self.transport.is_closing():
            pass
        elif self._phase is _Phase.BODY:
            if not self._brings_its_body(at):
                self._turn_away(self._too_slow(), "slow body")
        elif self.is_waiting and at - self._since > self._patience:
            if self._phase is _Phase.HEADER:
                self._turn_away(self._too_late(), "header")
            else:
                self.end("idle")

    @property
    def _patience(self) -> float:
        is_idle = self._phase is _Phase.BETWEEN and not self._is_new
        return IDLE_SECONDS if is_idle else self._door.bounds.header_seconds

    def _takes_its_answer(self, at: float) -> bool:
        """What the system took from us may lie there for long; what counts is what the other side says it has."""
        is_held_up = self._door.bounds.least_bytes_per_second and self.transport.get_write_buffer_size()
        total = _acknowledged(self.transport) if is_held_up else None
        if total is None:
            self._sending = None
            return True
        self._sending = self._sending or _Pace(self._door.bounds, total, at)
        return self._sending.holds(total, at)

    def _brings_its_body(self, at: float) -> bool:
        is_ours = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if is_ours or not self._door.bounds.least_bytes_per_second:
            self._receiving = None
            return True
        self._receiving = self._receiving or _Pace(self._door.bounds, self._body_bytes, at)
        return self._receiving.holds(self._body_bytes, at)

    def _too_slow(self) -> TooSlow:
        bounds = self._door.bounds
        return TooSlow(
            f"the body came at less than {bounds.least_bytes_per_second} bytes a second for {bounds.stall_seconds:g} s",
            hint="send it again",
        )

    def _too_late(self) -> TooSlow:
        return TooSlow(
            f"the lines before the body didn't arrive within {self._door.bounds.header_seconds:g} s",
            hint="send the request again",
        )

    def _turn_away(self, error: LorahubError, reason: str) -> None:
        """Says why, where a request is to be answered and isn't yet, and ends the connection."""
        request = self._under_way
        is_asked = self._is_new or self._phase is _Phase.HEADER
        is_owed = is_asked if request is None else not request.response_started
        if is_owed and not self.pipeline and not self.transport.is_closing():
            self._disconnect()
            self.transport.write(self._answer(error))
            self._leave(reason)
            self.transport.close()
        else:
            self.end(reason)

    def end(self, reason: str) -> None:
        self._disconnect()
        self._leave(reason)
        self.transport.abort()

    def _disconnect(self) -> None:
        """Who answers a request here finds that its client has gone."""
        if (request := self._under_way) is not None:
            request.disconnected = True
            request.message_event.set()

    def _leave(self, reason: str) -> None:
        metrics.ENDED.labels(reason).inc()
        self._door.leave(self)

    def _answer(self, error: LorahubError) -> bytes:
        rendered = problems.render(error)
        headers = [*self.server_state.default_headers, *rendered.raw_headers, (b"connection", b"close")]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        return STATUS_LINE[error.status] + lines + b"\r\n" + bytes(rendered.body)


def look_at(connections: Iterable[object]) -> None:
    at = asyncio.get_running_loop().time()
    for one in list(connections):
        if isinstance(one, Connection):
            try:
                one.look(at)
            except Exception:
                logger.exception("a connection was ended that could not be looked at")
                one.end("bug")


def _header_too_long() -> HeaderTooLong:
    return HeaderTooLong(f"the lines before the body have more than {MOST_HEADER_BYTES} bytes")


def _acknowledged(transport: asyncio.BaseTransport) -> int | None:
    """How many bytes the other side has; None where the system doesn't say."""
    connected = cast(socket.socket | None, transport.get_extra_info("socket"))
    if connected is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED_AT + 8)
    except OSError:
        return None
    if len(info) < _ACKNOWLEDGED_AT + 8:
        return None
    [total] = struct.unpack_from("=Q", info, _ACKNOWLEDGED_AT)
    return total or None
