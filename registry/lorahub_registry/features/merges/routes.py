"""Merges over HTTP: plan, start, look, cancel."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from lorahub.merging.plan import MergePlan
from lorahub.merging.recipe import recipe_of
from lorahub.protocol.names import RepositoryName
from pydantic import BaseModel, Field

from lorahub_registry.features.accounts.caller import Caller
from lorahub_registry.features.merges import service
from lorahub_registry.features.merges.service import Shown
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model, json_object
from lorahub_registry.infrastructure.web.times import wire_time

router = APIRouter(prefix="/api/lorahub/v1/merges")


class NewMerge(BaseModel):
    """`recipe` is a recipe of docs/merging.md as JSON, `target` the repository of the result."""

    recipe: dict[str, Any]
    target: str = Field(max_length=300)
    private: bool = False


@router.post("/plan")
def plan(backend: BackendDep, caller: Caller, body: Annotated[dict[str, Any], Depends(json_object)]) -> dict[str, Any]:
    """What a recipe comes to; nothing is started."""
    return _planned(service.plan(backend, caller, recipe_of(body)))


@router.post("", status_code=202)
def start(backend: BackendDep, caller: Caller, body: Annotated[NewMerge, json_model(NewMerge)]) -> dict[str, Any]:
    name = RepositoryName.parse(body.target)
    return _job(service.start(backend, caller, recipe_of(body.recipe), name, is_private=body.private))


@router.get("")
def own(backend: BackendDep, caller: Caller) -> list[dict[str, Any]]:
    return [_job(shown) for shown in service.own_jobs(backend, caller)]


@router.get("/{job}")
def look(backend: BackendDep, caller: Caller, job: str) -> dict[str, Any]:
    return _job(service.find(backend, caller, job))


@router.post("/{job}/cancel")
def cancel(backend: BackendDep, caller: Caller, job: str) -> dict[str, Any]:
    return _job(service.cancel(backend, caller, job))


def _planned(made: MergePlan) -> dict[str, Any]:
    return {
        "digest": made.digest,
        "files": made.files,
        "cost": made.cost.as_json(),
        "notes": list(made.notes),
        "recipe": made.recipe.as_json(),
    }


def _job(shown: Shown) -> dict[str, Any]:
    job = shown.job
    return {
        "id": job.id,
        "status": job.status,
        "target": shown.target,
        "reference": shown.reference,
        "commit": job.commit_id,
        "digest": job.digest,
        "recipe": job.sources["recipe"],
        "bytes": job.bytes,
        "done": job.done,
        "error": job.error,
        "created_at": wire_time(job.created_at),
        "finished_at": None if job.finished_at is None else wire_time(job.finished_at),
    }
