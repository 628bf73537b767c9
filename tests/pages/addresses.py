"""Addresses of pages, for tests that look at all of them, and what proves that they are all."""

import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from fastapi.routing import iter_route_contexts
from lorahub_registry.app import create_app
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.settings import Settings
from starlette.routing import compile_path

OF_THE_REGISTRY = ["/", "/search", "/search?search=sql", "/search?rank=..4&license=mit", "/search?base=nothing/here",
                   "/bases", "/by-hash", "/by-hash/" + "0" * 64, "/compare", "/merges",
                   "/compare?a=pages-org/sql-writer%40v1&b=pages-org/poet",
                   "/merges?base=pages-org/pages-base&adapter1=pages-org/sql-writer&adapter2=pages-org/poet",
                   "/docs/rules/LH202", "/login"]  # fmt: skip
OF_SOMEBODY = [
    "/settings",
    "/tokens",
    "/notifications",
    "/webhooks",
    "/organizations/pages-org/members",
    "/new?namespace=pages-org",
]
OF_ADMINISTRATORS = ["/admin", "/admin/users", "/admin/jobs", "/admin/quarantine", "/admin/audit"]
OF_WRITERS = ["/upload", "/card"]
OF_A_REPOSITORY = ["", "/v/v1", "/versions", "/commits/main", "/tree/main", "/tree/main/notes",
                   "/blob/main/README.md", "/blob/main/adapter_model.safetensors", "/weights/main",
                   "/training/main", "/lineage", "/compat", "/lineage/v1", "/compat/v1"]  # fmt: skip
OF_PLACES = ["/pages-org", "/pages-owner", "/base/pages-org/pages-base"]

NO_PAGES = {
    "/api/openapi.json": "the API's description",
    "/cas/{element}/{rest:path}": "refused: a part of Xet that isn't spoken here",
    "/spaces/{rest:path}": "refused: no spaces here",
    "/api/spaces/{rest:path}": "refused: no spaces here",
    "/api/spaces": "refused: no spaces here",
    "/datasets/{rest:path}": "refused: no datasets here",
    "/api/datasets/{rest:path}": "refused: no datasets here",
    "/api/datasets": "refused: no datasets here",
    "/static/{digest}/{name}": "the pages' own files",
    "/docs": "leads to the documents",
    "/docs/{path:path}": "the documents: a site of their own",
    "/favicon.ico": "an image",
    "/robots.txt": "for programs",
    "/search.atom": "a feed",
    "/badge/{namespace}/{name}.svg": "an image",
    "/{namespace:namespace}/{name}/image/{rev}/{path:path}": "a picture of a repository",
}
"""Routes that the API doesn't describe and that answer no page, and what they do answer."""


@cache
def all_routes() -> dict[str, bool]:
    """Every path that is answered to a GET, in the order of looking them up, and whether the API describes it."""
    app = create_app(Backend.open(Settings(registry_home=Path(tempfile.mkdtemp()))))
    routes = (route for route in iter_route_contexts(app.routes) if "GET" in (route.methods or ()))
    return {str(route.path): bool(route.include_in_schema) for route in routes}


def page_routes() -> set[str]:
    """Without twins: each is its page's data. Names without a namespace are only refused."""
    own = {path for path, is_described in all_routes().items() if not is_described and "{single}" not in path}
    return {path for path in own if not path.endswith(".json")} - NO_PAGES.keys()


def routes_of(addresses: Iterable[str]) -> set[str]:
    """The routes that answer these."""
    patterns = {path: compile_path(path)[0] for path in all_routes()}
    paths = (address.partition("?")[0] for address in addresses)
    return {next(route for route, pattern in patterns.items() if pattern.match(path)) for path in paths}


def with_twins(addresses: Iterable[str]) -> Iterator[str]:
    """Each, and its twin where it has one."""
    for address in addresses:
        yield address
        path, mark, query = address.partition("?")
        (route,) = routes_of([address])
        if f"{route}.json" in all_routes():
            yield f"{path}.json{mark}{query}"
