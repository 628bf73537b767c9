"""Refs, commits, branches, tags and super-squash as the Hub has them; versions, aliases and yank are lorahub's own."""

from html import escape
from typing import Annotated

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
from lorahub.protocol.messages.message import Done
from lorahub.protocol.messages.repositories import (
    CommitAuthor,
    FormattedCommit,
    HubCommit,
    HubReference,
    HubReferences,
)
from lorahub.protocol.messages.revisions import Alias, Origin, ReferenceMove, StoredFile, StoredRevision, Version
from pydantic import BaseModel, Field

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.upstreams import transfers
from lorahub_registry.features.references import service
from lorahub_registry.features.references.service import Commit, Reference
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.parameters import Repo, Revision
from lorahub_registry.infrastructure.web.raw_path import decode

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
def refs(backend: BackendDep, caller: Caller, repo: Repo) -> HubReferences:
    with reading(backend, caller, repo, also="names") as opened:
        found = service.references_of(opened)
    return HubReferences(
        branches=tuple(_ref(ref, "heads") for ref in found if ref.kind == "branch"),
        converts=(),
        tags=tuple(_ref(ref, "tags") for ref in found if ref.kind != "branch"),
        pull_requests=(),
    )


def _ref(reference: Reference, space: str) -> HubReference:
    return HubReference(
        reference.name, f"refs/{space}/{reference.name}", target_commit=reference.commit_id, kind=reference.kind
    )


@router.get(MODEL + "/commits/{rev}", response_model=list[HubCommit])
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
    with reading(backend, caller, repo, rev, also="commits") as opened:
        found, following = service.commits_page(opened, cursor or rev, limit=COMMITS_PAGE)
    rows = [_commit(commit, is_formatted="formatted" in (expand or [])) for commit in found]
    return page(rows, request=request, public_url=url, cursor=None if following is None else following.id)


def _commit(commit: Commit, *, is_formatted: bool) -> HubCommit:
    return HubCommit(
        id=commit.id,
        title=commit.title,
        message=commit.message,
        date=commit.created_at,
        authors=(CommitAuthor(commit.author, ""),),
        formatted=FormattedCommit(escape(commit.title), escape(commit.message)) if is_formatted else None,
    )


@router.post(MODEL + "/branch/{rev}")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists)
def create_branch(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    body: Annotated[StartingPoint, json_model(StartingPoint)],
) -> Done:
    service.create_branch(backend, caller, repo, rev, start=body.starting_point)
    return Done()


@router.delete(MODEL + "/branch/{rev}")
@refuses(NotAuthenticated, NotPermitted)
def delete_branch(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision) -> Done:
    service.delete_branch(backend, caller, repo, rev)
    return Done()


@router.post(MODEL + "/tag/{rev}")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists)
def create_tag(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    body: Annotated[NewTag, json_model(NewTag)],
) -> Done:
    service.create_tag(backend, caller, repo, body.tag, revision=rev, message=body.message or "")
    return Done()


@router.delete(MODEL + "/tag/{rev}")
@refuses(NotAuthenticated, NotPermitted, ProtectedReference)
def delete_tag(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision) -> Done:
    service.delete_tag(backend, caller, repo, rev)
    return Done()


@router.post(MODEL + "/super-squash/{rev}")
@refuses(NotAuthenticated, NotPermitted, ParentMoved)
def squash(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    rev: Revision,
    body: Annotated[Squash, json_model(Squash)],
) -> Done:
    service.squash(backend, caller, repo, rev, body.message or "")
    return Done()


# --- lorahub's own ----------------------------------------------------------------------------------------------------


@router.get(OWN + "/revisions/{rev}")
@refuses(GatedRepository)
def revision(backend: BackendDep, caller: Caller, repo: Repo, rev: Revision, response: Response) -> StoredRevision:
    with reading(backend, caller, repo, rev) as opened:
        found = service.revision_of(opened, rev)
        unread = service.unread_of(opened, found)
    if unread:
        transfers.fetch(backend, unread)
        with reading(backend, caller, repo, found.commit.id) as opened:
            found = service.revision_of(opened, found.commit.id)
    response.headers["X-Repo-Commit"] = found.commit.id
    commit, origin = found.commit, found.origin
    return StoredRevision(
        id=found.repository.full_name,
        revision=rev,
        commit=commit.id,
        digest=f"sha256:{commit.digest}",
        version=found.version,
        aliases=tuple(found.aliases),
        yanked=found.yanked,
        created_at=commit.created_at,
        author=commit.author,
        message=commit.title,
        origin=None if origin is None else Origin(origin.endpoint, origin.repository, origin.commit),
        files=tuple(StoredFile(file.path, file.size, file.sha256, file.is_lfs) for file in found.files),
    )


@router.get(OWN + "/versions")
def versions(backend: BackendDep, caller: Caller, repo: Repo) -> list[Version]:
    with reading(backend, caller, repo) as opened:
        return [_version(version) for version in service.versions_of(opened)]


def _version(version: service.Version) -> Version:
    return Version(
        name=version.name,
        commit=version.commit.id,
        digest=f"sha256:{version.commit.digest}",
        created_at=version.commit.created_at,
        author=version.commit.author,
        message=version.commit.title,
        size=version.size,
        aliases=tuple(version.aliases),
        yanked=version.yanked,
    )


@router.post(OWN + "/versions/{version}/yank")
@refuses(NotAuthenticated, NotPermitted, RevisionNotFound)
def yank(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    version: str,
    body: Annotated[YankReason, json_model(YankReason)],
) -> Version:
    return _version(service.yank(backend, caller, repo, decode(version), reason=body.reason))


@router.delete(OWN + "/versions/{version}/yank")
@refuses(NotAuthenticated, NotPermitted, RevisionNotFound)
def unyank(backend: BackendDep, caller: Caller, repo: Repo, version: str) -> Version:
    return _version(service.yank(backend, caller, repo, decode(version), reason=None))


@router.get(OWN + "/aliases")
def aliases(backend: BackendDep, caller: Caller, repo: Repo) -> list[Alias]:
    with reading(backend, caller, repo) as opened:
        return service.aliases_of(opened)


@router.put(OWN + "/aliases/{alias}")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists, ProtectedReference, RevisionNotFound)
def set_alias(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    alias: str,
    body: Annotated[AliasTarget, json_model(AliasTarget)],
) -> Alias:
    return service.set_alias(backend, caller, repo, decode(alias), revision=body.revision, is_protected=body.protected)


@router.delete(OWN + "/aliases/{alias}")
@refuses(NotAuthenticated, NotPermitted, ProtectedReference, RevisionNotFound)
def delete_alias(backend: BackendDep, caller: Caller, repo: Repo, alias: str) -> Done:
    service.delete_alias(backend, caller, repo, decode(alias))
    return Done()


@router.get(OWN + "/ref-log")
def reference_log(backend: BackendDep, caller: Caller, repo: Repo) -> list[ReferenceMove]:
    with reading(backend, caller, repo) as opened:
        moves = service.reference_log(opened, limit=LOG_LENGTH)
    return [ReferenceMove(move.kind, move.name, move.from_commit, move.to_commit, move.by, move.at) for move in moves]
