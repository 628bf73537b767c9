"""The feed over HTTP: asked for, waited for, or streamed as server-sent events."""

import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from lorahub.errors import Busy, EventsForgotten, InvalidInput, InvalidToken, Unavailable
from lorahub.protocol.messages.events import EventPage
from lorahub.protocol.messages.message import as_json
from starlette.datastructures import Headers

from lorahub_registry.core.accounts.caller import Caller, caller_again
from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.features.events import service
from lorahub_registry.features.events.service import EventFilter
from lorahub_registry.features.events.waiting import Waiters
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.rates import address_of

router = APIRouter(prefix="/api/lorahub/v1")

MOST_WAIT_SECONDS = 60
_STREAM_SECONDS = 600
"""Then whoever reads a stream connects again, as he does where it breaks."""
_BEAT_SECONDS = 15
"""Between signs of life of a stream on which nothing happens."""
_STREAM = "text/event-stream"


@router.get("/events", response_model=EventPage)
@refuses(EventsForgotten, Busy)
async def events(
    backend: BackendDep,
    caller: Caller,
    request: Request,
    after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    wait: Annotated[float, Query(ge=0, le=MOST_WAIT_SECONDS)] = 0,
    limit: Annotated[int, Query(ge=1, le=service.MOST_EVENTS)] = 100,
    kinds: Annotated[str | None, Query(max_length=1000)] = None,
    repository: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    last_event_id: Annotated[str | None, Header(max_length=30)] = None,
) -> Response:
    """What happened after the event `after`, as far as the caller may see it; without it, what happens from now on.

    `wait`: up to so many seconds until there is something. With `Accept: text/event-stream` it goes on and on.
    """
    asked = service.wanted([kind for kind in (kinds or "").split(",") if kind], repository)
    feed = _Feed(backend, caller, request, asked, limit)
    if _STREAM not in Headers(scope=request.scope).get("accept", ""):
        page = await feed.page(after, wait)
        return JSONResponse(as_json(page))
    start = after if last_event_id is None else _number(last_event_id)
    page = await feed.read(start)  # what is refused is refused before anything is sent
    return StreamingResponse(feed.stream(page), media_type=_STREAM, headers={"Cache-Control": "no-store"})


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidInput("`Last-Event-ID` is no number of an event")
    return int(text)


class _Feed:
    """What one request reads. Who asks is found out anew for each look: a token may be revoked meanwhile."""

    def __init__(self, backend: Backend, caller: Principal, request: Request, asked: EventFilter, limit: int) -> None:
        self._backend = backend
        self._caller = caller
        self._request = request
        self._asked = asked
        self._limit = limit
        self._waiters: Waiters = request.app.state.waiters
        anonymous = caller.is_anonymous
        self._who = "anonymous" if anonymous else f"account {caller.account_id} {address_of(request)}"

    async def page(self, after: int | None, seconds: float) -> EventPage:
        rings, end = self._waiters.rings, time.monotonic() + seconds
        page = await self.read(after)
        if page.events or not seconds:
            return page
        async with self._waiters.place(self._who):
            while not page.events:
                page = await self.read(page.next)
                if page.events or not await self._waiters.wait(rings, end - time.monotonic(), is_over=self._is_over):
                    break
                rings = self._waiters.rings
                self._caller = await to_thread.run_sync(caller_again, self._request, self._backend)
        return page

    async def stream(self, page: EventPage) -> AsyncIterator[bytes]:
        """Events under their numbers, and now and then how far the feed is. It ends where the token does."""
        end = time.monotonic() + _STREAM_SECONDS
        try:
            async with self._waiters.place(self._who):
                while True:
                    for event in page.events:
                        yield f"id: {event.number}\nevent: {event.kind}\ndata: {_line(as_json(event))}\n\n".encode()
                    yield f"id: {page.next}\n\n".encode()
                    if time.monotonic() >= end or await self._is_over():
                        return
                    page = await self._next(page)
        except (Busy, InvalidToken, Unavailable, EventsForgotten) as error:
            yield f"event: end\ndata: {_line({'code': error.code, 'error': error.message})}\n\n".encode()

    async def _next(self, page: EventPage) -> EventPage:
        rings = self._waiters.rings
        found = await self.read(page.next)
        if not found.events:
            await self._waiters.wait(rings, _BEAT_SECONDS, is_over=self._is_over)
            self._caller = await to_thread.run_sync(caller_again, self._request, self._backend)
            found = await self.read(found.next)
        return found

    async def read(self, after: int | None) -> EventPage:
        return await to_thread.run_sync(
            lambda: service.read(self._backend, self._caller, self._asked, after=after, limit=self._limit)
        )

    async def _is_over(self) -> bool:
        return self._request.app.state.is_stopping or await self._request.is_disconnected()


def _line(message: object) -> str:
    return json.dumps(message, ensure_ascii=True, separators=(",", ":"))
