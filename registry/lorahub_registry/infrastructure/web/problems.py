"""Renders every error as the Hub's clients expect it: status, `X-Error-Code`, `X-Error-Message`, `{"error": …}`."""

import logging
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from lorahub.errors import (
    BeingMade,
    Bug,
    DiskFull,
    EntryNotFound,
    Fault,
    InvalidInput,
    InvalidToken,
    LorahubError,
    NotAuthenticated,
    PreconditionFailed,
    RangeNotSatisfiable,
    RepositoryMoved,
    RouteNotFound,
    TooManyRequests,
    Unavailable,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException

from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.database.failures import meaning_of
from lorahub_registry.infrastructure.web import pages

logger = logging.getLogger("lorahub")

_EXPECTED = (DiskFull, BeingMade)
"""Faults that are nobody's: whoever met a full disk has logged it, and what is being made is all right."""


def render(error: LorahubError) -> JSONResponse:
    """The answer to a request that failed with `error`. Never shows what a client must not see: messages are ours."""
    metrics.REFUSALS.labels(error.code).inc()
    body = {"error": error.message, "code": error.code, "hint": error.hint, "facts": error.facts}
    if "url" in error.facts:
        body["url"] = error.facts["url"]  # where a client of the Hub looks for it when it may use what exists
    return JSONResponse(body, status_code=error.status, headers=_headers(error))


def answer(request: Request, error: LorahubError) -> Response:
    """A page for a person's browser, JSON for everybody else; a browser that has to log in is led there."""
    if not pages.wants_page(request):
        return render(error)
    root = urlsplit(request.app.state.backend.settings.public_url or "").path.rstrip("/")
    if isinstance(error, NotAuthenticated) and request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{root}/login?next={quote(request.scope['path'] + query, safe='')}", status_code=303)
    metrics.REFUSALS.labels(error.code).inc()
    return pages.render_error(request, error, headers=_headers(error), root=root)


def _headers(error: LorahubError) -> dict[str, str]:
    headers = {"X-Error-Message": one_ascii_line(error.message)}
    if not isinstance(error, InvalidToken):  # a bad token must not look like a missing repository
        headers["X-Error-Code"] = error.code
    match error:
        case EntryNotFound(facts={"commit": commit}):
            headers["X-Repo-Commit"] = commit  # lets clients remember that the file is not there
        case PreconditionFailed(facts={"etag": etag}):
            headers["ETag"] = etag
        case RangeNotSatisfiable(facts={"size": size}):
            headers["Content-Range"] = f"bytes */{size}"
        case TooManyRequests(facts={"retry_after": seconds}) | Unavailable(facts={"retry_after": seconds}):
            headers["Retry-After"] = str(seconds)
        case Unavailable():
            headers["Retry-After"] = "2"
    return headers


def _redirect(request: Request, error: RepositoryMoved) -> JSONResponse:
    """The same address with the repository's new name, on the same origin, so that clients keep their token."""
    sent = f"{request.path_params['namespace']}/{request.path_params['name']}"
    path = request.scope["path"].replace(f"/{sent}", f"/{error.facts['new']}", 1)
    response = render(error)
    response.headers["Location"] = f"{path}?{request.url.query}" if request.url.query else path
    return response


def one_ascii_line(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.encode("ascii", "backslashreplace").decode()[:500]


def install(app: FastAPI) -> None:
    """Every way a request can be expected to fail ends in `render`; `observing` has the rest."""

    @app.exception_handler(LorahubError)
    def ours(request: Request, error: LorahubError) -> Response:
        if isinstance(error, RepositoryMoved):
            return _redirect(request, error)
        if isinstance(error, Fault) and not isinstance(error, _EXPECTED):
            logger.error("%s: %s", error.code, error.message)
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, InvalidInput(validation_message(error.errors())))

    @app.exception_handler(HTTPException)
    def routing(request: Request, error: HTTPException) -> Response:
        known = RouteNotFound("this registry has nothing at this address", hint="see docs/http-api.md for what it has")
        response = answer(request, known if error.status_code == 404 else InvalidInput(str(error.detail)))
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        if request.method == "HEAD":
            response.body = b""
        return response

    @app.exception_handler(DBAPIError)
    @app.exception_handler(NoConnectionFree)
    def database(request: Request, error: DBAPIError | NoConnectionFree) -> Response:
        return answer(request, meaning_of(error))


def unexpected(request: Request, error: Exception) -> Response:
    """What nothing above expected: a bug of ours, logged under the request's id."""
    logger.error("unexpected %s", type(error).__name__, exc_info=error)
    bug = Bug("the registry failed; this is a bug in lorahub", hint="report it with the request id")
    return answer(request, bug)


def validation_message(errors: Any) -> str:
    """One line that names every fault of a body or a query."""
    faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in errors]
    return "; ".join(faults)[:2000]
