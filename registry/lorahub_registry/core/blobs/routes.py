"""The block list, for administrators."""

from typing import Annotated

from fastapi import APIRouter
from lorahub.errors import NotAuthenticated, NotFound, NotPermitted
from lorahub.protocol.digests import parse_sha256
from lorahub.protocol.messages.message import Done
from lorahub.protocol.messages.repositories import BlockedContent
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.blobs import service
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.raw_path import decode

router = APIRouter()
API = "/api/lorahub/v1"


class Reason(BaseModel):
    reason: str = Field(max_length=service.MAX_REASON)


@router.get(f"{API}/blocked")
@refuses(NotAuthenticated, NotPermitted)
def list_blocked(backend: BackendDep, caller: Caller) -> list[BlockedContent]:
    return [block.as_message() for block in service.blocks(backend, caller)]


@router.put(f"{API}/blocked/{{sha256}}")
@refuses(NotAuthenticated, NotPermitted)
def block(
    backend: BackendDep, caller: Caller, sha256: str, body: Annotated[Reason, json_model(Reason)]
) -> BlockedContent:
    return service.block(backend, caller, parse_sha256(decode(sha256)), body.reason).as_message()


@router.delete(f"{API}/blocked/{{sha256}}")
@refuses(NotAuthenticated, NotPermitted, NotFound)
def unblock(backend: BackendDep, caller: Caller, sha256: str) -> Done:
    service.unblock(backend, caller, parse_sha256(decode(sha256)))
    return Done()
