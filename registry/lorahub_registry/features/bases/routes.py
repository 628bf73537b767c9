"""Base models over HTTP: register, find, list."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from lorahub.errors import (
    AlreadyExists,
    BaseNotFound,
    GatedRepository,
    InvalidBaseModel,
    InvalidInput,
    NotAuthenticated,
    NotPermitted,
)
from lorahub.protocol.messages.bases import BaseDocument, CountedBase, KnownBase
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.bases import service
from lorahub_registry.features.bases.service import FoundBase, NamedBase
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.raw_path import decode

router = APIRouter(prefix="/api/lorahub/v1/bases")
PAGE = 100

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class BaseRequest(BaseModel):
    """`layout` is the canonical text of docs/format.md, with or without digests of the tensors."""

    names: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(min_length=1, max_length=1)
    revision: Annotated[str, Field(pattern="^[A-Za-z0-9._-]{0,64}$")] | None = None
    layout: str = Field(max_length=64 << 20)
    files: dict[Annotated[str, Field(max_length=1024)], Digest] = Field(default_factory=dict, max_length=4096)
    config: dict[str, Any] = Field(default_factory=dict)


@router.post("")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists, InvalidBaseModel)
@STORAGE.serves
def register(backend: BackendDep, caller: Caller, body: Annotated[BaseRequest, json_model(BaseRequest)]) -> KnownBase:
    new = service.NewBase(body.names[0], body.revision or "", body.layout, body.config, body.files)
    return KnownBase(**_known(service.register(backend, caller, new)))


@router.get("", response_model=list[CountedBase])
def list_bases(
    backend: BackendDep,
    caller: Caller,
    request: Request,
    url: PublicUrl,
    search: Annotated[str | None, Query(max_length=200)] = None,
    cursor: Annotated[int | None, Query(ge=0, le=1 << 62)] = None,
) -> Response:
    if search is not None and not search.isprintable():
        raise InvalidInput("`search` has control characters")
    found = service.list_named(backend, caller, search, after=cursor, limit=PAGE + 1)
    rows = [CountedBase(**_known(named), adapters=adapters) for _, named, adapters in found[:PAGE]]
    following = str(found[PAGE - 1][0]) if len(found) > PAGE else None
    return page(rows, request=request, public_url=url, cursor=following)


@router.get("/{name}/revisions", response_model=list[BaseDocument])
@router.get("/{namespace}/{name}/revisions", response_model=list[BaseDocument])
@STORAGE.serves
def revisions(
    backend: BackendDep,
    caller: Caller,
    request: Request,
    url: PublicUrl,
    name: str,
    namespace: str = "",
    cursor: Annotated[int, Query(ge=0, le=service.MOST_REVISIONS)] = 0,
) -> Response:
    """Every base that the name stands for, newest first; one a page, since a layout may have megabytes."""
    wanted = "/".join(decode(part) for part in (namespace, name) if part)
    known = service.meant_by(backend, caller, wanted)
    found, following = service.next_of(backend, caller, known, cursor)
    rows = [] if found is None else [_document(found)]
    return page(rows, request=request, public_url=url, cursor=None if following is None else str(following))


@router.get("/{name}")
@router.get("/{namespace}/{name}")
@refuses(BaseNotFound, GatedRepository)
def base(
    backend: BackendDep,
    caller: Caller,
    name: str,
    namespace: str = "",
    revision: Annotated[str | None, Query(max_length=64)] = None,
) -> BaseDocument:
    """By name, or by `sha256:` and the digest of weights or layout; with the whole layout."""
    wanted = "/".join(decode(part) for part in (namespace, name) if part)
    return _document(service.find(backend, caller, wanted, revision))


def _known(named: NamedBase) -> dict[str, Any]:
    """What both messages say."""
    return {
        "name": named.name,
        "revision": named.revision or None,
        "layout_digest": named.base.layout_digest,
        "weights_digest": named.base.weights_digest,
        "architecture": named.base.architecture,
        "parameters": named.base.parameters,
        "tensors": named.base.tensors,
        "files": named.base.files,
        "added_by": named.added_by,
        "added_at": named.added_at,
    }


def _document(found: FoundBase) -> BaseDocument:
    known = found.base
    return BaseDocument(
        names=tuple(sorted(known.names)),
        revision=known.revision,
        layout=known.weights_text() or known.layout_text(),
        layout_digest=known.layout_digest,
        weights_digest=known.weights_digest,
        architecture=known.architecture,
        parameters=known.parameters,
        files=dict(known.files),
        config=dict(known.config),
        registered=found.id is not None,
    )
