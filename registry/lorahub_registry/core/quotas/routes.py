"""Who am I here, and how much may I keep."""

from fastapi import APIRouter
from lorahub.errors import NotAuthenticated
from lorahub.protocol.messages.accounts import OwnUse

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.quotas import service
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import refuses

router = APIRouter()


@router.get("/api/lorahub/v1/whoami")
@refuses(NotAuthenticated)
def whoami(backend: BackendDep, caller: Caller) -> OwnUse:
    work = service.own_work(backend, caller)
    return OwnUse(
        name=caller.name,
        admin=caller.is_admin,
        scope=caller.scope.name.lower(),
        namespace=caller.namespace,
        open_uploads=work.open_uploads.as_message(),
        open_merges=work.open_merges.as_message(),
        quotas=tuple(use.as_message() for use in service.own_uses(backend, caller)),
    )
