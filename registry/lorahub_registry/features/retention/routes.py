"""What a repository keeps."""

from typing import Annotated

from fastapi import APIRouter
from lorahub.errors import NotAuthenticated, NotPermitted, Quarantined
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.retention import service
from lorahub_registry.features.retention.service import MOST_VERSIONS, Retention
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.parameters import Repo

router = APIRouter(prefix="/api/lorahub/v1")
OWN = "/models/{namespace}/{name}/retention"


class NewRetention(BaseModel):
    """`keep` so many versions; null keeps all."""

    keep: Annotated[int, Field(ge=1, le=MOST_VERSIONS)] | None


class ShownRetention(TypedDict):
    """`drops`: versions that the next collection lets go of."""

    keep: int | None
    drops: list[str]


@router.get(OWN)
@refuses(NotAuthenticated, NotPermitted, Quarantined)
def retention(backend: BackendDep, caller: Caller, repo: Repo) -> ShownRetention:
    with reading(backend, caller, repo) as opened:
        return _shown(service.retention_of(opened))


@router.put(OWN)
@refuses(NotAuthenticated, NotPermitted, Quarantined)
def set_retention(
    backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[NewRetention, json_model(NewRetention)]
) -> ShownRetention:
    return _shown(service.set_retention(backend, caller, repo, body.keep))


def _shown(found: Retention) -> ShownRetention:
    return {"keep": found.keeps, "drops": found.drops}
