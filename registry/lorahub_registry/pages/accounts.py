"""Logging in and out, one's own tokens and organisations, and the theme."""

from datetime import timedelta
from typing import Any

from fastapi import Request, Response
from lorahub.errors import InvalidInput, InvalidToken
from lorahub.protocol.messages.message import as_json

from lorahub_registry.core.accounts import service
from lorahub_registry.core.accounts.caller import SESSION_COOKIE
from lorahub_registry.core.accounts.permissions import Action, Principal, may
from lorahub_registry.core.accounts.service import Account
from lorahub_registry.core.accounts.viewer import (
    VISIT_COOKIE,
    FormDep,
    OpenForm,
    View,
    ViewDep,
    new_visit,
)
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.web.pages import THEME_COOKIE, THEMES, PageRouter
from lorahub_registry.infrastructure.web.rates import RateKind, address_of, admit
from lorahub_registry.infrastructure.web.raw_path import decode

router = PageRouter()
YEAR_SECONDS = 365 * 24 * 3600
EXPIRIES = {"7": "a week", "30": "30 days", "90": "90 days", "365": "a year", "": "never"}


# --- logging in -------------------------------------------------------------------------------------------------------


@router.page("/login", twin=False)
def login(view: ViewDep, next: str = "/") -> Response:  # noqa: A002 (its name in the address)
    if not view.principal.is_anonymous:
        return view.redirect(_own_path(next))
    return _login_page(view, next)


def _login_page(view: View, leads_to: str, fault: str | None = None) -> Response:
    view, visit = new_visit(view)
    data = {"next": _own_path(leads_to), "fault": fault}
    response = view.render("accounts/login.html", data, status=401 if fault else 200, is_secret=True)
    response.set_cookie(VISIT_COOKIE, visit, httponly=True, samesite="strict", secure=view.is_secure, path="/")
    return response


@router.form("/login")
def log_in(request: Request, form: FormDep) -> Response:
    view = form.view
    try:
        cookie = service.log_in(view.backend, form.text("token"))
    except InvalidToken:
        admit(request, RateKind.LOGIN, address_of(request))
        return _login_page(view, form.text("next"), "This token isn't known here, or is good no more.")
    response = view.redirect(_own_path(form.text("next")))
    response.set_cookie(
        SESSION_COOKIE,
        cookie,
        max_age=int(service.SESSION_LIFETIME.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=view.is_secure,
        path="/",
    )
    response.delete_cookie(VISIT_COOKIE, path="/")
    return response


@router.form("/logout")
def log_out(request: Request, form: FormDep) -> Response:
    service.log_out(form.view.backend, form.view.principal, request.cookies.get(SESSION_COOKIE, ""))
    response = form.view.redirect("/")
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response


@router.form("/settings/theme")
def choose_theme(form: OpenForm) -> Response:
    theme = form.text("theme")
    if theme not in THEMES:
        raise InvalidInput(f"no theme is called {theme[:40]!r}", hint=f"choose one of: {', '.join(THEMES)}")
    response = form.view.redirect(_own_path(form.text("next")))
    response.set_cookie(THEME_COOKIE, theme, max_age=YEAR_SECONDS, samesite="lax", secure=form.view.is_secure, path="/")
    return response


def _own_path(text: str) -> str:
    """A path of this registry; anything that could lead elsewhere is the first page."""
    is_path = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isascii() and text.isprintable()
    return text if is_path and "\\" not in text else "/"


# --- tokens -----------------------------------------------------------------------------------------------------------


@router.page("/settings")
def settings(view: ViewDep) -> Response:
    view.principal.require_account()
    account = service.find_account(view.backend, view.principal.name)
    data = {
        "name": account.name,
        "fullname": account.fullname,
        "token": view.principal.token_name,
        "scope": view.principal.scope.name.lower(),
        "organisations": [
            {"name": org.account.name, "fullname": org.account.fullname, "role": org.role}
            for org in service.organisations_of(view.backend, view.principal)
        ],
    }
    return view.render("accounts/settings.html", data)


@router.page("/tokens")
def tokens(view: ViewDep) -> Response:
    return _tokens_page(view)


def _tokens_page(view: View, made: str | None = None) -> Response:
    found = service.tokens_of(view.backend, view.principal)
    data = {"tokens": [as_json(token.as_message()) for token in found], "own": view.principal.token_id}
    namespaces = [view.principal.name, *(org.account.name for org in _organisations(view))]
    html = {"made": made, "namespaces": namespaces, "expiries": _expiries(view.principal)}
    return view.render("accounts/tokens.html", data, html=html, is_secret=made is not None)


def _expiries(principal: Principal) -> dict[str, str]:
    """Those that the token which asks for another one doesn't rule out."""
    if principal.expires_at is None:
        return EXPIRIES
    left = (principal.expires_at - now()).days
    return {**{days: shown for days, shown in EXPIRIES.items() if days and int(days) <= left}, "": "with your own"}


def _organisations(view: View) -> list[service.Organisation]:
    return service.organisations_of(view.backend, view.principal)


@router.form("/tokens")
def create_token(form: FormDep) -> Response:
    days = form.text("days")
    if days not in EXPIRIES:
        raise InvalidInput("choose how long the token is good")
    text, _ = service.create_token(
        form.view.backend,
        form.view.principal,
        name=form.text("name"),
        scope=form.text("scope"),
        namespace=form.text("namespace") or None,
        lifetime=timedelta(days=int(days)) if days else None,
    )
    return _tokens_page(form.view, made=text)


@router.form("/tokens/{token_id}/revoke")
def revoke_token(form: FormDep, token_id: str) -> Response:
    number = int(token_id) if token_id.isascii() and token_id.isdecimal() and len(token_id) < 19 else 0
    service.revoke_token(form.view.backend, form.view.principal, number)
    return form.view.redirect("/tokens", "revoked")


# --- organisations ----------------------------------------------------------------------------------------------------


@router.form("/organizations")
def create_organisation(form: FormDep) -> Response:
    made = service.create_organisation(form.view.backend, form.view.principal, form.text("name"), form.text("fullname"))
    return form.view.redirect(f"/organizations/{made.name}/members", "organisation", made.name)


@router.page("/organizations/{organisation}/members")
def members(view: ViewDep, organisation: str) -> Response:
    name = decode(organisation)
    found = service.members_of(view.backend, name)
    data = {
        "organisation": name,
        "members": [_member(account, role) for account, role in found],
        "mayGovern": _may_govern(view.principal, name),
    }
    return view.render("accounts/members.html", data)


def _member(account: Account, role: str) -> dict[str, Any]:
    return {"user": account.name, "fullname": account.fullname, "role": role}


def _may_govern(principal: Principal, organisation: str) -> bool:
    return may(principal, Action.GOVERN, organisation)


@router.form("/organizations/{organisation}/members")
def set_member(form: FormDep, organisation: str) -> Response:
    role = form.text("role")
    if role not in ("read", "write", "admin"):
        raise InvalidInput(f"no such role: {role[:40]!r}; there are read, write and admin")
    service.set_member(form.view.backend, form.view.principal, decode(organisation), form.text("user"), role)
    return form.view.redirect(f"/organizations/{organisation}/members", "member", form.text("user"))


@router.form("/organizations/{organisation}/members/remove")
def remove_member(form: FormDep, organisation: str) -> Response:
    service.remove_member(form.view.backend, form.view.principal, decode(organisation), form.text("user"))
    return form.view.redirect(f"/organizations/{organisation}/members", "removed", form.text("user"))
