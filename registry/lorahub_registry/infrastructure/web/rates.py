"""How often one caller may ask: fixed windows, counted exactly.

On PostgreSQL all processes count together. On SQLite there is one, which counts in its memory, as any does while the
database can't count: no request fails for that.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import ceil

from fastapi import Request
from lorahub.errors import TooManyRequests

from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.failures import UNAVAILABLE
from lorahub_registry.infrastructure.database.request_counts import RequestCounts
from lorahub_registry.infrastructure.web.proxies import subscriber
from lorahub_registry.settings import Settings

logger = logging.getLogger("lorahub")

_ALONE_SECONDS = 5.0


class RateKind(Enum):
    """What is limited apart, as the Hub does; `LOGIN` is a credential that turned out to be none."""

    API = "api"
    RESOLVE = "resolve"
    PAGES = "pages"
    LOGIN = "login"


@dataclass(frozen=True, slots=True)
class Rate:
    """Where one caller stands. Times in seconds."""

    kind: RateKind
    limit: int
    used: int
    resets_in: int
    window: int

    def headers(self) -> dict[str, str]:
        """As the Hub's clients parse them (draft-ietf-httpapi-ratelimit-headers-09)."""
        name, remaining = self.kind.value, max(self.limit - self.used, 0)
        return {
            "RateLimit": f'"{name}";r={remaining};t={self.resets_in}',
            "RateLimit-Policy": f'"fixed window";"{name}";q={self.limit};w={self.window}',
        }


class OwnCounts:
    """In this process's memory. All callers' windows begin together, so that the old one is dropped as a whole."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._number = 0.0
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, kind: str, caller: str) -> tuple[int, float]:
        """One more; how many in this window, and the seconds of it that have passed."""
        with self._lock:
            number, passed = divmod(time.time(), self._window)
            if number != self._number:
                self._number = number
                self._counts.clear()
            self._counts[kind, caller] += 1
            return self._counts[kind, caller], passed


class SharedCounts:
    """The database's, for all processes; this one's own for some seconds after the database couldn't count."""

    def __init__(self, database: Database, window: float) -> None:
        self._counts = RequestCounts(database, window)
        self._own = OwnCounts(window)
        self._lock = threading.Lock()
        self._alone_until = 0.0

    def count(self, kind: str, caller: str) -> tuple[int, float]:
        if time.monotonic() < self._alone_until:
            return self._own.count(kind, caller)
        try:
            return self._counts.count(kind, caller)
        except UNAVAILABLE as error:
            self._go_alone(error)
            return self._own.count(kind, caller)

    def _go_alone(self, error: Exception) -> None:
        with self._lock:
            is_first = time.monotonic() >= self._alone_until
            self._alone_until = time.monotonic() + _ALONE_SECONDS
        if is_first:
            logger.warning("requests are counted by this process alone for %g s", _ALONE_SECONDS, exc_info=error)


class Rates:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._window = settings.rate_window.total_seconds()
        self._limits: Mapping[RateKind, int] = {
            RateKind.API: settings.rate_limit_api,
            RateKind.RESOLVE: settings.rate_limit_resolve,
            RateKind.PAGES: settings.rate_limit_pages,
            RateKind.LOGIN: settings.rate_limit_login,
        }
        self._counts = OwnCounts(self._window) if database.is_sqlite else SharedCounts(database, self._window)

    def count(self, kind: RateKind, caller: str) -> Rate | None:
        """One more request of this caller; None where this kind isn't limited."""
        limit = self._limits[kind]
        if not limit:
            return None
        used, passed = self._counts.count(kind.value, caller)
        return Rate(kind, limit, used, ceil(self._window - passed), round(self._window))


def admit(request: Request, kind: RateKind, caller: str) -> None:
    """Counts the request, so that its answer says where the caller stands. Raises `TooManyRequests`."""
    rates: Rates = request.app.state.rates
    rate = rates.count(kind, caller)
    request.state.rate = rate
    if rate is not None and rate.used > rate.limit:
        raise TooManyRequests(
            f"more than {rate.limit} requests ({kind.value}) in {rate.window} s",
            hint=f"wait {rate.resets_in} s",
            retry_after=rate.resets_in,
        )


def kind_of(request: Request) -> RateKind:
    """By the route's template."""
    route: str = request.scope["route"].path
    if "/resolve/{rev}" in route:
        return RateKind.RESOLVE
    return RateKind.API if route.startswith("/api/") or ".git/" in route else RateKind.PAGES


def address_of(request: Request) -> str:
    return subscriber(request.client.host if request.client else None)
