"""Hands the principal behind a request to routes, and counts what each asks."""

from typing import Annotated

from fastapi import Depends, Request
from lorahub.errors import InvalidToken

from lorahub_registry.features.accounts.permissions import Principal
from lorahub_registry.features.accounts.service import authenticate
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import authenticates, refuses
from lorahub_registry.infrastructure.web.rates import Kind, address_of, admit, kind_of


@authenticates("token")
@refuses(InvalidToken)
def the_caller(request: Request, backend: BackendDep) -> Principal:
    """Anonymous without an Authorization header. Raises `InvalidToken`, `TooManyRequests`."""
    try:
        principal = authenticate(backend, _token(request))
    except InvalidToken:
        admit(request, Kind.LOGIN, address_of(request))
        raise
    request.state.principal = principal  # for the log
    caller = address_of(request) if principal.is_anonymous else f"account {principal.account_id}"
    admit(request, kind_of(request), caller)
    return principal


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
