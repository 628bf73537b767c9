"""Records of repositories, and bundles of them."""

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from lorahub.errors import (
    AlreadyExists,
    BlobVanished,
    ContentBlocked,
    DiskFull,
    GatedRepository,
    InvalidAdapter,
    InvalidBundle,
    NameRetired,
    NotAuthenticated,
    NotPermitted,
    NotSupported,
    PayloadTooLarge,
)
from lorahub.protocol.messages.bundles import RepositoryRecord, TakenBundle, TakenRepository

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.accounts.permissions import require_site_admin
from lorahub_registry.features.bundles import service
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import BundleBody
from lorahub_registry.infrastructure.web.description import reads, refuses
from lorahub_registry.infrastructure.web.parameters import Repo

router = APIRouter()
API = "/api/lorahub/v1"


@router.get(API + "/models/{namespace}/{name}/record", response_model=RepositoryRecord)
@refuses(GatedRepository, NotPermitted, NotSupported, PayloadTooLarge)
def record(backend: BackendDep, caller: Caller, repo: Repo, revision: str | None = None) -> JSONResponse:
    with reading(backend, caller, repo) as opened:
        return JSONResponse(service.record_of(opened, revision).as_json())


def may_import(caller: Caller) -> None:
    """Asked before the body is received."""
    require_site_admin(caller)


@router.post(API + "/bundles", dependencies=[Depends(may_import)])
@reads("application/octet-stream")
@refuses(
    AlreadyExists,
    BlobVanished,
    ContentBlocked,
    DiskFull,
    InvalidAdapter,
    InvalidBundle,
    NameRetired,
    NotAuthenticated,
    NotPermitted,
    PayloadTooLarge,
)
@STORAGE.serves
def import_bundle(backend: BackendDep, caller: Caller, body: BundleBody) -> TakenBundle:
    taken = service.take_in(backend, caller, body)
    repositories = (TakenRepository(one.name, one.commits, one.references) for one in taken.repositories)
    return TakenBundle(f"sha256:{taken.digest}", taken.is_signed, tuple(repositories))
