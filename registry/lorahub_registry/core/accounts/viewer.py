"""Who looks at a page: a browser with a session cookie, or a program with a token. Forms need more than the cookie.

A form is taken from a page of ours only: its `Origin` is ours, and it carries what only a page shown to this session
knows. The session's cookie is worth nothing at the API, but for reading.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse
from lorahub.errors import InvalidToken, MalformedBody, NotPermitted, UnsupportedMediaType
from starlette.datastructures import UploadFile

from lorahub_registry.core.accounts.caller import SESSION_COOKIE, the_caller
from lorahub_registry.core.accounts.permissions import Principal, is_site_admin
from lorahub_registry.core.accounts.service import principal_of_session
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web import multipart, notices, pages
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import raw_body
from lorahub_registry.infrastructure.web.pages import Chrome
from lorahub_registry.infrastructure.web.rates import RateKind, admit

VISIT_COOKIE = "lorahub_visit"
"""Of a browser that is about to log in: what its form is bound to."""
MOST_FIELDS = 100


@dataclass(frozen=True, slots=True)
class View:
    """One request for a page: who asks, and how to answer him."""

    request: Request
    backend: Backend
    principal: Principal
    chrome: Chrome

    def render(
        self,
        template: str,
        data: Mapping[str, Any],
        *,
        html: Mapping[str, Any] | None = None,
        status: int = 200,
        is_secret: bool = False,
    ) -> Response:
        response = pages.render(
            self.request, template, data, chrome=self.chrome, html=html, status=status, is_secret=is_secret
        )
        if self.chrome.done is not None:
            response.delete_cookie(notices.COOKIE, path=self.chrome.root or "/")
        return response

    def redirect(self, path: str, done: str | None = None, name: str | None = None) -> Response:
        """To another page of ours, by GET, which says what was done: see `notices`."""
        response = RedirectResponse(self.chrome.root + path, status_code=303, headers={"Cache-Control": "no-store"})
        if done is not None:
            notices.put(response, done, name or "", path=self.chrome.root or "/", is_secure=self.is_secure)
        return response

    @property
    def is_secure(self) -> bool:
        return self.chrome.url.startswith("https:")


def the_view(request: Request, backend: BackendDep, url: PublicUrl) -> View:
    """A session that is over makes an anonymous visitor. Raises `InvalidToken` for a bad token, `TooManyRequests`."""
    principal = _principal(request, backend)
    root = urlsplit(backend.settings.public_url or "").path.rstrip("/")
    query = request.url.query
    chrome = Chrome(
        root=root,
        user=None if principal.is_anonymous else principal.name,
        is_admin=is_site_admin(principal),
        csrf=_csrf(request),
        theme=pages.theme_of(request),
        here=request.scope["path"].removesuffix(pages.TWIN) + (f"?{query}" if query else ""),
        url=url,
        done=notices.taken(request.cookies),
    )
    request.state.chrome = chrome
    return View(request, backend, principal, chrome)


def _principal(request: Request, backend: Backend) -> Principal:
    cookie = request.cookies.get(SESSION_COOKIE)
    if cookie is None or "authorization" in request.headers:
        return the_caller(request, backend)
    try:
        principal = principal_of_session(backend, cookie)
    except InvalidToken:
        return the_caller(request, backend)
    request.state.principal = principal
    admit(request, RateKind.PAGES, f"account {principal.account_id}")
    return principal


def _csrf(request: Request) -> str:
    """Follows from a cookie that no other origin can read, so nothing has to be kept."""
    cookie = request.cookies.get(SESSION_COOKIE) or request.cookies.get(VISIT_COOKIE) or ""
    return csrf_of(cookie) if cookie else ""


def csrf_of(cookie: str) -> str:
    return hashlib.sha256(f"lorahub csrf {cookie}".encode()).hexdigest()[:40]


def new_visit(view: View) -> tuple[View, str]:
    """A visitor who is about to log in, and the cookie that binds the form to his browser."""
    visit = secrets.token_urlsafe(24)
    return replace(view, chrome=replace(view.chrome, csrf=csrf_of(visit))), visit


ViewDep = Annotated[View, Depends(the_view)]


@dataclass(frozen=True, slots=True)
class Form:
    """What a form sent. Of a field that came twice, the last."""

    view: View
    fields: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.fields.get(name, "").strip()


def open_form(request: Request, view: ViewDep, body: Annotated[bytes, Depends(raw_body)]) -> Form:
    """A form that changes nothing worth protecting: its origin is looked at, no more. Raises `NotPermitted`."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType("a form is sent as application/x-www-form-urlencoded")
    _require_own_origin(request, view)
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise MalformedBody("the form can't be read") from None
    return Form(view, dict(fields))


def the_form(form: Annotated[Form, Depends(open_form)]) -> Form:
    """Raises `NotPermitted` for a form that no page of this session sent."""
    _require_secret(form.view, form.fields)
    return form


def _require_secret(view: View, fields: Mapping[str, str]) -> None:
    expected = view.chrome.csrf
    if not expected or not compare_digest(fields.get("csrf", "").encode(), expected.encode()):
        raise NotPermitted("this form belongs to a session that is over", hint="open the page again and send it anew")


def _require_own_origin(request: Request, view: View) -> None:
    ours = {_origin(view.chrome.url), _origin(str(request.base_url))}
    if request.headers.get("origin", "") not in ours:
        raise NotPermitted("this form was not sent by a page of this registry", hint="open the page here, and send it")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True)
class FormWithFiles:
    """`values` has every value of a field that came several times. The files are gone when the request is answered."""

    view: View
    values: Mapping[str, list[str]]
    files: list[UploadFile]

    def text(self, name: str) -> str:
        return self.values.get(name, [""])[-1].strip()


async def the_form_with_files(request: Request, view: ViewDep) -> AsyncIterator[FormWithFiles]:
    """As `the_form`. What may be asked before the body is received (who sends it, from where) is asked before."""
    _require_own_origin(request, view)
    view.principal.require_account()
    settings = view.backend.settings
    limit, reserve = settings.form_body_bytes, settings.disk_reserve_bytes
    async with multipart.received(request, limit=limit, reserve_bytes=reserve) as sent:
        values: dict[str, list[str]] = {}
        files = []
        for name, value in sent.multi_items():
            if isinstance(value, str):
                values.setdefault(name, []).append(value)
            elif value.filename:
                files.append(value)
        _require_secret(view, {"csrf": values.get("csrf", [""])[-1]})
        yield FormWithFiles(view, values, files)


OpenForm = Annotated[Form, Depends(open_form)]
FormDep = Annotated[Form, Depends(the_form)]
FilesFormDep = Annotated[FormWithFiles, Depends(the_form_with_files)]
