"""The block list, for administrators."""

from typing import Annotated, Any

from fastapi import APIRouter
from lorahub.errors import NotAuthenticated, NotFound, NotPermitted
from lorahub.protocol.digests import parse_sha256
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.blobs import service
from lorahub_registry.core.blobs.service import Block
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.raw_path import decode
from lorahub_registry.infrastructure.web.times import wire_time

router = APIRouter()
API = "/api/lorahub/v1"


class Reason(BaseModel):
    reason: str = Field(max_length=service.MAX_REASON)


@router.get(f"{API}/blocked")
@refuses(NotAuthenticated, NotPermitted)
def list_blocked(backend: BackendDep, caller: Caller) -> list[dict[str, Any]]:
    return [_block(block) for block in service.blocks(backend, caller)]


@router.put(f"{API}/blocked/{{sha256}}")
@refuses(NotAuthenticated, NotPermitted)
def block(
    backend: BackendDep, caller: Caller, sha256: str, body: Annotated[Reason, json_model(Reason)]
) -> dict[str, Any]:
    return _block(service.block(backend, caller, parse_sha256(decode(sha256)), body.reason))


@router.delete(f"{API}/blocked/{{sha256}}")
@refuses(NotAuthenticated, NotPermitted, NotFound)
def unblock(backend: BackendDep, caller: Caller, sha256: str) -> dict[str, Any]:
    service.unblock(backend, caller, parse_sha256(decode(sha256)))
    return {}


def _block(block: Block) -> dict[str, Any]:
    return {"sha256": block.sha256, "reason": block.reason, "by": block.by, "at": wire_time(block.at)}
