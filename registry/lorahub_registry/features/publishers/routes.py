"""Trusted publishers of a repository, and the exchange of identity tokens."""

from typing import Annotated

from fastapi import APIRouter, Response
from lorahub.errors import InvalidToken, NotAuthenticated, NotFound, NotPermitted, NotSupported
from lorahub.protocol.messages.message import Done
from lorahub.protocol.messages.publishers import Audience, Publisher, PublisherToken
from lorahub.protocol.names import RepositoryName
from pydantic import BaseModel, Field

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.caller import Anybody, Caller
from lorahub_registry.features.publishers import service
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.parameters import Repo

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


@router.get(OWN)
@refuses(NotAuthenticated, NotPermitted)
def publishers(backend: BackendDep, caller: Caller, repo: Repo) -> list[Publisher]:
    with reading(backend, caller, repo) as opened:
        return [_publisher(publisher) for publisher in service.publishers_of(opened)]


@router.post(OWN)
@refuses(NotAuthenticated, NotPermitted)
def trust(
    backend: BackendDep, caller: Caller, repo: Repo, body: Annotated[NewPublisher, json_model(NewPublisher)]
) -> Publisher:
    return _publisher(service.trust(backend, caller, repo, body.issuer, body.claims))


@router.delete(OWN + "/{publisher}")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def distrust(backend: BackendDep, caller: Caller, repo: Repo, publisher: Annotated[int, Field(ge=1, le=2**62)]) -> Done:
    service.distrust(backend, caller, repo, publisher)
    return Done()


@router.get("/oidc/audience", dependencies=[Anybody])
@refuses(NotSupported)
def audience(backend: BackendDep) -> Audience:
    """What to ask the CI to make its identity token for."""
    return Audience(service.audience(backend))


@router.post("/oidc/token", dependencies=[Anybody])
@refuses(InvalidToken, NotPermitted, NotSupported)
def exchange(
    backend: BackendDep, response: Response, body: Annotated[IdentityToken, json_model(IdentityToken)]
) -> PublisherToken:
    """The identity token is the credential."""
    made = service.exchange(backend, body.token, RepositoryName.parse(body.repository))
    response.headers["Cache-Control"] = "no-store"
    return PublisherToken(made.token, made.repository, made.expires_at)


def _publisher(publisher: service.Publisher) -> Publisher:
    return Publisher(publisher.id, publisher.issuer, publisher.claims, publisher.added_by, publisher.created_at)
