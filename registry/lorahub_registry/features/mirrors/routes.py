"""Mirrors of a namespace."""

from typing import Annotated

from fastapi import APIRouter
from lorahub.errors import (
    AccountNotFound,
    AlreadyExists,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    NotSupported,
    Quarantined,
    RepositoryMoved,
)
from lorahub.protocol.messages.message import Done
from lorahub.protocol.messages.mirrors import Mirror
from lorahub.protocol.names import RepositoryName
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.mirrors import service
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses

router = APIRouter(prefix="/api/lorahub/v1/mirrors")

MirrorId = Annotated[int, Field(ge=1, le=2**62)]
HubToken = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[!-~]+$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]


class NewMirror(BaseModel):
    """`repository` of the hub at `endpoint` is followed at `revision`; here it is `target`."""

    endpoint: Annotated[str, Field(min_length=1, max_length=300)]
    repository: Text
    revision: Annotated[str, Field(min_length=1, max_length=128)] = "main"
    target: Text
    private: bool = False
    token: HubToken | None = None


class MirrorToken(BaseModel):
    """For the hub; null for none."""

    token: HubToken | None


@router.get("")
@refuses(NotAuthenticated)
def mirrors(backend: BackendDep, caller: Caller) -> list[Mirror]:
    """The mirrors of the namespaces that the caller manages."""
    note = workers.note(backend)
    return [_shown(mirror, note) for mirror in service.mirrors_of(backend, caller)]


@router.post("")
@refuses(NotAuthenticated, NotPermitted, NotSupported, AccountNotFound, AlreadyExists, Quarantined, RepositoryMoved)
def add(backend: BackendDep, caller: Caller, body: Annotated[NewMirror, json_model(NewMirror)]) -> Mirror:
    note = workers.note(backend)
    made = service.add(
        backend,
        caller,
        RepositoryName.parse(body.target),
        endpoint=body.endpoint,
        source=RepositoryName.parse(body.repository),
        revision=body.revision,
        is_private=body.private,
        token=body.token,
    )
    return _shown(made, note)


@router.get("/{mirror}")
@refuses(NotAuthenticated, NotFound)
def show(backend: BackendDep, caller: Caller, mirror: MirrorId) -> Mirror:
    note = workers.note(backend)
    return _shown(service.show(backend, caller, mirror), note)


@router.post("/{mirror}/pause")
@refuses(NotAuthenticated, NotFound)
def pause(backend: BackendDep, caller: Caller, mirror: MirrorId) -> Mirror:
    """It runs only when somebody asks."""
    note = workers.note(backend)
    return _shown(service.pause(backend, caller, mirror, is_paused=True), note)


@router.post("/{mirror}/resume")
@refuses(NotAuthenticated, NotFound)
def resume(backend: BackendDep, caller: Caller, mirror: MirrorId) -> Mirror:
    """It runs in every interval again, and the failures before are forgotten."""
    note = workers.note(backend)
    return _shown(service.pause(backend, caller, mirror, is_paused=False), note)


@router.put("/{mirror}/token")
@refuses(NotAuthenticated, NotFound)
def set_token(
    backend: BackendDep, caller: Caller, mirror: MirrorId, body: Annotated[MirrorToken, json_model(MirrorToken)]
) -> Mirror:
    """What the hub is told; it is never shown."""
    note = workers.note(backend)
    return _shown(service.set_token(backend, caller, mirror, body.token), note)


@router.delete("/{mirror}")
@refuses(NotAuthenticated, NotFound)
def remove(backend: BackendDep, caller: Caller, mirror: MirrorId) -> Done:
    service.remove(backend, caller, mirror)
    return Done()


@router.post("/{mirror}/run")
@refuses(NotAuthenticated, NotFound, NotPermitted, NotSupported)
def run(backend: BackendDep, caller: Caller, mirror: MirrorId) -> Mirror:
    """A worker looks for a new commit as soon as it can."""
    note = workers.note(backend)
    return _shown(service.want(backend, caller, mirror), note)


def _shown(mirror: service.Mirror, note: str | None) -> Mirror:
    return Mirror(
        id=mirror.id,
        target=mirror.full_name,
        endpoint=mirror.endpoint,
        repository=mirror.source,
        revision=mirror.revision,
        private=mirror.is_private,
        created_at=mirror.created_at,
        waiting=mirror.wanted_at is not None,
        note=note if mirror.wanted_at is not None else None,
        checked_at=mirror.checked_at,
        commit=mirror.remote_commit,
        version=mirror.version,
        error=mirror.error,
        has_token=mirror.sealed_token is not None,
        paused=mirror.paused_at is not None,
        failures=mirror.failures,
        next_try_at=mirror.next_try_at,
    )
