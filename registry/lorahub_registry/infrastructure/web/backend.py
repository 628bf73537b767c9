"""Hands the backend, and the address the caller knows us by, to routes."""

from typing import Annotated

from fastapi import Depends, Request

from lorahub_registry.infrastructure.backend import Backend


def the_backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


BackendDep = Annotated[Backend, Depends(the_backend)]


def public_url(request: Request, backend: BackendDep) -> str:
    """The registry's address without a trailing slash: the configured one, else the one this caller used.

    Clients compare the host of returned URLs with the host they asked, so a fixed default would break one of
    `localhost` and `127.0.0.1`.
    """
    return (backend.settings.public_url or str(request.base_url)).rstrip("/")


PublicUrl = Annotated[str, Depends(public_url)]
