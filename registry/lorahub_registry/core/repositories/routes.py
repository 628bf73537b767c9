"""The Hub's routes for the life of a repository, its settings, its access list and its likes."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from lorahub.errors import (
    AccountNotFound,
    AlreadyExists,
    GatedRepository,
    InvalidInput,
    NameRetired,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    NotSupported,
    RepositoryMoved,
    RepositoryNotFound,
)
from lorahub.protocol.messages.accounts import HubUser
from lorahub.protocol.messages.message import Done
from lorahub.protocol.messages.models import Quarantine
from lorahub.protocol.messages.repositories import (
    AccessAsked,
    AccessRequest,
    Asker,
    CreatedRepository,
    Like,
    LikedRepository,
    QuarantinedRepository,
    RepositorySettings,
    StorageUse,
    Withdrawn,
)
from lorahub.protocol.names import RepositoryName
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.accounts.permissions import Action
from lorahub_registry.core.repositories import service
from lorahub_registry.core.repositories.service import Repository
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.parameters import Repo
from lorahub_registry.infrastructure.web.raw_path import decode

router = APIRouter()
MODEL = "/api/models/{namespace}/{name}"
API = "/api/lorahub/v1"
OWN_MODEL = API + "/models/{namespace}/{name}"
USAGE_PAGE = 100


class WhichRepository(BaseModel):
    name: str
    organization: str | None = None
    type: str | None = "model"


class NewRepository(WhichRepository):
    visibility: Literal["private", "public"] | None = None
    private: bool | None = None  # clients before 1.0


class Move(BaseModel):
    from_repo: str = Field(alias="fromRepo")
    to_repo: str = Field(alias="toRepo")
    type: str | None = "model"


class Settings(BaseModel):
    visibility: Literal["private", "public"] | None = None
    private: bool | None = None
    gated: Literal["auto", "manual", False] | None = None


class AccessDecision(BaseModel):
    user: str | None = None
    request_id: str | None = Field(default=None, alias="requestId")
    status: Literal["pending", "accepted", "rejected"]
    rejection_reason: str | None = Field(default=None, alias="rejectionReason", max_length=2000)


class QuarantineReason(BaseModel):
    reason: str = Field(max_length=service.MAX_REASON)


class Grant(BaseModel):
    user: str


def _require_model(kind: str | None) -> None:
    if kind not in (None, "model"):
        raise InvalidInput(f"this registry keeps models, not a {kind[:40]!r}", hint="leave `type` out, or say model")


@router.post("/api/repos/create")
@refuses(NotAuthenticated, NotPermitted, AccountNotFound, AlreadyExists, NameRetired)
@STORAGE.serves
def create(
    backend: BackendDep,
    caller: Caller,
    url: PublicUrl,
    body: Annotated[NewRepository, json_model(NewRepository)],
) -> CreatedRepository:
    caller.require_account()
    _require_model(body.type)
    is_private = body.visibility == "private" if body.visibility else bool(body.private)
    try:
        created = service.create(backend, caller, _named(body, caller.name), is_private=is_private)
    except AlreadyExists as error:
        error.facts["url"] = f"{url}/{error.facts['existing']}"
        raise
    return CreatedRepository(f"{url}/{created.full_name}", created.full_name, created.public_id)


def _named(body: WhichRepository, own_namespace: str) -> RepositoryName:
    """`name` may be the whole `namespace/name`, as some clients send it."""
    if "/" in body.name:
        return RepositoryName.parse(body.name)
    return RepositoryName.parse(f"{body.organization or own_namespace}/{body.name}")


@router.delete("/api/repos/delete")
@refuses(NotAuthenticated, NotPermitted, RepositoryMoved, RepositoryNotFound)
def delete(backend: BackendDep, caller: Caller, body: Annotated[WhichRepository, json_model(WhichRepository)]) -> Done:
    caller.require_account()
    _require_model(body.type)
    service.delete(backend, caller, _named(body, caller.name))
    return Done()


@router.delete(OWN_MODEL + "/claim")
@refuses(NotAuthenticated, NotPermitted)
def withdraw(backend: BackendDep, caller: Caller, repo: Repo) -> Withdrawn:
    """Gives the name back, where nothing was published under it: after a first push that was refused."""
    return Withdrawn(service.withdraw(backend, caller, repo))


@router.post("/api/repos/move")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists, NameRetired, RepositoryMoved, RepositoryNotFound)
def move(backend: BackendDep, caller: Caller, body: Annotated[Move, json_model(Move)]) -> Done:
    caller.require_account()
    _require_model(body.type)
    service.move(backend, caller, RepositoryName.parse(body.from_repo), RepositoryName.parse(body.to_repo))
    return Done()


@router.put(MODEL + "/settings")
@refuses(NotAuthenticated, NotPermitted)
def settings(
    backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[Settings, json_model(Settings)]
) -> RepositorySettings:
    is_private = body.visibility == "private" if body.visibility else body.private
    changed = service.change_settings(backend, caller, repo, is_private=is_private, gated=body.gated)
    return RepositorySettings(changed.is_private, changed.gated or False)


@router.get("/api/settings/repositories", response_model=list[StorageUse])
@refuses(NotAuthenticated, NotPermitted)
def own_repositories(
    request: Request,
    backend: BackendDep,
    caller: Caller,
    url: PublicUrl,
    cursor: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> Response:
    caller.require_account()
    return _usage_page(request, service.usage_page(backend, caller, caller.name, after=cursor, limit=USAGE_PAGE), url)


@router.get("/api/organizations/{organisation}/settings/repositories", response_model=list[StorageUse])
@refuses(NotAuthenticated, NotPermitted, AccountNotFound)
def organisation_repositories(
    request: Request,
    backend: BackendDep,
    caller: Caller,
    url: PublicUrl,
    organisation: str,
    cursor: Annotated[int, Query(ge=0, le=2**62)] = 0,
) -> Response:
    caller.require_account()
    found = service.usage_page(backend, caller, decode(organisation), after=cursor, limit=USAGE_PAGE)
    return _usage_page(request, found, url)


def _usage_page(request: Request, found: list[service.Usage], url: str) -> Response:
    total = sum(usage.bytes for usage in found) or 1
    rows = [_usage_row(usage.repository, usage.bytes, 100 * usage.bytes / total) for usage in found]
    cursor = str(found[-1].repository.id) if len(found) == USAGE_PAGE else None
    return page(rows, request=request, public_url=url, cursor=cursor)


def _usage_row(repository: Repository, stored_bytes: int, percent: float) -> StorageUse:
    return StorageUse(
        id=repository.full_name,
        type="model",
        updated_at=repository.updated_at,
        visibility="private" if repository.is_private else "public",
        storage=stored_bytes,
        storage_percent=round(percent, 2),
    )


@router.get(MODEL + "/auth-check")
@refuses(GatedRepository)
def check_read(backend: BackendDep, caller: Caller, repo: Repo) -> Done:
    service.check_readable(backend, caller, repo)
    return Done()


@router.get(MODEL + "/auth-check/write")
@refuses(NotAuthenticated, NotPermitted)
def check_write(backend: BackendDep, caller: Caller, repo: Repo) -> Done:
    service.find(backend, caller, repo, Action.WRITE)
    return Done()


@router.post(MODEL + "/ask-access")
@refuses(NotAuthenticated, NotPermitted)
def ask_access(backend: BackendDep, caller: Caller, repo: Repo) -> AccessAsked:
    return AccessAsked(service.ask_for_access(backend, caller, repo))


@router.get(MODEL + "/user-access-request/{status}")
@refuses(NotAuthenticated, NotPermitted)
def access_requests(
    backend: BackendDep, caller: Caller, repo: Repo, status: Literal["pending", "accepted", "rejected"]
) -> list[AccessRequest]:
    return [
        AccessRequest(asked.id, asked.status, asked.requested_at, Asker(asked.user, asked.fullname, asked.email))
        for asked in service.access_requests(backend, caller, repo, status)
    ]


@router.post(MODEL + "/user-access-request/handle")
@refuses(NotAuthenticated, NotPermitted, NotFound)
def handle_access(
    backend: BackendDep,
    caller: Caller,
    repo: Repo,
    body: Annotated[AccessDecision, json_model(AccessDecision)],
) -> Done:
    service.handle_access(
        backend,
        caller,
        repo,
        user=body.user,
        request_id=body.request_id,
        status=body.status,
        reason=body.rejection_reason,
    )
    return Done()


@router.post(MODEL + "/user-access-request/grant")
@refuses(NotAuthenticated, NotPermitted, AccountNotFound)
def grant_access(backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[Grant, json_model(Grant)]) -> Done:
    service.grant_access(backend, caller, repo, body.user)
    return Done()


@router.post(MODEL + "/like")
@refuses(NotAuthenticated, NotPermitted)
def like(backend: BackendDep, caller: Caller, repo: Repo) -> Done:
    service.set_like(backend, caller, repo, liked=True)
    return Done()


@router.delete(MODEL + "/like")
@refuses(NotAuthenticated, NotPermitted)
def unlike(backend: BackendDep, caller: Caller, repo: Repo) -> Done:
    service.set_like(backend, caller, repo, liked=False)
    return Done()


@router.get(MODEL + "/likers")
def likers(backend: BackendDep, caller: Caller, repo: Repo) -> list[HubUser]:
    return [HubUser(liker.user, liker.fullname, "", "user") for liker in service.likers(backend, caller, repo)]


@router.get("/api/users/{user}/likes")
@refuses(AccountNotFound)
def likes(backend: BackendDep, caller: Caller, user: str) -> list[Like]:
    return [
        Like(at, LikedRepository(repository.full_name, "model"))
        for repository, at in service.liked_by(backend, caller, decode(user))
    ]


@router.get(MODEL + "/discussions")
@router.post(MODEL + "/discussions")
@router.get(MODEL + "/discussions/{rest:path}")
@router.post(MODEL + "/discussions/{rest:path}")
@refuses(NotSupported)
def discussions(backend: BackendDep, caller: Caller, repo: Repo) -> None:
    """Whether the repository is there is answered first: this route must not tell a private one from a missing one."""
    service.find(backend, caller, repo)
    raise NotSupported("this registry has no pull requests and no discussions", hint="commit to a branch instead")


# --- quarantine -------------------------------------------------------------------------------------------------------


@router.put(OWN_MODEL + "/quarantine")
@refuses(NotAuthenticated, NotPermitted)
def quarantine(
    backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[QuarantineReason, json_model(QuarantineReason)]
) -> QuarantinedRepository:
    return _quarantined(service.quarantine(backend, caller, repo, body.reason))


@router.delete(OWN_MODEL + "/quarantine")
@refuses(NotAuthenticated, NotPermitted)
def release(backend: BackendDep, caller: Caller, repo: Repo) -> QuarantinedRepository:
    return _quarantined(service.release(backend, caller, repo))


@router.get(API + "/quarantined")
@refuses(NotAuthenticated, NotPermitted)
def list_quarantined(backend: BackendDep, caller: Caller) -> list[QuarantinedRepository]:
    return [_quarantined(repository) for repository in service.quarantined(backend, caller)]


def _quarantined(repository: Repository) -> QuarantinedRepository:
    found = repository.quarantine
    return QuarantinedRepository(
        repository.full_name, None if found is None else Quarantine(found.reason, found.by, found.at)
    )
