"""Hands the principal behind a request to routes."""

from typing import Annotated

from fastapi import Depends, Request
from lorahub.errors import InvalidToken

from lorahub_registry.features.accounts.permissions import Principal
from lorahub_registry.features.accounts.service import authenticate
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import authenticates, refuses


@authenticates("token")
@refuses(InvalidToken)
def the_caller(request: Request, backend: BackendDep) -> Principal:
    """Anonymous without an Authorization header. Raises `InvalidToken`."""
    principal: Principal = authenticate(backend, _token(request))
    request.state.principal = principal  # for the log
    return principal


def _token(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidToken("Invalid credentials in Authorization header", hint="send `Authorization: Bearer <token>`")
    return token.strip()


Caller = Annotated[Principal, Depends(the_caller)]
