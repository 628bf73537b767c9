"""Pages: a template and data become HTML, and the same data becomes its `.json` twin.

Data is JSON-ready. What only HTML has use for (pictures, a rendered card) comes apart, so that a twin is never markup.
No page runs a script that isn't a file of ours, and none is framed, cached by others or read by another origin.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from lorahub.errors import LorahubError
from lorahub.protocol.names import RESERVED_NAMESPACES
from starlette.convertors import Convertor, register_url_convertor

from lorahub_registry.infrastructure.web import formats
from lorahub_registry.infrastructure.web.assets import assets
from lorahub_registry.infrastructure.web.conditions import is_unchanged
from lorahub_registry.infrastructure.web.encoding import accepted, encode
from lorahub_registry.infrastructure.web.request_id import current_request_id

Function = TypeVar("Function", bound=Callable[..., Any])

TWIN = ".json"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
THEMES = ("auto", "light", "dark")
THEME_COOKIE = "lorahub_theme"


@dataclass(frozen=True, slots=True)
class Chrome:
    """What a page shows around its own content. `root` is the path before every address of ours."""

    root: str
    user: str | None = None
    is_admin: bool = False
    csrf: str = ""
    theme: str = "auto"
    here: str = "/"
    """The page's own path and query, below `root`."""
    url: str = ""
    """The registry's public address."""
    done: str | None = None
    """What the form before this page has done."""


class _Namespace(Convertor[str]):
    """A first element of an address that isn't one of the registry's own."""

    regex = f"(?!(?:{'|'.join(sorted(RESERVED_NAMESPACES))})(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("namespace", _Namespace())


class PageRouter(APIRouter):
    """Routes of pages. They are no part of the API's description: a program asks the API, or a page's twin."""

    def page(self, path: str, *, twin: bool = True) -> Callable[[Function], Function]:
        def register(function: Function) -> Function:
            for address in ([path + TWIN] if twin else []) + [path]:
                self.api_route(address, methods=["GET", "HEAD"], include_in_schema=False)(function)
            return function

        return register

    def form(self, path: str) -> Callable[[Function], Function]:
        return self.post(path, include_in_schema=False)


def is_twin(request: Request) -> bool:
    return str(request.scope["route"].path).endswith(TWIN) if "route" in request.scope else False


def theme_of(request: Request) -> str:
    chosen = request.cookies.get(THEME_COOKIE, "auto")
    return chosen if chosen in THEMES else "auto"


# --- rendering --------------------------------------------------------------------------------------------------------


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lorahub_registry"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    environment.filters["path"] = lambda text: quote(str(text), safe="/")
    environment.filters["part"] = lambda text: quote(str(text), safe="")
    environment.globals["asset"] = lambda name: assets()[name].address
    return environment


_templates = _environment()


def render(
    request: Request,
    template: str,
    data: Mapping[str, Any],
    *,
    chrome: Chrome,
    html: Mapping[str, Any] | None = None,
    status: int = 200,
    is_secret: bool = False,
) -> Response:
    """The page, or its twin where that was asked for. `is_secret` keeps it out of every cache, the browser's too."""
    if is_twin(request):
        response: Response = JSONResponse(dict(data), status_code=status)
        response.headers.update({"Cache-Control": "private, no-cache", "Vary": "Cookie, Authorization"})
        return response
    text = _templates.get_template(template).render({**data, **(html or {}), "page": chrome})
    return _answer(request, text.encode(), "text/html; charset=utf-8", status=status, is_secret=is_secret)


def _answer(request: Request, body: bytes, media_type: str, *, status: int, is_secret: bool) -> Response:
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:24]}"'
    headers = {
        **SECURITY_HEADERS,
        "Cache-Control": "no-store" if is_secret else "private, no-cache",
        "Vary": "Accept-Encoding, Cookie, Authorization",
    }
    if status == 200 and not is_secret:
        headers["ETag"] = tag
        if is_unchanged(request.headers, tag):
            return Response(status_code=304, headers=headers)
    encoded, coding = encode(body, accepted(request.headers.get("accept-encoding")))
    if coding != "identity":
        headers["Content-Encoding"] = coding
    return Response(encoded, status_code=status, headers=headers, media_type=media_type)


def render_feed(request: Request, template: str, data: Mapping[str, Any], *, chrome: Chrome) -> Response:
    text = _templates.get_template(template).render({**data, "page": chrome})
    return _answer(request, text.encode(), "application/atom+xml; charset=utf-8", status=200, is_secret=False)


# --- errors -----------------------------------------------------------------------------------------------------------


def wants_page(request: Request) -> bool:
    """A person's browser, at an address where pages are. Clients of the API never say `text/html`."""
    path = request.scope["path"]
    is_for_programs = path.startswith("/api/") or path.endswith(TWIN)
    return not is_for_programs and "text/html" in request.headers.get("accept", "")


def render_error(request: Request, error: LorahubError, *, headers: Mapping[str, str], root: str) -> Response:
    """The same page for what isn't there and for what the visitor may not see."""
    chrome = getattr(request.state, "chrome", None) or Chrome(root=root, theme=theme_of(request))
    data = {
        "status": error.status,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "request_id": current_request_id.get() or "",
    }
    response = render(request, "error.html", data, chrome=chrome, status=error.status, is_secret=True)
    response.headers.update(headers)
    return response
