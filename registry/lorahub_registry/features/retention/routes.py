"""What a repository keeps."""

from typing import Annotated

from fastapi import APIRouter
from lorahub.errors import NotAuthenticated, NotPermitted, Quarantined
from lorahub.protocol.messages.retention import Retention
from pydantic import BaseModel, Field

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.retention import service
from lorahub_registry.features.retention.service import MOST_VERSIONS
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.parameters import Repo

router = APIRouter(prefix="/api/lorahub/v1")
OWN = "/models/{namespace}/{name}/retention"


class NewRetention(BaseModel):
    """`keep` so many versions; null keeps all."""

    keep: Annotated[int, Field(ge=1, le=MOST_VERSIONS)] | None


@router.get(OWN)
@refuses(NotAuthenticated, NotPermitted, Quarantined)
def retention(backend: BackendDep, caller: Caller, repo: Repo) -> Retention:
    with reading(backend, caller, repo) as opened:
        return _shown(service.retention_of(opened))


@router.put(OWN)
@refuses(NotAuthenticated, NotPermitted, Quarantined)
def set_retention(
    backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[NewRetention, json_model(NewRetention)]
) -> Retention:
    return _shown(service.set_retention(backend, caller, repo, body.keep))


def _shown(found: service.Retention) -> Retention:
    return Retention(keep=found.keeps, drops=tuple(found.drops))
