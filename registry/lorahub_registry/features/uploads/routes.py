"""Git-LFS and Xet uploads on the wire.

Bodies are received on the event loop, straight into storage; all else happens in threads.
"""

import json
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from lorahub.errors import (
    BlobNotFound,
    BlobVanished,
    DigestMismatch,
    DiskFull,
    InvalidInput,
    InvalidToken,
    MalformedBody,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    PayloadTooLarge,
    QuotaExceeded,
    Refusal,
    RouteNotFound,
    SizeMismatch,
    UnsupportedMediaType,
)
from lorahub.protocol.messages.message import Done
from lorahub.protocol.messages.uploads import LfsBatch, ShardTaken, XetToken, XorbGrant, XorbTaken
from lorahub.protocol.names import RepositoryName
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.uploads import service
from lorahub_registry.features.uploads.service import Slot, Target, Wanted, XetSession
from lorahub_registry.features.uploads.xorbs import MAX_XORB_BYTES
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import (
    SpooledBody,
    declared_size,
    discard_body,
    json_model,
    receive_object,
)
from lorahub_registry.infrastructure.web.description import answers, authenticates, reads, refuses
from lorahub_registry.infrastructure.web.parameters import Repo
from lorahub_registry.infrastructure.web.raw_path import decode

router = APIRouter()
LFS_TYPE = "application/vnd.git-lfs+json"


class LfsObject(BaseModel):
    oid: str
    size: int = Field(ge=0, le=1 << 50)


class Batch(BaseModel):
    operation: Literal["upload", "download"]
    transfers: list[str] = Field(default=["basic"], max_length=20)
    objects: list[LfsObject]
    hash_algo: str = "sha256"


class Part(BaseModel):
    part_number: int = Field(alias="partNumber")
    etag: str


class Completion(BaseModel):
    oid: str
    parts: list[Part] = Field(max_length=100_000)


class XorbWish(BaseModel):
    length: int = Field(ge=1, le=MAX_XORB_BYTES)


# --- Git-LFS ----------------------------------------------------------------------------------------------------------


@router.post("/{namespace}/{name}.git/info/lfs/objects/batch", response_model=LfsBatch)
@answers(LFS_TYPE)
@refuses(DiskFull, NotAuthenticated, NotPermitted, PayloadTooLarge)
@STORAGE.serves
def batch(
    backend: BackendDep, caller: Caller, repo: Repo, url: PublicUrl, body: Annotated[Batch, json_model(Batch)]
) -> JSONResponse:
    if body.hash_algo != "sha256":
        raise InvalidInput(f"the hash {body.hash_algo[:40]!r} is not known here; objects are named by sha256")
    if body.operation == "download":
        raise InvalidInput("files are downloaded from their addresses, /{namespace}/{name}/resolve/{revision}/{path}")
    wanted = [Wanted(one.oid, one.size) for one in body.objects]
    takes_parts = "multipart" in body.transfers
    targets = service.open_batch(backend, caller, repo, wanted, takes_parts=takes_parts)
    transfer = "multipart" if any(target.part_sizes for target in targets) else "basic"
    answer = {"transfer": transfer, "objects": [_target(target, repo, url) for target in targets]}
    return JSONResponse(answer, media_type=LFS_TYPE)


def _target(target: Target, repo: RepositoryName, url: str) -> dict[str, Any]:
    row: dict[str, Any] = {"oid": target.wanted.sha256, "size": target.wanted.size, "authenticated": True}
    if target.refusal is not None:
        return {**row, "error": {"code": target.refusal.status, "message": target.refusal.message}}
    if target.credential is None:
        return row
    verify = {"href": f"{url}/{repo}.git/info/lfs/verify", "header": {}}
    return {**row, "actions": {"upload": _upload_action(target, f"{url}/lfs/{target.credential}"), "verify": verify}}


def _upload_action(target: Target, address: str) -> dict[str, Any]:
    """The address is the credential: clients send neither a token nor these headers with the bytes."""
    if not target.part_sizes:
        return {"href": target.addresses[0] if target.addresses else f"{address}/whole", "header": {}}
    done = [
        {"partNumber": number, "etag": service.part_etag(number, target.part_sizes[number - 1])}
        for number in target.parts_here
    ]
    addresses = target.addresses or [f"{address}/parts/{number}" for number in range(1, len(target.part_sizes) + 1)]
    parts = {str(number): part for number, part in enumerate(addresses, start=1)}
    return {
        "href": f"{address}/complete",
        "header": {"chunk_size": str(target.part_sizes[0]), "done": json.dumps(done), **parts},
    }


@router.put("/lfs/{credential}/whole")
@answers("")
@reads("application/octet-stream")
@refuses(BlobVanished, DigestMismatch, DiskFull, InvalidToken, PayloadTooLarge, QuotaExceeded, UnsupportedMediaType)
async def put_whole(request: Request, backend: BackendDep, credential: str) -> Response:
    slot = await to_thread.run_sync(service.slot_for_whole, backend, decode(credential))
    if await _receive(request, backend, slot) and slot is not None:
        await STORAGE.go_on(service.finish_whole, backend, slot.upload)
    return Response(status_code=200)


@router.put("/lfs/{credential}/parts/{number}")
@answers("")
@reads("application/octet-stream")
@refuses(BlobVanished, DigestMismatch, DiskFull, InvalidToken, PayloadTooLarge, QuotaExceeded, UnsupportedMediaType)
async def put_part(request: Request, backend: BackendDep, credential: str, number: int) -> Response:
    slot = await to_thread.run_sync(service.slot_for_part, backend, decode(credential), number)
    await _receive(request, backend, slot)
    return Response(status_code=200, headers={"ETag": service.part_etag(number, slot.size if slot else 0)})


async def _receive(request: Request, backend: BackendDep, slot: Slot | None) -> bool:
    """Whether bytes were taken; those of a finished upload are read and forgotten, as a retry sends them again."""
    if slot is None:
        await discard_body(request, limit=backend.settings.object_bytes)
        return False
    await receive_object(request, service.receiving(backend, slot), size=slot.size)
    return True


@router.post("/lfs/{credential}/complete")
@refuses(BlobVanished, DigestMismatch, DiskFull, InvalidToken, QuotaExceeded)
@STORAGE.serves
def complete(backend: BackendDep, credential: str, body: Annotated[Completion, json_model(Completion)]) -> Done:
    service.finish_parts(backend, decode(credential), body.oid)
    return Done()


@router.post("/{namespace}/{name}.git/info/lfs/verify")
@refuses(NotAuthenticated, NotPermitted, BlobNotFound, BlobVanished, QuotaExceeded)
@STORAGE.serves
def verify(backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[LfsObject, json_model(LfsObject)]) -> Done:
    service.finish_brought(backend, caller, repo, Wanted(body.oid, body.size))
    return Done()


# --- Xet --------------------------------------------------------------------------------------------------------------


@router.get("/api/models/{namespace}/{name}/xet-write-token/{rev}", response_model=XetToken)
@refuses(NotAuthenticated, NotPermitted)
def xet_write_token(backend: BackendDep, caller: Caller, repo: Repo, url: PublicUrl) -> JSONResponse:
    element, token = service.xet_token(backend, caller, repo)
    address = f"{url}/cas/{element}"
    expires = service.xet_expiry(backend)
    return JSONResponse(
        {"casUrl": address, "accessToken": token, "exp": expires},
        headers={
            "X-Xet-Cas-Url": address,
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(expires),
            "Cache-Control": "no-store",
        },
    )


@authenticates("upload session")
@refuses(InvalidToken, NotAuthenticated)
def the_session(request: Request, backend: BackendDep, element: str) -> XetSession:
    """Upload sessions carry a token of their own; the user's is never sent here."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidToken("Invalid credentials in Authorization header")
    return service.xet_session(backend, decode(element), token.strip())


Session = Annotated[XetSession, Depends(the_session)]


@router.get("/cas/{element}/v1/chunks/default/{chunk}")
@refuses(NotFound)
def known_chunks(session: Session) -> None:  # noqa: ARG001 (only a session may ask)
    raise NotFound("no chunks are shared between uploads")


@router.post("/cas/{element}/v1/xorb-grants/default/{xorb}", status_code=201, response_model=XorbGrant)
@refuses(DiskFull, NotFound, MalformedBody, QuotaExceeded)
@STORAGE.serves
def xorb_grant(
    backend: BackendDep, session: Session, xorb: str, body: Annotated[XorbWish, json_model(XorbWish)]
) -> JSONResponse:
    address = service.grant_xorb(backend, session, xorb, size=body.length)
    if address is None:
        raise NotFound("xorbs are uploaded through the registry")
    return JSONResponse({"id": "put", "method": "PUT", "url": address, "headers": {}}, status_code=201)


@router.post("/cas/{element}/v1/xorb-commits/default/{xorb}/grant/{grant}")
@refuses(NotFound, MalformedBody)
@STORAGE.serves
def xorb_commit(backend: BackendDep, session: Session, xorb: str) -> Done:
    service.require_xorb(backend, session, xorb)
    return Done()


@router.post("/cas/{element}/v1/xorbs/default/{xorb}")
@reads("application/octet-stream")
@refuses(DiskFull, PayloadTooLarge, QuotaExceeded, SizeMismatch, UnsupportedMediaType)
async def put_xorb(request: Request, backend: BackendDep, session: Session, xorb: str) -> XorbTaken:
    size = declared_size(request, limit=MAX_XORB_BYTES)
    key = await to_thread.run_sync(lambda: service.expect_xorb(backend, session, xorb, size=size))
    await receive_object(request, backend.blobs.writer(key), size=size)
    return XorbTaken(was_inserted=True)


@router.post("/cas/{element}/v1/shards")
@reads("application/octet-stream")
@refuses(BlobVanished, DigestMismatch, DiskFull, PayloadTooLarge, QuotaExceeded)
@STORAGE.serves
def put_shard(backend: BackendDep, session: Session, body: SpooledBody) -> ShardTaken:
    service.take_shard(backend, session, body)
    return ShardTaken(result=1)


@router.post("/cas/{element}/v2/shards")
@answers("application/x-ndjson")
@reads("application/octet-stream")
@refuses(DiskFull)
@STORAGE.serves
def put_shard_v2(backend: BackendDep, session: Session, body: SpooledBody) -> Response:
    """One frame: the result, or the error, which this form of the call shows to its user at once."""
    try:
        service.take_shard(backend, session, body)
        frame: dict[str, Any] = {"type": "result"}
    except Refusal as error:
        frame = {"type": "error", "message": error.message, "retryable": False}
    return Response(json.dumps(frame) + "\n", media_type="application/x-ndjson")


@router.post("/v1/telemetry")
@answers("")
def telemetry() -> Response:
    """Clients send it unasked; nothing is kept."""
    return Response(status_code=200)


@router.api_route("/cas/{element}/{rest:path}", methods=["GET", "POST", "HEAD"], include_in_schema=False)
def nothing_else(element: str) -> None:  # noqa: ARG001
    raise RouteNotFound("uploads only: files are read at their addresses")
