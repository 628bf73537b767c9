"""Who am I, and my tokens and organisations."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

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
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from lorahub_registry.core.accounts import service
from lorahub_registry.core.accounts.caller import Anybody, Caller
from lorahub_registry.core.accounts.service import Account, Token
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.paging import page
from lorahub_registry.infrastructure.web.raw_path import decode
from lorahub_registry.infrastructure.web.times import wire_time

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


class ShownToken(TypedDict):
    id: int
    name: str
    scope: str
    namespace: str | None
    createdAt: str
    expiresAt: str | None
    lastUsedAt: str | None


class FreshToken(ShownToken):
    token: str


class ShownOrganisation(TypedDict):
    name: str
    fullname: str


class ShownMember(TypedDict):
    user: str
    role: str


class ShownEvent(TypedDict):
    id: int
    at: str
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    requestId: str | None
    tokenId: int | None
    address: str | None


@router.get("/api/whoami-v2")
@refuses(NotAuthenticated)
def whoami(backend: BackendDep, caller: Caller) -> dict[str, Any]:
    caller.require_account()
    account = service.find_account(backend, caller.name)
    return {
        "type": "user",
        "id": str(account.id),
        "name": account.name,
        "fullname": account.fullname,
        "email": account.email,
        "emailVerified": account.email is not None,
        "canPay": False,
        "isPro": False,
        "periodEnd": None,
        "avatarUrl": "",
        "orgs": [
            {"type": "org", "name": org.account.name, "fullname": org.account.fullname, "roleInOrg": org.role}
            for org in service.organisations_of(backend, caller)
        ],
        "auth": {"type": "access_token", "accessToken": _access_token(service.own_token(backend, caller))},
    }


def _access_token(token: Token) -> dict[str, Any]:
    return {
        "displayName": token.name,
        "role": token.scope,
        "namespace": token.namespace,
        "createdAt": wire_time(token.created_at),
        "expiresAt": _optional_time(token.expires_at),
    }


@router.get("/api/users/{user}/overview", dependencies=[Anybody])
@refuses(AccountNotFound)
def user_overview(backend: BackendDep, user: str) -> dict[str, Any]:
    return _overview(service.find_account(backend, decode(user)), kind="user")


@router.get("/api/organizations/{organisation}/overview", dependencies=[Anybody])
@refuses(AccountNotFound)
def organisation_overview(backend: BackendDep, organisation: str) -> dict[str, Any]:
    return _overview(service.find_account(backend, decode(organisation)), kind="organisation")


def _overview(account: Account, *, kind: str) -> dict[str, Any]:
    if account.kind != kind:
        raise AccountNotFound(f"{account.name} is no {kind}")
    return {
        "user" if kind == "user" else "name": account.name,
        "fullname": account.fullname,
        "avatarUrl": "",
        "type": "user" if kind == "user" else "org",
        "createdAt": wire_time(account.created_at),
    }


@router.get("/api/organizations/{organisation}/members", dependencies=[Anybody])
@refuses(AccountNotFound)
def members(backend: BackendDep, organisation: str) -> list[dict[str, Any]]:
    found = service.members_of(backend, decode(organisation))
    return [
        {"user": account.name, "fullname": account.fullname, "avatarUrl": "", "type": "user", "role": role}
        for account, role in found
    ]


@router.get(f"{API}/tokens")
@refuses(NotAuthenticated, NotPermitted)
def list_tokens(backend: BackendDep, caller: Caller) -> list[ShownToken]:
    return [_token(token) for token in service.tokens_of(backend, caller)]


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
    return {**_token(token), "token": text}


@router.delete(f"{API}/tokens/{{token_id}}")
@refuses(NotAuthenticated, NotPermitted, NotFound)
def revoke_token(
    backend: BackendDep, caller: Caller, token_id: Annotated[int, Field(ge=1, le=2**62)]
) -> dict[str, Any]:
    service.revoke_token(backend, caller, token_id)
    return {}


@router.post(f"{API}/organisations")
@refuses(NotAuthenticated, NotPermitted, AlreadyExists, QuotaExceeded)
def create_organisation(
    backend: BackendDep, caller: Caller, body: Annotated[NewOrganisation, json_model(NewOrganisation)]
) -> ShownOrganisation:
    account = service.create_organisation(backend, caller, body.name, body.fullname)
    return {"name": account.name, "fullname": account.fullname}


@router.put(f"{API}/organisations/{{organisation}}/members/{{user}}")
@refuses(NotAuthenticated, NotPermitted, AccountNotFound, Conflict)
def set_member(
    backend: BackendDep, caller: Caller, organisation: str, user: str, body: Annotated[Role, json_model(Role)]
) -> ShownMember:
    service.set_member(backend, caller, decode(organisation), decode(user), body.role)
    return {"user": decode(user), "role": body.role}


@router.delete(f"{API}/organisations/{{organisation}}/members/{{user}}")
@refuses(NotAuthenticated, NotPermitted, AccountNotFound, Conflict)
def remove_member(backend: BackendDep, caller: Caller, organisation: str, user: str) -> dict[str, Any]:
    service.remove_member(backend, caller, decode(organisation), decode(user))
    return {}


@router.get(f"{API}/audit", response_model=list[ShownEvent])
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
    rows = [event.as_json() for event in events]
    after = str(events[-1].id) if len(events) == limit else None
    return page(rows, request=request, public_url=url, cursor=after)


def _token(token: Token) -> ShownToken:
    return {
        "id": token.id,
        "name": token.name,
        "scope": token.scope,
        "namespace": token.namespace,
        "createdAt": wire_time(token.created_at),
        "expiresAt": _optional_time(token.expires_at),
        "lastUsedAt": _optional_time(token.last_used_at),
    }


def _optional_time(time: datetime | None) -> str | None:
    return None if time is None else wire_time(time)
