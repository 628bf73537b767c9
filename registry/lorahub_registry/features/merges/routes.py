"""Merges over HTTP: plan, start, look, cancel."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from lorahub.errors import (
    AdapterDoesNotFit,
    AlreadyExists,
    BaseNotFound,
    Conflict,
    GatedRepository,
    MergeTooLarge,
    NameRetired,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    VersionYanked,
)
from lorahub.merging.recipe import recipe_of
from lorahub.protocol.messages.merges import MergeJob, PlannedMerge
from lorahub.protocol.names import RepositoryName
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.merges import service
from lorahub_registry.features.merges.service import Shown
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model, json_object
from lorahub_registry.infrastructure.web.description import refuses

router = APIRouter(prefix="/api/lorahub/v1/merges")


class NewMerge(BaseModel):
    """`recipe` is a recipe of docs/merging.md as JSON, `target` the repository of the result."""

    recipe: dict[str, Any]
    target: str = Field(max_length=300)
    private: bool = False


@router.post("/plan")
@refuses(NotAuthenticated, AdapterDoesNotFit, BaseNotFound, GatedRepository, MergeTooLarge, VersionYanked)
@STORAGE.serves
def plan(backend: BackendDep, caller: Caller, body: Annotated[dict[str, Any], Depends(json_object)]) -> PlannedMerge:
    """What a recipe comes to; nothing is started."""
    return service.message_of(service.plan(backend, caller, recipe_of(body)))


@router.post("", status_code=202)
@refuses(
    NotAuthenticated,
    NotPermitted,
    AdapterDoesNotFit,
    AlreadyExists,
    BaseNotFound,
    GatedRepository,
    MergeTooLarge,
    NameRetired,
)
@STORAGE.serves
def start(backend: BackendDep, caller: Caller, body: Annotated[NewMerge, json_model(NewMerge)]) -> MergeJob:
    name, note = RepositoryName.parse(body.target), workers.note(backend)
    started = service.start(backend, caller, recipe_of(body.recipe), name, is_private=body.private)
    return _described(started, note)


@router.get("")
@refuses(NotAuthenticated)
def own(backend: BackendDep, caller: Caller) -> list[MergeJob]:
    return _jobs(backend, service.own_jobs(backend, caller))


@router.get("/{job}")
@refuses(NotAuthenticated, NotFound)
def look(backend: BackendDep, caller: Caller, job: str) -> MergeJob:
    return _jobs(backend, [service.find(backend, caller, job)])[0]


@router.post("/{job}/cancel")
@refuses(NotAuthenticated, NotPermitted, Conflict, NotFound)
def cancel(backend: BackendDep, caller: Caller, job: str) -> MergeJob:
    return _described(service.cancel(backend, caller, job), None)


def _jobs(backend: Backend, found: list[Shown]) -> list[MergeJob]:
    note = workers.note(backend) if any(shown.job.is_open for shown in found) else None
    return [_described(shown, note) for shown in found]


def _described(shown: Shown, note: str | None) -> MergeJob:
    job = shown.job
    return MergeJob(
        id=job.id,
        status=job.status,
        target=shown.target,
        reference=shown.reference,
        commit=job.commit_id,
        digest=job.digest,
        recipe=job.sources["recipe"],
        bytes=job.bytes,
        done=job.done,
        error=job.error,
        note=note if job.is_open else None,
        created_at=job.created_at,
        finished_at=job.finished_at,
    )
