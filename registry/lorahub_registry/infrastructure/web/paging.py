"""Keyset pages: a list and the absolute address of the next one in `Link`, which clients fetch as written."""

from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from lorahub.protocol.messages.message import Message
from pydantic import TypeAdapter


def page(items: Sequence[Any], *, request: Request, public_url: str, cursor: str | None) -> Response:
    """A page of messages of one kind, or of what is JSON already. `cursor` leads to the next page; None on the last."""
    response = _answer(items)
    if cursor is not None:
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        address = f"{public_url}{path}?{urlencode([*query, ('cursor', cursor)])}"
        response.headers["Link"] = f'<{address}>; rel="next"'
    return response


def _answer(items: Sequence[Any]) -> Response:
    if not items or not isinstance(items[0], Message):
        return JSONResponse(list(items))
    kind: Any = type(items[0])
    written = _writer(kind).dump_json(list(items), by_alias=True, exclude_defaults=True)
    return Response(written, media_type="application/json")


@cache
def _writer(kind: Any) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[kind])
