"""Gives each request the id under which its caller and our logs will find it; and keeps in mind where it is from."""

import re
import secrets
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

current_request_id: ContextVar[str | None] = ContextVar("current_request_id", default=None)
current_address: ContextVar[str | None] = ContextVar("current_address", default=None)
"""The client's, as the log of requests has it."""

_USABLE = re.compile(r"[\x21-\x7e]{1,128}")


class RequestId:
    """ASGI middleware: the caller's `X-Request-Id`, else `X-Amzn-Trace-Id`, else a new one; echoed in the answer.

    Answers also say where their caller's rate stands, and those of a process that was told to stop close their
    connections.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        offered = headers.get("x-request-id") or headers.get("x-amzn-trace-id") or ""
        request_id = offered if _USABLE.fullmatch(offered) else secrets.token_hex(12)
        current_request_id.set(request_id)
        current_address.set((scope.get("client") or [None])[0])

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                answered["X-Request-Id"] = request_id
                if (rate := scope.get("state", {}).get("rate")) is not None:
                    answered.update(rate.headers())
                if scope["app"].state.is_stopping:
                    answered["Connection"] = "close"
            await send(message)

        await self.app(scope, receive, send_with_id)
