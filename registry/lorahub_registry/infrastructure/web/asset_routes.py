"""The pages' own files, at addresses that change with their content."""

from fastapi import APIRouter, Request, Response
from lorahub.errors import RouteNotFound

from lorahub_registry.infrastructure.web.assets import Asset, assets
from lorahub_registry.infrastructure.web.conditions import is_unchanged
from lorahub_registry.infrastructure.web.encoding import accepted

router = APIRouter()
FOREVER = "public, max-age=31536000, immutable"
_DAY = "public, max-age=86400"


@router.api_route("/static/{digest}/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def static(request: Request, digest: str, name: str) -> Response:
    found = assets().get(name)
    if found is None or found.digest != digest:
        raise RouteNotFound("this registry has no such file", hint="load the page again: its files have new addresses")
    return _answer(request, found, FOREVER)


@router.api_route("/favicon.ico", methods=["GET", "HEAD"], include_in_schema=False)
async def favicon(request: Request) -> Response:
    return _answer(request, assets()["mark.svg"], _DAY)


@router.api_route("/robots.txt", methods=["GET", "HEAD"], include_in_schema=False)
async def robots() -> Response:
    """Search engines may read pages; weights and endless combinations of filters are nothing to them."""
    rules = ("/api/", "/search", "/login", "/settings", "/*/resolve/")
    return Response("User-agent: *\n" + "".join(f"Disallow: {rule}\n" for rule in rules), media_type="text/plain")


def _answer(request: Request, asset: Asset, caching: str) -> Response:
    coding = accepted(request.headers.get("accept-encoding"))
    headers = {
        "Cache-Control": caching,
        "ETag": f'W/"{asset.digest}"',  # the same in each coding
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if is_unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if coding != "identity":
        headers["Content-Encoding"] = coding
    return Response(asset.encoded[coding], headers=headers, media_type=asset.media_type)
