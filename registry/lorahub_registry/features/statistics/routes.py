"""Statistics over HTTP."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from lorahub.errors import GatedRepository, NotFound
from lorahub.protocol.messages.statistics import Statistics

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.statistics import service
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.parameters import Repo, Revision

router = APIRouter(prefix="/api/lorahub/v1")


@router.get("/models/{namespace}/{name}/statistics/{rev}", response_model=Statistics)
@refuses(GatedRepository, NotFound)
def statistics(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision) -> JSONResponse:
    with reading(backend, caller, repo) as opened:
        found = service.statistics_at(opened, rev)
        note = workers.note_in(opened.session, backend) if found.status == "wanted" else None
    return JSONResponse({"status": found.status, "reason": found.reason, "note": note, "statistics": found.statistics})
