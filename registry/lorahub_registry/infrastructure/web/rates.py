"""How often one caller may ask: fixed windows, counted in this process's memory, exactly.

Several processes count apart: behind a balancer the limit of all is the sum of theirs. Counting in the database would
cost each read a write, and a limit protects a process.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import ceil

from fastapi import Request
from lorahub.errors import TooManyRequests

from lorahub_registry.infrastructure.web.proxies import subscriber
from lorahub_registry.settings import Settings


class Kind(Enum):
    """What is limited apart, as the Hub does; `LOGIN` is a credential that turned out to be none."""

    API = "api"
    RESOLVE = "resolve"
    PAGES = "pages"
    LOGIN = "login"


@dataclass(frozen=True, slots=True)
class Rate:
    """Where one caller stands. Times in seconds."""

    kind: Kind
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


class Rates:
    """Counts of the current window. All callers' windows begin together, so that the old one is dropped as a whole."""

    def __init__(self, settings: Settings) -> None:
        self._window = settings.rate_window.total_seconds()
        self._limits: Mapping[Kind, int] = {
            Kind.API: settings.rate_limit_api,
            Kind.RESOLVE: settings.rate_limit_resolve,
            Kind.PAGES: settings.rate_limit_pages,
            Kind.LOGIN: settings.rate_limit_login,
        }
        self._lock = threading.Lock()
        self._number = 0.0
        self._counts: Counter[tuple[Kind, str]] = Counter()

    def count(self, kind: Kind, caller: str) -> Rate | None:
        """One more request of this caller; None where this kind isn't limited."""
        limit = self._limits[kind]
        if not limit:
            return None
        with self._lock:
            number, passed = divmod(time.time(), self._window)
            if number != self._number:
                self._number = number
                self._counts.clear()
            self._counts[kind, caller] += 1
            used = self._counts[kind, caller]
        return Rate(kind, limit, used, ceil(self._window - passed), round(self._window))


def admit(request: Request, kind: Kind, caller: str) -> None:
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


def kind_of(request: Request) -> Kind:
    """By the route's template."""
    route: str = request.scope["route"].path
    if "/resolve/{rev}" in route:
        return Kind.RESOLVE
    return Kind.API if route.startswith("/api/") or ".git/" in route else Kind.PAGES


def address_of(request: Request) -> str:
    return subscriber(request.client.host if request.client else None)
