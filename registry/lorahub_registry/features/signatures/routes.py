"""The signature of a revision, as it can be seen without a key."""

from fastapi import APIRouter
from lorahub.errors import BlobDamaged, ContentBlocked, GatedRepository, Quarantined
from lorahub.protocol.messages.signatures import StatedSignature

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.signatures import service
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.parameters import Repo, Revision

router = APIRouter(prefix="/api/lorahub/v1")

MOST_PATHS = 100


@router.get("/models/{namespace}/{name}/signature/{rev}")
@refuses(BlobDamaged, ContentBlocked, GatedRepository, Quarantined)
@STORAGE.serves
def signature(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision) -> StatedSignature:
    found = service.signature_of(backend, caller, repo, rev)
    return StatedSignature(
        signed=found.is_signed,
        key=found.key,
        covers_files=found.is_of_these_files,
        differing=tuple(found.differing[:MOST_PATHS]),
        fault=found.fault,
    )
