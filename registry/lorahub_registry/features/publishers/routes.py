"""Trusted publishers of a repository, and the exchange of identity tokens."""

from typing import Annotated

from fastapi import APIRouter, Response
from lorahub.errors import InvalidToken, NotAuthenticated, NotFound, NotPermitted, NotSupported
from lorahub.protocol.names import RepositoryName
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Anybody, Caller
from lorahub_registry.features.publishers import service
from lorahub_registry.features.publishers.service import Publisher
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.parameters import Repo
from lorahub_registry.infrastructure.web.times import wire_time

router = APIRouter(prefix="/api/lorahub/v1")
OWN = "/models/{namespace}/{name}/publishers"

Text = Annotated[str, Field(min_length=1, max_length=300)]


class NewPublisher(BaseModel):
    """`claims` are what the identity token must say; a value that ends with `*` is a beginning."""

    issuer: Text
    claims: dict[Text, Text] = Field(min_length=1, max_length=10)


class IdentityToken(BaseModel):
    token: str
    repository: Text


class ShownPublisher(TypedDict):
    id: int
    issuer: str
    claims: dict[str, str]
    addedBy: str
    createdAt: str


class Audience(TypedDict):
    audience: str


class PublisherToken(TypedDict):
    token: str
    repository: str
    expiresAt: str


@router.get(OWN)
@refuses(NotAuthenticated, NotPermitted)
def publishers(backend: BackendDep, caller: Caller, repo: Repo) -> list[ShownPublisher]:
    with reading(backend, caller, repo) as opened:
        return [_publisher(publisher) for publisher in service.publishers_of(opened)]


@router.post(OWN)
@refuses(NotAuthenticated, NotPermitted)
def trust(
    backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[NewPublisher, json_model(NewPublisher)]
) -> ShownPublisher:
    return _publisher(service.trust(backend, caller, repo, body.issuer, body.claims))


@router.delete(OWN + "/{publisher}")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def distrust(
    backend: BackendDep, caller: Caller, repo: Repo, publisher: Annotated[int, Field(ge=1, le=2**62)]
) -> dict[str, str]:
    service.distrust(backend, caller, repo, publisher)
    return {}


@router.get("/oidc/audience", dependencies=[Anybody])
@refuses(NotSupported)
def audience(backend: BackendDep) -> Audience:
    """What to ask the CI to make its identity token for."""
    return {"audience": service.audience(backend)}


@router.post("/oidc/token", dependencies=[Anybody])
@refuses(InvalidToken, NotPermitted, NotSupported)
def exchange(
    backend: BackendDep, response: Response, body: Annotated[IdentityToken, json_model(IdentityToken)]
) -> PublisherToken:
    """The identity token is the credential."""
    made = service.exchange(backend, body.token, RepositoryName.parse(body.repository))
    response.headers["Cache-Control"] = "no-store"
    return {"token": made.token, "repository": made.repository, "expiresAt": wire_time(made.expires_at)}


def _publisher(publisher: Publisher) -> ShownPublisher:
    return {
        "id": publisher.id,
        "issuer": publisher.issuer,
        "claims": publisher.claims,
        "addedBy": publisher.added_by,
        "createdAt": wire_time(publisher.created_at),
    }
