"""The signature of a revision, as it can be seen without a key."""

from fastapi import APIRouter
from lorahub.errors import BlobDamaged, ContentBlocked, GatedRepository, Quarantined
from typing_extensions import TypedDict

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.signatures import service
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.parameters import Repo, Revision

router = APIRouter(prefix="/api/lorahub/v1")

MOST_PATHS = 100


class ShownSignature(TypedDict):
    """`key` and what is covered are what the signature says; that the key made it, `lorahub verify --key` proves."""

    signed: bool
    key: str | None
    coversFiles: bool
    differing: list[str]
    fault: str | None


@router.get("/models/{namespace}/{name}/signature/{rev}")
@refuses(BlobDamaged, ContentBlocked, GatedRepository, Quarantined)
@STORAGE.serves
def signature(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision) -> ShownSignature:
    found = service.signature_of(backend, caller, repo, rev)
    return {
        "signed": found.is_signed,
        "key": found.key,
        "coversFiles": found.is_of_these_files,
        "differing": list(found.differing[:MOST_PATHS]),
        "fault": found.fault,
    }
