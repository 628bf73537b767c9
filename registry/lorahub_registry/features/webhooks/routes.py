"""Webhooks over HTTP: lorahub's own, and the Hub's clients' `/api/settings/webhooks`."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from lorahub.errors import (
    AccountNotFound,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    NotSupported,
    Quarantined,
    RepositoryMoved,
)
from lorahub.protocol.messages.message import Done
from lorahub.protocol.messages.webhooks import Delivery, HubWebhook, HubWebhookAnswer, Watched, Webhook
from pydantic import BaseModel, Field

from lorahub_registry.core.accounts.caller import Caller
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.webhooks import service
from lorahub_registry.features.webhooks.service import ShownWebhook
from lorahub_registry.infrastructure.web.backend import BackendDep, PublicUrl
from lorahub_registry.infrastructure.web.bodies import json_model
from lorahub_registry.infrastructure.web.description import refuses
from lorahub_registry.infrastructure.web.paging import page

router = APIRouter()
OWN = "/api/lorahub/v1/webhooks"
HUB = "/api/settings/webhooks"
PAGE = 100

WebhookId = Annotated[str, Path(min_length=1, max_length=64)]
DeliveryId = Annotated[int, Path(ge=1, le=2**62)]
Url = Annotated[str, Field(min_length=1, max_length=2000)]
Secret = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]([ -~]*[!-~])?$")]
Kind = Annotated[str, Field(min_length=1, max_length=32)]


class WatchedThing(BaseModel):
    """A repository, a namespace or a base by its name; the registry has none."""

    type: Annotated[str, Field(max_length=20)]
    name: Annotated[str, Field(max_length=200)] = ""


class NewWebhook(BaseModel):
    """Without kinds, all are told; without a secret, one is made."""

    url: Url
    watched: list[WatchedThing] = Field(min_length=1, max_length=service.MOST_WATCHED)
    kinds: list[Kind] = Field(default_factory=list, max_length=50)
    secret: Secret | None = None


class WebhookChange(BaseModel):
    """What isn't named stays."""

    url: Url | None = None
    watched: list[WatchedThing] | None = Field(default=None, min_length=1, max_length=service.MOST_WATCHED)
    kinds: list[Kind] | None = Field(default=None, max_length=50)


class HubWebhookWish(BaseModel):
    """As `huggingface_hub` sends it; a change may have no watched things, and then they stay."""

    url: Url | None = None
    watched: list[WatchedThing] = Field(default_factory=list, max_length=service.MOST_WATCHED)
    domains: list[Literal["repo", "discussion", "discussions"]] | None = Field(default=None, max_length=5)
    secret: Secret | None = None
    job: Annotated[str | None, Field(alias="jobSourceId", max_length=100)] = None


# --- our own ----------------------------------------------------------------------------------------------------------


@router.get(OWN)
@refuses(NotAuthenticated)
def webhooks(backend: BackendDep, caller: Caller) -> list[Webhook]:
    """The caller's; everybody's for an administrator of the registry."""
    note = workers.note(backend)
    return [_shown(one, note) for one in service.webhooks_of(backend, caller)]


@router.post(OWN)
@refuses(NotAuthenticated, NotPermitted, NotSupported, AccountNotFound, Quarantined, RepositoryMoved, NotFound)
def add(backend: BackendDep, caller: Caller, body: Annotated[NewWebhook, json_model(NewWebhook)]) -> Webhook:
    """Its secret is in this answer and in no other."""
    note = workers.note(backend)
    made = service.add(
        backend, caller, url=body.url, watched=_watched(body.watched), kinds=body.kinds, secret=body.secret
    )
    return _shown(made, note)


@router.get(OWN + "/{webhook}")
@refuses(NotAuthenticated, NotFound)
def show(backend: BackendDep, caller: Caller, webhook: WebhookId) -> Webhook:
    note = workers.note(backend)
    return _shown(service.show(backend, caller, webhook), note)


@router.put(OWN + "/{webhook}")
@refuses(NotAuthenticated, NotFound, NotPermitted, NotSupported, AccountNotFound, Quarantined, RepositoryMoved)
def change(
    backend: BackendDep, caller: Caller, webhook: WebhookId, body: Annotated[WebhookChange, json_model(WebhookChange)]
) -> Webhook:
    note = workers.note(backend)
    watched = None if body.watched is None else _watched(body.watched)
    changed = service.change(backend, caller, webhook, url=body.url, watched=watched, kinds=body.kinds)
    return _shown(changed, note)


@router.delete(OWN + "/{webhook}")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def remove(backend: BackendDep, caller: Caller, webhook: WebhookId) -> Done:
    service.remove(backend, caller, webhook)
    return Done()


@router.post(OWN + "/{webhook}/pause")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def pause(backend: BackendDep, caller: Caller, webhook: WebhookId) -> Webhook:
    """What happens meanwhile isn't told."""
    note = workers.note(backend)
    return _shown(service.pause(backend, caller, webhook, is_paused=True), note)


@router.post(OWN + "/{webhook}/resume")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def resume(backend: BackendDep, caller: Caller, webhook: WebhookId) -> Webhook:
    note = workers.note(backend)
    return _shown(service.pause(backend, caller, webhook, is_paused=False), note)


@router.post(OWN + "/{webhook}/secret")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def replace_secret(backend: BackendDep, caller: Caller, webhook: WebhookId) -> Webhook:
    """A new secret, in this answer and in no other; for a day messages are signed with the one before, too."""
    note = workers.note(backend)
    return _shown(service.replace_secret(backend, caller, webhook), note)


@router.post(OWN + "/{webhook}/test")
@refuses(NotAuthenticated, NotFound, NotPermitted, NotSupported)
def try_out(backend: BackendDep, caller: Caller, webhook: WebhookId) -> Webhook:
    """A worker sends a message of the type `webhook.test`; the log says what came of it."""
    note = workers.note(backend)
    service.try_out(backend, caller, webhook)
    return _shown(service.show(backend, caller, webhook), note)


@router.get(OWN + "/{webhook}/deliveries", response_model=list[Delivery])
@refuses(NotAuthenticated, NotFound)
def deliveries(
    backend: BackendDep,
    caller: Caller,
    request: Request,
    url: PublicUrl,
    webhook: WebhookId,
    cursor: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Response:
    """The messages, newest first."""
    found = service.deliveries_of(backend, caller, webhook, before=cursor, limit=PAGE + 1)
    following = str(found[PAGE - 1].id) if len(found) > PAGE else None
    return page(found[:PAGE], request=request, public_url=url, cursor=following)


@router.post(OWN + "/{webhook}/deliveries/{delivery}/replay")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def replay(backend: BackendDep, caller: Caller, webhook: WebhookId, delivery: DeliveryId) -> Webhook:
    """The same message under the same id, behind what waits to be told of that repository."""
    note = workers.note(backend)
    service.replay(backend, caller, webhook, delivery)
    return _shown(service.show(backend, caller, webhook), note)


def _watched(things: list[WatchedThing]) -> list[Watched]:
    return [Watched(one.type, one.name) for one in things]


def _shown(shown: ShownWebhook, note: str | None) -> Webhook:
    one = shown.webhook
    return Webhook(
        id=one.id,
        url=one.url,
        by=one.by,
        watched=[Watched(str(each["type"]), str(each["name"])) for each in one.watched],
        kinds=list(one.kinds),
        created_at=one.created_at,
        delivered_at=one.delivered_at,
        paused=one.paused_at is not None,
        reason=one.pause_reason,
        waiting=shown.waiting,
        note=note if shown.waiting else None,
        secret=shown.secret,
    )


# --- the Hub's clients' -----------------------------------------------------------------------------------------------


@router.get(HUB)
@refuses(NotAuthenticated)
def hub_webhooks(backend: BackendDep, caller: Caller) -> list[HubWebhook]:
    return [_as_hub(one) for one in service.webhooks_of(backend, caller)]


@router.post(HUB)
@refuses(NotAuthenticated, NotPermitted, NotSupported, AccountNotFound, Quarantined, RepositoryMoved, NotFound)
def hub_add(
    backend: BackendDep, caller: Caller, body: Annotated[HubWebhookWish, json_model(HubWebhookWish)]
) -> HubWebhookAnswer:
    """The receiver finds the secret in `X-Webhook-Secret`, as the Hub sends it."""
    _refuse_jobs(body)
    if body.url is None:
        raise InvalidInput("a webhook has a `url`")
    made = service.add(
        backend,
        caller,
        url=body.url,
        watched=_of_hub(body.watched),
        secret=body.secret,
        hub_domains=body.domains or ["repo", "discussion"],
    )
    return HubWebhookAnswer(_as_hub(made))


@router.get(HUB + "/{webhook}")
@refuses(NotAuthenticated, NotFound)
def hub_show(backend: BackendDep, caller: Caller, webhook: WebhookId) -> HubWebhookAnswer:
    return HubWebhookAnswer(_as_hub(service.show(backend, caller, webhook)))


@router.post(HUB + "/{webhook}")
@refuses(NotAuthenticated, NotFound, NotPermitted, NotSupported, AccountNotFound, Quarantined, RepositoryMoved)
def hub_change(
    backend: BackendDep, caller: Caller, webhook: WebhookId, body: Annotated[HubWebhookWish, json_model(HubWebhookWish)]
) -> HubWebhookAnswer:
    _refuse_jobs(body)
    changed = service.change(
        backend,
        caller,
        webhook,
        url=body.url,
        watched=_of_hub(body.watched) or None,
        secret=body.secret,
        hub_domains=body.domains,
    )
    return HubWebhookAnswer(_as_hub(changed))


@router.post(HUB + "/{webhook}/{act}")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def hub_switch(
    backend: BackendDep, caller: Caller, webhook: WebhookId, act: Literal["enable", "disable"]
) -> HubWebhookAnswer:
    return HubWebhookAnswer(_as_hub(service.pause(backend, caller, webhook, is_paused=act == "disable")))


@router.delete(HUB + "/{webhook}")
@refuses(NotAuthenticated, NotFound, NotPermitted)
def hub_remove(backend: BackendDep, caller: Caller, webhook: WebhookId) -> Done:
    service.remove(backend, caller, webhook)
    return Done()


_TYPES = {"model": "repository", "user": "namespace", "org": "namespace"}


def _of_hub(things: list[WatchedThing]) -> list[Watched]:
    if strange := [one.type for one in things if one.type not in _TYPES]:
        raise InvalidInput(f"there are no {strange[0][:20]}s here", hint="watch a model, a user or an org")
    return [Watched(_TYPES[one.type], one.name) for one in things]


def _refuse_jobs(body: HubWebhookWish) -> None:
    if body.job is not None:
        raise NotSupported("this registry runs no jobs of its users'", hint="give a `url`, and run them there")


def _as_hub(shown: ShownWebhook) -> HubWebhook:
    one = shown.webhook
    types = {"repository": "model", "namespace": "org"}
    return HubWebhook(
        id=one.id,
        url=one.url,
        job=None,
        watched=[Watched(types.get(str(each["type"]), str(each["type"])), str(each["name"])) for each in one.watched],
        domains=list(one.domains) or ["repo"],
        secret=None,
        disabled=one.paused_at is not None,
    )
