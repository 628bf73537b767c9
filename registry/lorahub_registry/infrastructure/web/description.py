"""The API's OpenAPI description: what FastAPI sees in a route's signature, completed by what the route and the
dependencies before it read and refuse, which each of them says of itself.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from lorahub.errors import InvalidInput, LorahubError, NotAuthenticated, TooManyRequests, Unavailable
from pydantic import BaseModel

Function = TypeVar("Function", bound=Callable[..., Any])

ANYWHERE = (InvalidInput, TooManyRequests, Unavailable)
"""What any request may be answered: a malformed address, too many of them, a database that is away."""


_BODIES: dict[str, Any] = {}
"""Schemas of the bodies that routes read by themselves, by name."""
_SCHEMES: set[str] = set()


class Problem(BaseModel):
    """Every refusal's body. What holds in every answer of one kind is in `facts`."""

    error: str
    code: str
    hint: str | None
    facts: dict[str, Any]


def refuses(*errors: type[LorahubError]) -> Callable[[Function], Function]:
    """Says what a route or a dependency raises. A route that refuses `NotAuthenticated` asks everybody for a token."""
    return _saying(refused=errors)


def reads(media_type: str, model: type[BaseModel] | None = None) -> Callable[[Function], Function]:
    """Says what a route or a dependency takes the request's body for; without a model, for bytes."""
    schema: dict[str, Any] = {"type": "object"} if media_type == "application/json" else {}
    if model is not None:
        made = model.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, meant in {**made.pop("$defs", {}), model.__name__: made}.items():
            assert _BODIES.setdefault(name, meant) == meant, f"two messages are called {name}"
        schema = _reference(model.__name__)
    return _saying(body={"content": {media_type: {"schema": schema}}, "required": model is not None})


def answers(media_type: str) -> Callable[[Function], Function]:
    """Says what a route answers that isn't JSON. An empty type is no body at all."""
    return _saying(media_type=media_type)


def authenticates(scheme: str) -> Callable[[Function], Function]:
    """Says that a dependency reads the bearer token of this kind."""
    _SCHEMES.add(scheme)
    return _saying(scheme=scheme)


def _saying(**said: Any) -> Callable[[Function], Function]:
    def mark(function: Function) -> Function:
        function.__dict__.update({f"openapi_{name}": value for name, value in said.items()})
        return function

    return mark


def complete(router: APIRouter) -> APIRouter:
    """Fills in what FastAPI's own `responses=`, `response_class=` and `openapi_extra=` of each route would have, from
    what the route and the dependencies before it say of themselves.
    """
    for route in router.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            _complete(route)
    return router


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name, meant in {"Problem": Problem.model_json_schema(), **_BODIES}.items():
        assert schemas.setdefault(name, meant) == meant, f"two messages are called {name}"
    for unused in ("HTTPValidationError", "ValidationError"):  # ours look like every other refusal
        schemas.pop(unused, None)
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        if operation["responses"].get("422", {}).get("description") == "Validation Error":
            del operation["responses"]["422"]
    components["securitySchemes"] = {scheme: {"type": "http", "scheme": "bearer"} for scheme in sorted(_SCHEMES)}
    for part in ("paths", "components"):
        document[part] = _untitled(document[part])
    return document


def _untitled(part: Any) -> Any:
    """Without the titles that pydantic makes of names; a property may be called `title`."""
    if isinstance(part, dict):
        return {key: _untitled(item) for key, item in part.items() if key != "title" or not isinstance(item, str)}
    return [_untitled(item) for item in part] if isinstance(part, list) else part


def _complete(route: APIRoute) -> None:
    calls = [dependant.call for dependant in _dependants(route.dependant)]
    refused = {error for call in calls for error in _said(call, "refused", ())} | set(ANYWHERE)
    if route.endpoint.__annotations__.get("return", ...) is None:  # it only refuses
        route.status_code = min(error.status for error in refused)
    media_type = next((_said(call, "media_type") for call in calls if _said(call, "media_type") is not None), None)
    if media_type is not None:
        route.response_class = _answering(media_type)
    route.responses = {**_answered(route, media_type), **_refusals(route, refused)}
    route.openapi_extra = _extra(route, calls, is_needed=NotAuthenticated in refused)


def _dependants(dependant: Any) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield from _dependants(dependency)
    yield dependant


def _said(call: Callable[..., Any], name: str, default: Any = None) -> Any:
    return getattr(call, f"openapi_{name}", default)


def _answering(media_type: str) -> type[Response]:
    kind: type[Response] = JSONResponse if media_type.endswith("json") else Response
    return type(kind.__name__, (kind,), {"media_type": media_type or None})


def _answered(route: APIRoute, media_type: str | None) -> dict[int | str, dict[str, Any]]:
    """What the route itself names, beside its success; neither a redirect nor a 304 has a body."""
    content: dict[str, Any] = {"content": {media_type: {}}} if media_type else {}
    return {
        status: {**answer, **(content if str(status).startswith("2") else {})}
        for status, answer in route.responses.items()
    }


def _refusals(route: APIRoute, refused: Iterable[type[LorahubError]]) -> dict[int | str, dict[str, Any]]:
    described: dict[int | str, dict[str, Any]] = {}
    for status in sorted({error.status for error in refused}):
        codes = sorted({error.code for error in refused if error.status == status})
        described[status] = {"description": ", ".join(codes)}
        if route.methods != {"HEAD"}:
            beside = route.responses.get(status, {}).get("content", {})  # a refusal with a form of its own
            described[status]["content"] = {"application/json": {"schema": _reference("Problem")}, **beside}
    return described


def _extra(route: APIRoute, calls: Iterable[Callable[..., Any]], *, is_needed: bool) -> dict[str, Any]:
    extra: dict[str, Any] = {"parameters": [*_unread(route)]}
    for call in calls:
        if (body := _said(call, "body")) is not None:
            extra["requestBody"] = body
        if (scheme := _said(call, "scheme")) is not None:
            extra["security"] = [{scheme: []}] if is_needed else [{}, {scheme: []}]
    return extra


def _unread(route: APIRoute) -> Iterator[dict[str, Any]]:
    """Parts of the address that neither the route nor a dependency reads."""
    read = {field.alias for dependant in _dependants(route.dependant) for field in dependant.path_params}
    for name in re.findall(r"{(\w+)}", route.path_format):
        if name not in read:
            yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
