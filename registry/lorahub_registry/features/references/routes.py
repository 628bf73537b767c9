"""Refs, commits, branches, tags and super-squash as the Hub has them; versions, aliases and yank are lorahub's own."""

from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from lorahub.errors import (
    AlreadyExists,
    GatedRepository,
    NotAuthenticated,
    NotPermitted,
    ParentMoved,
    ProtectedReference,
    RevisionNotFound,
)
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.features.references import service
from lorahub_registry.features.references.service import Alias, Commit, Reference, Version, Yank
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.parameters import Repo, Revision
from lorahub_registry.infrastructure.web.raw_path import decode
from lorahub_registry.infrastructure.web.times import wire_time

router = APIRouter()
MODEL = "/api/models/{namespace}/{name}"
OWN = "/api/lorahub/v1/models/{namespace}/{name}"
COMMITS_PAGE = 50
LOG_LENGTH = 1000


class StartingPoint(BaseModel):
    starting_point: str | None = Field(default=None, alias="startingPoint", max_length=300)


class NewTag(BaseModel):
    tag: str
    message: str | None = Field(default=None, max_length=10_000)


class Squash(BaseModel):
    message: str | None = Field(default=None, max_length=10_000)


class AliasTarget(BaseModel):
    revision: str = Field(max_length=300)
    protected: bool | None = None


class YankReason(BaseModel):
    reason: str = Field(max_length=2000)


# --- the Hub's --------------------------------------------------------------------------------------------------------


@router.get(MODEL + "/refs")
def refs(backend: BackendDep, caller: Caller, repo: Repo) -> dict[str, Any]:
    with reading(backend, caller, repo) as opened:
        found = service.references_of(opened)
    return {
        "branches": [_ref(ref, "heads") for ref in found if ref.kind == "branch"],
        "converts": [],
        "tags": [_ref(ref, "tags") for ref in found if ref.kind != "branch"],
        "pullRequests": [],
    }


def _ref(reference: Reference, space: str) -> dict[str, Any]:
    return {
        "name": reference.name,
        "ref": f"refs/{space}/{reference.name}",
        "targetCommit": reference.commit_id,
        "kind": reference.kind,
    }


@router.get(MODEL + "/commits/{rev}")
@refuses(GatedRepository)
def commits(
    request: Request,
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    url: PublicUrl,
    expand: Annotated[list[str] | None, Query(alias="expand[]")] = None,
    cursor: str | None = None,
) -> Response:
    with reading(backend, caller, repo) as opened:
        found, following = service.commits_page(opened, cursor or rev, limit=COMMITS_PAGE)
    rows = [_commit(commit, is_formatted="formatted" in (expand or [])) for commit in found]
    return page(rows, request=request, public_url=url, cursor=None if following is None else following.id)


def _commit(commit: Commit, *, is_formatted: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "date": wire_time(commit.created_at),
        "authors": [{"user": commit.author, "avatar": ""}],
    }
    if is_formatted:
        row["formatted"] = {"title": escape(commit.title), "message": escape(commit.message)}
    return row


@router.post(MODEL + "/branch/{rev}")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists)
def create_branch(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    body: Annotated[StartingPoint, json_model(StartingPoint)],
) -> dict[str, Any]:
    service.create_branch(backend, caller, repo, rev, start=body.starting_point)
    return {}


@router.delete(MODEL + "/branch/{rev}")
@refuses(NotAuthenticated, NotPermitted)
def delete_branch(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision) -> dict[str, Any]:
    service.delete_branch(backend, caller, repo, rev)
    return {}


@router.post(MODEL + "/tag/{rev}")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists)
def create_tag(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    body: Annotated[NewTag, json_model(NewTag)],
) -> dict[str, Any]:
    service.create_tag(backend, caller, repo, body.tag, revision=rev, message=body.message or "")
    return {}


@router.delete(MODEL + "/tag/{rev}")
@refuses(NotAuthenticated, NotPermitted, ProtectedReference)
def delete_tag(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision) -> dict[str, Any]:
    service.delete_tag(backend, caller, repo, rev)
    return {}


@router.post(MODEL + "/super-squash/{rev}")
@refuses(NotAuthenticated, NotPermitted, ParentMoved)
def squash(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    body: Annotated[Squash, json_model(Squash)],
) -> dict[str, Any]:
    service.squash(backend, caller, repo, rev, body.message or "")
    return {}


# --- lorahub's own ----------------------------------------------------------------------------------------------------


class ShownYank(TypedDict):
    reason: str
    at: str
    by: str


class ShownFile(TypedDict):
    path: str
    size: int
    sha256: str
    lfs: bool


class ShownOrigin(TypedDict):
    """The commit of another hub that a mirror brought."""

    endpoint: str
    repository: str
    commit: str


class ShownRevision(TypedDict):
    id: str
    revision: str
    commit: str
    digest: str
    version: str | None
    aliases: list[str]
    yanked: ShownYank | None
    createdAt: str
    author: str
    message: str
    origin: ShownOrigin | None
    files: list[ShownFile]


class ShownVersion(TypedDict):
    name: str
    commit: str
    digest: str
    createdAt: str
    author: str
    message: str
    size: int
    aliases: list[str]
    yanked: ShownYank | None


class ShownAlias(TypedDict):
    name: str
    version: str | None
    commit: str
    protected: bool
    updatedAt: str


ShownMove = TypedDict(
    "ShownMove", {"kind": str, "name": str, "from": str | None, "to": str | None, "by": str, "at": str}
)


@router.get(OWN + "/revisions/{rev}")
@refuses(GatedRepository)
def revision(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, response: Response) -> ShownRevision:
    with reading(backend, caller, repo) as opened:
        found = service.revision_of(opened, rev)
    response.headers["X-Repo-Commit"] = found.commit.id
    return {
        "id": found.repository.full_name,
        "revision": rev,
        "commit": found.commit.id,
        "digest": f"sha256:{found.commit.digest}",
        "version": found.version,
        "aliases": found.aliases,
        "yanked": _yank(found.yanked),
        "createdAt": wire_time(found.commit.created_at),
        "author": found.commit.author,
        "message": found.commit.title,
        "origin": None
        if (origin := found.origin) is None
        else {"endpoint": origin.endpoint, "repository": origin.repository, "commit": origin.commit},
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256, "lfs": file.is_lfs} for file in found.files
        ],
    }


@router.get(OWN + "/versions")
def versions(backend: BackendDep, caller: Caller, repo: Repo) -> list[ShownVersion]:
    with reading(backend, caller, repo) as opened:
        return [_version(version) for version in service.versions_of(opened)]


def _version(version: Version) -> ShownVersion:
    return {
        "name": version.name,
        "commit": version.commit.id,
        "digest": f"sha256:{version.commit.digest}",
        "createdAt": wire_time(version.commit.created_at),
        "author": version.commit.author,
        "message": version.commit.title,
        "size": version.size,
        "aliases": version.aliases,
        "yanked": _yank(version.yanked),
    }


def _yank(yank: Yank | None) -> ShownYank | None:
    return None if yank is None else {"reason": yank.reason, "at": wire_time(yank.at), "by": yank.by}


@router.post(OWN + "/versions/{version}/yank")
@refuses(NotAuthenticated, NotPermitted, RevisionNotFound)
def yank(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    version: str,
    body: Annotated[YankReason, json_model(YankReason)],
) -> ShownVersion:
    return _version(service.yank(backend, caller, repo, decode(version), reason=body.reason))


@router.delete(OWN + "/versions/{version}/yank")
@refuses(NotAuthenticated, NotPermitted, RevisionNotFound)
def unyank(backend: BackendDep, caller: Caller, repo: Repo, version: str) -> ShownVersion:
    return _version(service.yank(backend, caller, repo, decode(version), reason=None))


@router.get(OWN + "/aliases")
def aliases(backend: BackendDep, caller: Caller, repo: Repo) -> list[ShownAlias]:
    with reading(backend, caller, repo) as opened:
        return [_alias(alias) for alias in service.aliases_of(opened)]


def _alias(alias: Alias) -> ShownAlias:
    return {
        "name": alias.name,
        "version": alias.version,
        "commit": alias.commit_id,
        "protected": alias.is_protected,
        "updatedAt": wire_time(alias.updated_at),
    }


@router.put(OWN + "/aliases/{alias}")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists, ProtectedReference, RevisionNotFound)
def set_alias(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    alias: str,
    body: Annotated[AliasTarget, json_model(AliasTarget)],
) -> ShownAlias:
    set_to = service.set_alias(
        backend, caller, repo, decode(alias), revision=body.revision, is_protected=body.protected
    )
    return _alias(set_to)


@router.delete(OWN + "/aliases/{alias}")
@refuses(NotAuthenticated, NotPermitted, ProtectedReference, RevisionNotFound)
def delete_alias(backend: BackendDep, caller: Caller, repo: Repo, alias: str) -> dict[str, Any]:
    service.delete_alias(backend, caller, repo, decode(alias))
    return {}


@router.get(OWN + "/ref-log")
def reference_log(backend: BackendDep, caller: Caller, repo: Repo) -> list[ShownMove]:
    with reading(backend, caller, repo) as opened:
        moves = service.reference_log(opened, limit=LOG_LENGTH)
    return [
        {
            "kind": move.kind,
            "name": move.name,
            "from": move.from_commit,
            "to": move.to_commit,
            "by": move.by,
            "at": wire_time(move.at),
        }
        for move in moves
    ]
