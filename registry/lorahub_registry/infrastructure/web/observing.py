"""Each request once, when it is over: a line in the log, and a count in the metrics."""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.web import problems

logger = logging.getLogger("lorahub.requests")

NO_ROUTE = "(none)"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PART = re.compile(r"\{(\w+)(?::\w+)?\}")
SECRET_PARTS = frozenset({"credential"})
"""Parts of addresses that are credentials. A route that has one calls it so."""


@dataclass(slots=True)
class _Seen:
    """What passed by."""

    received: int = 0
    sent: int = 0
    status: int | None = None


class Observing:
    """ASGI middleware. What no handler expected ends here, as a 500 with its request id."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen, started = _Seen(), time.perf_counter()

        async def counted_receive() -> Message:
            message = await receive()
            seen.received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            seen.sent += len(message.get("body", b""))
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, counted_receive, counted_send)
        except Exception as error:
            if seen.status is not None:
                raise  # in the middle of an answer: only a broken connection can say so
            await problems.unexpected(Request(scope), error)(scope, counted_receive, counted_send)
        finally:
            metrics.IN_FLIGHT.dec()
            _tell(scope, seen, time.perf_counter() - started)


def _tell(scope: Scope, seen: _Seen, seconds: float) -> None:
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    route = getattr(scope.get("route"), "path", NO_ROUTE)
    status = seen.status or 499  # nothing was answered: the client had gone
    metrics.REQUESTS.labels(method, route, f"{status // 100}xx").observe(seconds)
    metrics.RECEIVED.labels(route).inc(seen.received)
    metrics.SENT.labels(route).inc(seen.sent)
    if not logger.isEnabledFor(logging.INFO):
        return
    principal = scope.get("state", {}).get("principal")
    facts = {
        "method": method,
        "route": route,
        "path": shown_path(route, scope.get("path_params", {})),
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
        "received": seen.received,
        "sent": seen.sent,
        "account": getattr(principal, "account_id", None),
        "token": getattr(principal, "token_id", None),
        "address": (scope.get("client") or [None])[0],
    }
    logger.info("request", extra={"facts": facts})


def shown_path(route: str, parts: Mapping[str, Any]) -> str | None:
    """The address as it was sent, without credentials or query; None where no route knows what is what."""
    if route == NO_ROUTE:
        return None
    return _PART.sub(lambda part: "…" if part[1] in SECRET_PARTS else str(parts.get(part[1], part[0])), route)
