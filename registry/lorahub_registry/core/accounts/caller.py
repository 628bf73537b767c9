"""Hands the principal behind a request to routes, and counts what each asks."""

from typing import Annotated

from fastapi import Depends, Request
from lorahub.errors import InvalidToken

from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.accounts.service import authenticate, principal_of_session
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import authenticates, refuses
from lorahub_registry.infrastructure.web.rates import RateKind, address_of, admit, kind_of

SESSION_COOKIE = "lorahub_session"


@authenticates("token")
@refuses(InvalidToken)
def the_caller(request: Request, backend: BackendDep) -> Principal:
    """Anonymous without an Authorization header. Raises `InvalidToken`, `TooManyRequests`."""
    try:
        principal = _of_session(request, backend) or authenticate(backend, _token(request))
    except InvalidToken:
        admit(request, RateKind.LOGIN, address_of(request))
        raise
    request.state.principal = principal  # for the log
    caller = address_of(request) if principal.is_anonymous else f"account {principal.account_id}"
    admit(request, kind_of(request), caller)
    return principal


def _of_session(request: Request, backend: BackendDep) -> Principal | None:
    """A browser downloads files as whoever is logged in there; nothing else of the API takes its cookie."""
    cookie = request.cookies.get(SESSION_COOKIE)
    if cookie is None or "authorization" in request.headers or request.method not in ("GET", "HEAD"):
        return None
    if kind_of(request) is not RateKind.RESOLVE:
        return None
    try:
        return principal_of_session(backend, cookie)
    except InvalidToken:
        return None


def caller_again(request: Request, backend: Backend) -> Principal:
    """Who a request that goes on for long is of by now. Raises `InvalidToken`."""
    return authenticate(backend, _token(request))


def count_address(request: Request) -> None:
    """For routes that ask nobody for a token. Raises `TooManyRequests`."""
    admit(request, kind_of(request), address_of(request))


def _token(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidToken("Invalid credentials in Authorization header", hint="send `Authorization: Bearer <token>`")
    return token.strip()


Caller = Annotated[Principal, Depends(the_caller)]
Anybody = Depends(count_address)
