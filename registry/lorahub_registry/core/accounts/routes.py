"""Who am I, and my tokens and organisations."""

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from lorahub.errors import (
    AccountNotFound,
    AlreadyExists,
    Conflict,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    QuotaExceeded,
)
from lorahub.protocol.messages.accounts import (
    AuditedEvent,
    Authentication,
    FreshToken,
    HubMember,
    Identity,
    Member,
    Organisation,
    OrganisationOverview,
    OwnOrganisation,
    OwnToken,
    Token,
    UserOverview,
)
from lorahub.protocol.messages.message import Done
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts import service
from lorahub_registry.core.accounts.caller import Anybody, Caller
from lorahub_registry.core.accounts.service import Account
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.raw_path import decode

router = APIRouter()
API = "/api/lorahub/v1"


class NewToken(BaseModel):
    name: str
    scope: Literal["read", "write", "admin"] = "read"
    namespace: str | None = None
    expires_in_days: int | None = Field(default=None, alias="expiresInDays", ge=1, le=service.MAX_TOKEN_DAYS)


class NewOrganisation(BaseModel):
    name: str
    fullname: str = ""


class Role(BaseModel):
    role: Literal["read", "write", "admin"]


@router.get("/api/whoami-v2")
@refuses(NotAuthenticated)
def whoami(backend: BackendDep, caller: Caller) -> Identity:
    caller.require_account()
    account, token = service.find_account(backend, caller.name), service.own_token(backend, caller)
    return Identity(
        type="user",
        id=str(account.id),
        name=account.name,
        fullname=account.fullname,
        email=account.email,
        email_verified=account.email is not None,
        can_pay=False,
        is_pro=False,
        period_end=None,
        avatar_url="",
        orgs=tuple(
            OwnOrganisation("org", org.account.name, org.account.fullname, org.role)
            for org in service.organisations_of(backend, caller)
        ),
        auth=Authentication(
            "access_token", OwnToken(token.name, token.scope, token.namespace, token.created_at, token.expires_at)
        ),
    )


@router.get("/api/users/{user}/overview", dependencies=[Anybody])
@refuses(AccountNotFound)
def user_overview(backend: BackendDep, user: str) -> UserOverview:
    found = _of_kind(service.find_account(backend, decode(user)), "user")
    return UserOverview(found.name, found.fullname, "", "user", found.created_at)


@router.get("/api/organizations/{organisation}/overview", dependencies=[Anybody])
@refuses(AccountNotFound)
def organisation_overview(backend: BackendDep, organisation: str) -> OrganisationOverview:
    found = _of_kind(service.find_account(backend, decode(organisation)), "organisation")
    return OrganisationOverview(found.name, found.fullname, "", "org", found.created_at)


def _of_kind(account: Account, kind: str) -> Account:
    if account.kind != kind:
        raise AccountNotFound(f"{account.name} is no {kind}")
    return account


@router.get("/api/organizations/{organisation}/members", dependencies=[Anybody])
@refuses(AccountNotFound)
def members(backend: BackendDep, organisation: str) -> list[HubMember]:
    found = service.members_of(backend, decode(organisation))
    return [HubMember(account.name, account.fullname, "", "user", role) for account, role in found]


@router.get(f"{API}/tokens")
@refuses(NotAuthenticated, NotPermitted)
def list_tokens(backend: BackendDep, caller: Caller) -> list[Token]:
    return [token.as_message() for token in service.tokens_of(backend, caller)]


@router.post(f"{API}/tokens")
@refuses(NotAuthenticated, NotPermitted, AccountNotFound)
def create_token(
    backend: BackendDep, caller: Caller, response: Response, body: Annotated[NewToken, json_model(NewToken)]
) -> FreshToken:
    lifetime = None if body.expires_in_days is None else timedelta(days=body.expires_in_days)
    text, token = service.create_token(
        backend, caller, name=body.name, scope=body.scope, namespace=body.namespace, lifetime=lifetime
    )
    response.headers["Cache-Control"] = "no-store"
    return FreshToken(**asdict(token.as_message()), token=text)


@router.delete(f"{API}/tokens/{{token_id}}")
@refuses(NotAuthenticated, NotPermitted, NotFound)
def revoke_token(backend: BackendDep, caller: Caller, token_id: Annotated[int, Field(ge=1, le=2**62)]) -> Done:
    service.revoke_token(backend, caller, token_id)
    return Done()


@router.post(f"{API}/organisations")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists, QuotaExceeded)
def create_organisation(
    backend: BackendDep, caller: Caller, body: Annotated[NewOrganisation, json_model(NewOrganisation)]
) -> Organisation:
    account = service.create_organisation(backend, caller, body.name, body.fullname)
    return Organisation(account.name, account.fullname)


@router.put(f"{API}/organisations/{{organisation}}/members/{{user}}")
@refuses(NotAuthenticated, NotPermitted, AccountNotFound, Conflict)
def set_member(
    backend: BackendDep, caller: Caller, organisation: str, user: str, body: Annotated[Role, json_model(Role)]
) -> Member:
    service.set_member(backend, caller, decode(organisation), decode(user), body.role)
    return Member(decode(user), body.role)


@router.delete(f"{API}/organisations/{{organisation}}/members/{{user}}")
@refuses(NotAuthenticated, NotPermitted, AccountNotFound, Conflict)
def remove_member(backend: BackendDep, caller: Caller, organisation: str, user: str) -> Done:
    service.remove_member(backend, caller, decode(organisation), decode(user))
    return Done()


@router.get(f"{API}/audit", response_model=list[AuditedEvent])
@refuses(NotAuthenticated, NotPermitted)
def audit(
    request: Request,
    backend: BackendDep,
    caller: Caller,
    url: PublicUrl,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Response:
    events = service.audit_page(backend, caller, limit=limit, before=cursor)
    rows = [event.as_message() for event in events]
    after = str(events[-1].id) if len(events) == limit else None
    return page(rows, request=request, public_url=url, cursor=after)
