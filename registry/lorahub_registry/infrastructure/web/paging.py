"""Keyset pages: a list and the absolute address of the next one in `Link`, which clients fetch as written."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import JSONResponse
from lorahub.protocol.messages.message import as_json


def page(items: Sequence[Any], *, request: Request, public_url: str, cursor: str | None) -> JSONResponse:
    """Of messages, or of what is JSON already. `cursor` leads to the next page; None on the last."""
    response = JSONResponse([as_json(item) for item in items])
    if cursor is not None:
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        address = f"{public_url}{path}?{urlencode([*query, ('cursor', cursor)])}"
        response.headers["Link"] = f'<{address}>; rel="next"'
    return response
