"""The site of the documents at /docs: files that `make site` has put into this package, and none but these.

An address is looked up among the names that are in the folder, so that no path leads anywhere else.
"""

import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from lorahub.errors import RouteNotFound

from lorahub_registry.infrastructure.web.asset_routes import FOREVER
from lorahub_registry.infrastructure.web.conditions import is_unchanged
from lorahub_registry.infrastructure.web.encoding import accepted, encode
from lorahub_registry.infrastructure.web.pages import POLICY, SECURITY_HEADERS

_INDEX = "index.html"
_NAMED_AFTER_CONTENT = re.compile(r"(?:^|\.)[0-9a-f]{8,16}(?:\.min)?\.\w+$")
_POLICY = POLICY.replace("img-src 'self'", "img-src 'self' data:").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)
"""The theme's style has small pictures inside, and the window of its search a style. No text of a user is in a page."""
_KEPT = 64


@dataclass(frozen=True, slots=True)
class Document:
    """A file of the site as it is sent."""

    body: bytes
    coding: str
    tag: str


class Site:
    """A folder of pages, which may not be there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read = lru_cache(_KEPT)(self._read)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every file's, below the folder."""
        return frozenset(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def _read(self, name: str, coding: str) -> Document:
        content = (self.folder / name).read_bytes()
        body, used = encode(content, coding)
        return Document(body, used, f'W/"{hashlib.sha256(content).hexdigest()[:24]}"')


def routes_of(site: Site) -> APIRouter:
    router = APIRouter()

    @router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    def start() -> Response:
        return _see("docs/")

    @router.api_route("/docs/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def document(request: Request, path: str) -> Response:
        if not site.names:
            raise RouteNotFound("this registry was installed without its documents", hint="`make site` builds them in")
        if f"{path}/{_INDEX}" in site.names:
            return _see(f"{path.rpartition('/')[2]}/")
        name = path + _INDEX if path == "" or path.endswith("/") else path
        if name not in site.names:
            raise RouteNotFound("the documents have no such page", hint="they begin at /docs/")
        return _answer(request, name, site.read(name, accepted(request.headers.get("accept-encoding"))))

    return router


def _see(address: str) -> Response:
    """Relative, so that it holds below any path that a proxy puts before it."""
    return Response(status_code=307, headers={"Location": address, "Cache-Control": "no-cache"})


def _answer(request: Request, name: str, found: Document) -> Response:
    headers = {
        **SECURITY_HEADERS,
        "Content-Security-Policy": _POLICY,
        "Cache-Control": FOREVER if _NAMED_AFTER_CONTENT.search(name.rpartition("/")[2]) else "public, no-cache",
        "ETag": found.tag,
        "Vary": "Accept-Encoding",
    }
    if is_unchanged(request.headers, found.tag):
        return Response(status_code=304, headers=headers)
    if found.coding != "identity":
        headers["Content-Encoding"] = found.coding
    return Response(found.body, headers=headers, media_type=mimetypes.guess_type(name)[0])


router = routes_of(Site(Path(str(files("lorahub_registry") / "site"))))
