"""Overlaps over HTTP: look, and ask for one."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from lorahub.errors import GatedRepository, NotAuthenticated, NotFound, TooManyRequests
from lorahub.protocol.messages.statistics import OverlapAnswer
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.references import LATEST, Reference

from lorahub_registry.core.access import Reader, looking
from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.overlaps import service
from lorahub_registry.features.overlaps.service import Side
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.parameters import Repo, Revision

router = APIRouter(prefix="/api/lorahub/v1")

With = Annotated[
    str, Query(alias="with", min_length=1, max_length=300, description="the other: namespace/name@revision")
]


@router.get("/models/{namespace}/{name}/overlap/{rev}", response_model=OverlapAnswer)
@refuses(GatedRepository, NotFound)
def overlap(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, other: With) -> JSONResponse:
    with looking(backend, caller) as reader:
        found = service.overlap_of(reader.session, *_sides(reader, repo, rev, other))
        note = workers.note_in(reader.session, backend) if found.status == "wanted" else None
    return _shown(found, note)


@router.post("/models/{namespace}/{name}/overlap/{rev}", status_code=202, response_model=OverlapAnswer)
@refuses(GatedRepository, NotAuthenticated, NotFound, TooManyRequests)
def want(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, other: With) -> JSONResponse:
    """Has it computed, where it isn't there."""
    with looking(backend, caller) as reader:
        sides = _sides(reader, repo, rev, other)
        note = workers.note_in(reader.session, backend)
    return _shown(service.want(backend, caller, *sides), note, 202)


def _sides(reader: Reader, repo: RepositoryName, revision: str, other: str) -> tuple[Side, Side]:
    reference = Reference.parse(other)
    one = service.side_at(reader.open(repo), revision)
    return one, service.side_at(reader.open(reference.repository), reference.revision or LATEST)


def _shown(found: service.OverlapOutcome, note: str | None, status: int = 200) -> JSONResponse:
    note = note if found.status == "wanted" else None
    return JSONResponse(
        {"status": found.status, "reason": found.reason, "note": note, "overlap": found.overlap}, status_code=status
    )
