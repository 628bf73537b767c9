"""Who is let in, before any route: requests for a name of ours, as many at once as there is room for."""

from collections import Counter

from lorahub.errors import TooManyRequests, Unavailable, UnknownHost
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lorahub_registry.infrastructure.web import problems
from lorahub_registry.infrastructure.web.hosts import Hosts
from lorahub_registry.infrastructure.web.proxies import subscriber
from lorahub_registry.infrastructure.web.room import room_for
from lorahub_registry.settings import Settings

PROBES = frozenset({"/livez", "/readyz", "/startupz"})
"""Always let in: they say nothing of what is kept here, and whoever watches a crowded process has to see that it lives.
"""
_SECONDS = 2  # until a place may be free


class Crowd:
    """The requests under way. One event loop counts them, so nothing is locked."""

    def __init__(self, *, most: int, most_of_an_address: int) -> None:
        self._most = most
        self._most_of_an_address = most_of_an_address
        self._all = 0
        self._of: Counter[str] = Counter()

    @classmethod
    def of(cls, settings: Settings) -> "Crowd":
        return cls(most=room_for(settings).requests, most_of_an_address=settings.connections_per_address)

    def enter(self, address: str) -> None:
        """Raises `Unavailable`, `TooManyRequests`."""
        if self._all >= self._most:
            raise Unavailable(f"{self._all} requests are under way, which is all that this process takes")
        if 0 < self._most_of_an_address <= self._of[address]:
            raise TooManyRequests(
                f"{self._of[address]} requests of this address are under way, which is all that one address may have",
                hint=f"wait {_SECONDS} s",
                retry_after=_SECONDS,
            )
        self._all += 1
        self._of[address] += 1

    def leave(self, address: str) -> None:
        self._all -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


class Admission:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, hosts: Hosts, crowd: Crowd) -> None:
        self.app = app
        self._hosts = hosts
        self._crowd = crowd

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        address = subscriber(scope["client"][0] if scope.get("client") else None)
        try:
            self._hosts.require(Headers(scope=scope).getlist("host"))
            self._crowd.enter(address)
        except (UnknownHost, TooManyRequests, Unavailable) as error:
            await problems.answer(Request(scope), error)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self._crowd.leave(address)
