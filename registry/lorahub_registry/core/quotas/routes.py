"""Who am I here, and how much may I keep."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from lorahub.errors import NotAuthenticated

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.quotas import service
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import refuses

router = APIRouter()


@router.get("/api/lorahub/v1/whoami")
@refuses(NotAuthenticated)
def whoami(backend: BackendDep, caller: Caller) -> dict[str, Any]:
    work = service.own_work(backend, caller)
    return {
        "name": caller.name,
        "admin": caller.is_admin,
        "scope": caller.scope.name.lower(),
        "namespace": caller.namespace,
        "openUploads": asdict(work.open_uploads),
        "openMerges": asdict(work.open_merges),
        "quotas": [use.as_json() for use in service.own_uses(backend, caller)],
    }
