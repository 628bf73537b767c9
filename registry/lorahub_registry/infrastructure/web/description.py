"""The API's OpenAPI description: what FastAPI sees in a route's signature, completed by what the route and the
dependencies before it read and refuse, which each of them says of itself.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext, iter_route_contexts
from lorahub.errors import InvalidInput, LorahubError, NotAuthenticated, TooManyRequests, Unavailable
from pydantic import BaseModel

Function = TypeVar("Function", bound=Callable[..., Any])

ANYWHERE = (InvalidInput, TooManyRequests, Unavailable)
"""What any request may be answered: a malformed address, too many of them, a database that is away."""


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
    return _saying(body=(media_type, model))


def answers(media_type: str) -> Callable[[Function], Function]:
    """Says what a route answers that isn't JSON. An empty type is no body at all."""
    return _saying(media_type=media_type)


def authenticates(scheme: str) -> Callable[[Function], Function]:
    """Says that a dependency reads the bearer token of this kind."""
    return _saying(scheme=scheme)


def _saying(**said: Any) -> Callable[[Function], Function]:
    def mark(function: Function) -> Function:
        function.__dict__.update({f"openapi_{name}": value for name, value in said.items()})
        return function

    return mark


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # ours look like every other refusal
        schemas.pop(unused, None)
    schemas["Problem"] = Problem.model_json_schema()
    for route in iter_route_contexts(app.routes):
        for method in route.methods or ():
            operation = document["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                _complete(operation, route, method, components)
    for part in ("paths", "components"):
        document[part] = _untitled(document[part])
    return document


def _untitled(part: Any) -> Any:
    """Without the titles that pydantic makes of names; a property may be called `title`."""
    if isinstance(part, dict):
        return {key: _untitled(item) for key, item in part.items() if key != "title" or not isinstance(item, str)}
    return [_untitled(item) for item in part] if isinstance(part, list) else part


def _complete(operation: dict[str, Any], route: RouteContext, method: str, components: dict[str, Any]) -> None:
    calls = [*_calls(route.dependant)]
    _add_path_parameters(operation, route)
    refused = {error for call in calls for error in _said(call, "refused", ())} | set(ANYWHERE)
    answered = operation["responses"]
    answered.pop("422", None)  # FastAPI's own
    if route.endpoint is not None and route.endpoint.__annotations__.get("return", ...) is None:
        answered.clear()  # it only refuses
    for call in calls:
        _add_media_type(answered, _said(call, "media_type", None))
        _add_body(operation, _said(call, "body", None), components["schemas"])
        _add_security(operation, _said(call, "scheme", None), components, is_needed=NotAuthenticated in refused)
    for status in sorted({error.status for error in refused}):
        codes = sorted({error.code for error in refused if error.status == status})
        problem = {} if method == "HEAD" else {"application/json": {"schema": _reference("Problem")}}
        beside = answered.get(str(status), {}).get("content", {})  # a refusal with a form of its own
        answered[str(status)] = {
            "description": ", ".join(codes),
            **({"content": {**problem, **beside}} if problem else {}),
        }


def _add_path_parameters(operation: dict[str, Any], route: RouteContext) -> None:
    """Every part of the address, whether the route reads it or not."""
    described = operation.setdefault("parameters", [])
    known = {parameter["name"] for parameter in described if parameter["in"] == "path"}
    for name in re.findall(r"{(\w+)}", route.path_format or ""):
        if name not in known:
            described.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})


def _calls(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    for dependency in dependant.dependencies:
        yield from _calls(dependency)
    if dependant.call is not None:
        yield dependant.call


def _said(call: Callable[..., Any], name: str, default: Any) -> Any:
    return getattr(call, f"openapi_{name}", default)


def _add_media_type(answered: dict[str, Any], media_type: str | None) -> None:
    for status, answer in answered.items() if media_type is not None else ():
        content = answer.pop("content", {})
        if media_type and status.startswith("2"):  # neither a redirect nor a 304 has a body
            answer["content"] = {media_type: content.get("application/json", {}) if media_type.endswith("json") else {}}


def _add_body(operation: dict[str, Any], body: tuple[str, type[BaseModel] | None] | None, schemas: Any) -> None:
    if body is None:
        return
    media_type, model = body
    schema: dict[str, Any] = {"type": "object"} if media_type == "application/json" else {}
    if model is not None:
        made = model.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, meant in {**made.pop("$defs", {}), model.__name__: made}.items():
            assert schemas.setdefault(name, meant) == meant, f"two messages are called {name}"
        schema = _reference(model.__name__)
    operation["requestBody"] = {"content": {media_type: {"schema": schema}}, "required": model is not None}


def _add_security(
    operation: dict[str, Any], scheme: str | None, components: dict[str, Any], *, is_needed: bool
) -> None:
    if scheme is not None:
        components.setdefault("securitySchemes", {})[scheme] = {"type": "http", "scheme": "bearer"}
        operation["security"] = [{scheme: []}] if is_needed else [{}, {scheme: []}]


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
