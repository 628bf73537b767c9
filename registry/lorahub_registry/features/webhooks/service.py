"""Webhooks: who is told, what to tell whom, and the telling.

A worker spreads what the feed has over the webhooks that watch it, as messages to be sent. The messages that one
webhook gets of one repository are a lane: they are sent one after the other, and a later one waits for those before it
to be taken or given up. A webhook is told what its account may see, when the message is made and when it is sent.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from lorahub.errors import (
    InvalidConfiguration,
    InvalidInput,
    InvalidName,
    NotFound,
    NotPermitted,
    NotSupported,
    Unavailable,
)
from lorahub.protocol.messages.webhooks import WATCHED, Delivery, Watched
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.permissions import (
    Action,
    Level,
    Principal,
    is_site_admin,
    require,
    require_site_admin,
)
from lorahub_registry.core.accounts.service import acting_for, require_known
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.events import service as feed
from lorahub_registry.core.events.service import Happening
from lorahub_registry.core.repositories.service import visible
from lorahub_registry.features.events.service import sight_of, wanted
from lorahub_registry.features.webhooks import queries
from lorahub_registry.features.webhooks.message import (
    HUB_KINDS,
    TEST,
    body_of,
    body_of_test,
    headers_of,
    new_secret,
    require_secret,
)
from lorahub_registry.features.webhooks.queries import LaneHead, NewDelivery, StoredDelivery, StoredWebhook
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.outbound import Outbound

__all__ = ["LaneHead", "StoredDelivery", "StoredWebhook"]

MOST_WEBHOOKS = 100  # of one account
MOST_WATCHED = 100  # of one webhook
MOST_REPLAYED = 1000
PAUSES = (5, 30, 120, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
"""Seconds before the second try, the third and so on; then a message is given up."""
FORMER_SECRET = timedelta(days=1)
"""How long messages are signed with the secret before, too."""
_ANSWER_SECONDS = 15.0
_CLAIM = timedelta(seconds=60)
_SAID_BYTES = 500
_AT_ONCE = 500
"""Events that one transaction spreads."""
_PURPOSE = "webhook-secret"
_GONE = 410


# --- which there are --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShownWebhook:
    webhook: StoredWebhook
    waiting: int
    secret: str | None = None


def webhooks_of(backend: Backend, principal: Principal) -> list[ShownWebhook]:
    """The principal's own; of everybody for an administrator of the registry. Raises `NotAuthenticated`."""
    account_id = principal.require_account()
    with backend.database.read() as session:
        found = queries.webhooks(session, account_id=None if is_site_admin(principal) else account_id)
        waiting = queries.waiting(session, [one.id for one in found])
    return [ShownWebhook(one, waiting.get(one.id, 0)) for one in found]


def show(backend: Backend, principal: Principal, webhook_id: str) -> ShownWebhook:
    """Raises `NotFound`, for others' too."""
    with backend.database.read() as session:
        found = _known(session, principal, webhook_id)
        return ShownWebhook(found, queries.waiting(session, [found.id]).get(found.id, 0))


def add(
    backend: Backend,
    principal: Principal,
    *,
    url: str,
    watched: Sequence[Watched],
    kinds: Sequence[str] = (),
    secret: str | None = None,
    hub_domains: Sequence[str] | None = None,
) -> ShownWebhook:
    """It is told what happens from now on. With `hub_domains` it is one of the Hub's clients', who choose a word for a
    secret or none; else one is made where none is given, and told this once.

    Raises `NotPermitted`, also for a host that the registry may not call; `NotSupported` where it calls none;
    `InvalidInput`, `RepositoryNotFound`, `AccountNotFound`.
    """
    account_id = principal.require_account()
    require(principal, Action.WRITE, principal.name)
    Outbound.of(backend.settings).require_open(url)
    is_hub = hub_domains is not None
    if not is_hub:
        secret = secret or new_secret()
        require_secret(secret)
    webhook_id = secrets.token_hex(12)
    last = feed.number_all(backend).last
    with backend.database.write() as session:
        if len(queries.webhooks(session, account_id=account_id)) >= MOST_WEBHOOKS:
            raise InvalidInput(f"{principal.name} has {MOST_WEBHOOKS} webhooks, the most there can be")
        if not queries.webhooks(session, is_active=True):
            feed.set_spread(session, max(last, feed.hold_spread(session)))  # what happened before concerns nobody
        queries.insert_webhook(
            session,
            webhook_id,
            account_id=account_id,
            url=url,
            watched=_meant(session, principal, watched),
            kinds=HUB_KINDS if is_hub else wanted(kinds, None).kinds,
            sealed_secret=None if secret is None else _sealed(backend, webhook_id, secret),
            is_hub=is_hub,
            domains=hub_domains or (),
        )
        made = _known(session, principal, webhook_id)
        _record(session, principal, "webhook.add", made, watched=[str(one) for one in watched])
    return ShownWebhook(made, 0, None if is_hub else secret)


def _meant(session: Session, principal: Principal, watched: Sequence[Watched]) -> list[dict[str, Any]]:
    """With the ids that stay when something is renamed."""
    if not 0 < len(watched) <= MOST_WATCHED:
        raise InvalidInput(f"a webhook watches 1 to {MOST_WATCHED} things")
    return [
        {"type": one.type, "name": name, "id": found}
        for one in watched
        for name, found in [_found(session, principal, one)]
    ]


def _found(session: Session, principal: Principal, one: Watched) -> tuple[str, str]:
    """Its name as it is spelled here, and its id."""
    if one.type == "repository":
        repository = visible(session, principal, RepositoryName.parse(one.name))
        return repository.full_name, repository.public_id
    if one.type == "namespace":
        account = require_known(session, one.name)
        return account.name, str(account.id)
    if one.type == "base":
        if not 0 < len(one.name) <= 200 or not one.name.isprintable():
            raise InvalidName(f"no base can be called {one.name[:60]!a}")
        return one.name, one.name.lower()
    if one.type == "registry":
        require_site_admin(principal)
        return "", ""
    raise InvalidInput(f"a webhook can't watch a {one.type[:40]!r}", hint=f"it watches one of: {', '.join(WATCHED)}")


def change(
    backend: Backend,
    principal: Principal,
    webhook_id: str,
    *,
    url: str | None = None,
    watched: Sequence[Watched] | None = None,
    kinds: Sequence[str] | None = None,
    secret: str | None = None,
    hub_domains: Sequence[str] | None = None,
) -> ShownWebhook:
    """What is None stays as it is. Raises `NotFound`, and as `add`."""
    changed: dict[str, Any] = {}
    if url is not None:
        Outbound.of(backend.settings).require_open(url)
        changed["url"] = url
    if kinds is not None:
        changed["kinds"] = list(wanted(kinds, None).kinds)
    if hub_domains is not None:
        changed["domains"] = list(hub_domains)
    with backend.database.write() as session:
        known = _own(session, principal, webhook_id)
        if watched is not None:
            changed["watched"] = _meant(session, principal, watched)
        if secret is not None:
            if not known.is_hub:
                require_secret(secret)
            changed["sealed_secret"] = _sealed(backend, webhook_id, secret)
        queries.change_webhook(session, webhook_id, **changed)
        _record(session, principal, "webhook.change", known, changed=sorted(changed))
    return show(backend, principal, webhook_id)


def remove(backend: Backend, principal: Principal, webhook_id: str) -> None:
    """With its log. Raises `NotFound`, `NotPermitted`."""
    with backend.database.write() as session:
        known = _own(session, principal, webhook_id)
        queries.delete_webhook(session, webhook_id)
        _record(session, principal, "webhook.remove", known)


def pause(backend: Backend, principal: Principal, webhook_id: str, *, is_paused: bool) -> ShownWebhook:
    """What happens meanwhile isn't told; what was waiting goes on afterwards. Raises `NotFound`, `NotPermitted`."""
    with backend.database.write() as session:
        known = _own(session, principal, webhook_id)
        queries.change_webhook(session, webhook_id, paused_at=now() if is_paused else None, pause_reason=None)
        _record(session, principal, "webhook.pause" if is_paused else "webhook.resume", known)
    return show(backend, principal, webhook_id)


def replace_secret(backend: Backend, principal: Principal, webhook_id: str) -> ShownWebhook:
    """A new one, told this once; messages are signed with both for a while. Raises `NotFound`, `InvalidInput`."""
    with backend.database.write() as session:
        known = _own(session, principal, webhook_id)
        if known.is_hub:
            raise InvalidInput("the secret of this webhook is a word that you choose", hint="hf webhooks update")
        secret = new_secret()
        queries.change_webhook(
            session,
            webhook_id,
            sealed_secret=_sealed(backend, webhook_id, secret),
            sealed_former=known.sealed_secret,
            former_until=now() + FORMER_SECRET,
        )
        _record(session, principal, "webhook.secret", known)
    return replace(show(backend, principal, webhook_id), secret=secret)


def try_out(backend: Backend, principal: Principal, webhook_id: str) -> None:
    """A worker sends a message that says nothing. Raises `NotFound`."""
    with backend.database.write() as session:
        known = _own(session, principal, webhook_id)
        Outbound.of(backend.settings).require_open(known.url)
        queries.insert_deliveries(session, [NewDelivery(known.id, None, "", TEST, "")])
        _record(session, principal, "webhook.test", known)


# --- the log ----------------------------------------------------------------------------------------------------------


def deliveries_of(
    backend: Backend, principal: Principal, webhook_id: str, *, before: int | None, limit: int
) -> list[Delivery]:
    """Newest first. Raises `NotFound`."""
    with backend.database.read() as session:
        found = queries.deliveries(session, _known(session, principal, webhook_id).id, before=before, limit=limit)
    return [_shown(one) for one in found]


def _shown(one: StoredDelivery) -> Delivery:
    return Delivery(
        id=one.id,
        event=one.event_number,
        kind=one.kind,
        name=one.name,
        status=one.status,
        attempts=one.attempts,
        created_at=one.created_at,
        tried_at=one.tried_at,
        next_try_at=one.next_try_at if one.status == "wanted" else None,
        answer=one.answer,
        said=one.said,
        milliseconds=one.milliseconds,
    )


def replay(backend: Backend, principal: Principal, webhook_id: str, delivery_id: int) -> None:
    """Sends a message again, under its own id, behind what waits in its lane. Raises `NotFound`."""
    with backend.database.write() as session:
        known = _own(session, principal, webhook_id)
        found = queries.delivery_by_id(session, delivery_id)
        if found is None or found.webhook_id != known.id or found.status == "withheld":
            raise NotFound(f"the webhook {webhook_id} has no message {delivery_id}")
        again = NewDelivery(known.id, found.event_number, found.lane, found.kind, found.name)
        queries.insert_deliveries(session, [again])
        _record(session, principal, "webhook.replay", known, delivery=delivery_id)


# --- spreading --------------------------------------------------------------------------------------------------------


def spread(backend: Backend) -> None:
    """Makes the messages of whatever happened since it was last asked, each once however many workers do it."""
    state = feed.number_all(backend)
    while state.spread < state.last:
        with backend.database.write() as session:
            start = feed.hold_spread(session)
            found = feed.happenings(session, after=start, limit=_AT_ONCE)
            active = queries.webhooks(session, is_active=True)
            queries.insert_deliveries(session, _messages(session, found, active))
            feed.set_spread(session, found[-1].event.number if found else state.last)
        state = feed.number_all(backend)


def _messages(session: Session, found: Sequence[Happening], active: Sequence[StoredWebhook]) -> list[NewDelivery]:
    """In order of the events, for each webhook."""
    return [
        NewDelivery(
            webhook.id,
            one.event.number,
            one.event.repository or one.event.name.lower(),
            one.event.kind,
            one.event.name,
        )
        for webhook in active
        for one in _known_to(session, webhook, [one for one in found if _watches(webhook, one)])
    ]


def _watches(webhook: StoredWebhook, happening: Happening) -> bool:
    event = happening.event
    if webhook.kinds and event.kind not in webhook.kinds:
        return False
    means = {
        "registry": "",
        "namespace": str(happening.namespace_id) if event.repository else None,
        "repository": event.repository,
        "base": None if event.repository else event.name.lower(),
    }
    of_namespace = f"{event.name.partition('/')[0].lower()}" if event.repository is None else None
    return any(
        means.get(str(one["type"])) == one["id"]
        or (one["type"] == "namespace" and of_namespace == str(one["name"]).lower())
        for one in webhook.watched
    )


def _known_to(session: Session, webhook: StoredWebhook, found: Sequence[Happening]) -> list[Happening]:
    """Those that its account may see now."""
    if not found:
        return []
    try:
        principal = acting_for(session, webhook.account_id)
    except NotPermitted:
        return []
    if any(one["type"] == "registry" for one in webhook.watched):
        principal = replace(principal, scope=Level.ADMIN)
    numbers = [one.event.number for one in found]
    seen = feed.seen_among(session, sight_of(session, principal), numbers)
    return [one for one in found if one.event.number in seen]


# --- telling ----------------------------------------------------------------------------------------------------------


def heads(backend: Backend, *, limit: int) -> list[LaneHead]:
    """The next message of each lane that nobody works on, the soonest first."""
    with backend.database.read() as session:
        return queries.heads(session, limit=limit)


def give_up(backend: Backend, delivery_id: int, reason: str) -> None:
    with backend.database.write() as session:
        queries.give_up(session, delivery_id, reason)


def deliver(backend: Backend, subject: str, *, go_on: Callable[[], None]) -> str:
    """Sends what is due in the lane of a message, one after the other; `subject` is `<message>-<attempts>`, and names
    whoever does it. `go_on` raises where the worker is told to end. May be called twice for the same.
    """
    of_lane, sent = int(subject.partition("-")[0]), 0
    while True:
        go_on()
        with backend.database.write() as session:
            one = queries.take(session, of_lane, subject, span=_CLAIM)
            webhook = None if one is None else queries.webhook_by_id(session, one.webhook_id)
        if one is None or webhook is None:
            return f"{sent} sent"
        if not _tell(backend, webhook, one, subject):
            return f"{sent} sent, and one was not taken"
        sent += 1


@dataclass(frozen=True, slots=True)
class _Said:
    """What came back; without an answer, why none did."""

    answer: int | None
    text: str
    milliseconds: int

    @property
    def is_taken(self) -> bool:
        return self.answer is not None and 200 <= self.answer < 300


def _tell(backend: Backend, webhook: StoredWebhook, one: StoredDelivery, claimant: str) -> bool:
    """Whether the lane goes on."""
    body = _body(backend, webhook, one)
    if body is None:
        metrics.WEBHOOKS.labels("withheld").inc()
        with backend.database.write() as session:
            return queries.settle(session, one.id, claimant, status="withheld")
    said = _send(backend, webhook, one, body)
    metrics.WEBHOOKS.labels("delivered" if said.is_taken else "failed").inc()
    came = {"attempts": one.attempts + 1, "answer": said.answer, "said": said.text, "milliseconds": said.milliseconds}
    with backend.database.write() as session:
        if said.is_taken:
            queries.change_webhook(session, webhook.id, delivered_at=now())
            return queries.settle(session, one.id, claimant, status="delivered", **came)
        if one.attempts < len(PAUSES):
            again = now() + timedelta(seconds=PAUSES[one.attempts])
            queries.settle(session, one.id, claimant, next_try_at=again, **came)
        else:
            queries.settle(session, one.id, claimant, status="failed", **came)
        _pause_if_hopeless(session, webhook, one, said)
    return False


def _pause_if_hopeless(session: Session, webhook: StoredWebhook, one: StoredDelivery, said: _Said) -> None:
    """Where the address says that it is gone, or has taken nothing for as long as a message is tried."""
    reason = None
    if said.answer == _GONE:
        reason = "the address answers 410: it is gone"
    elif one.attempts >= len(PAUSES) and (webhook.delivered_at is None or webhook.delivered_at < one.created_at):
        reason = f"nothing was taken since {one.created_at:%Y-%m-%d %H:%M} UTC: {said.text}"[:_SAID_BYTES]
    if reason is not None:
        queries.change_webhook(session, webhook.id, paused_at=now(), pause_reason=reason)


def _body(backend: Backend, webhook: StoredWebhook, one: StoredDelivery) -> bytes | None:
    """None where the account may not see it any more, or it is no longer kept."""
    if one.event_number is None:
        return body_of_test(webhook.id, one.created_at)
    with backend.database.snapshot() as session:
        found = feed.happenings(session, after=one.event_number - 1, limit=1)
        known = _known_to(session, webhook, [each for each in found if each.event.number == one.event_number])
    if not known:
        return None
    return body_of(known[0], webhook.id, backend.settings.public_url or "")


def _send(backend: Backend, webhook: StoredWebhook, one: StoredDelivery, body: bytes) -> _Said:
    begun = time.monotonic()
    try:
        signed_with = _secrets(backend, webhook)
        number = f"test-{one.id}" if one.event_number is None else str(one.event_number)
        headers = headers_of(f"msg_{webhook.id}_{number}", now(), body, signed_with)
        if webhook.is_hub and signed_with:
            headers["X-Webhook-Secret"] = signed_with[0]
        answer, said = Outbound.of(backend.settings).post(
            webhook.url, body, headers, most_bytes=_SAID_BYTES, seconds=_ANSWER_SECONDS
        )
        text = said.decode("utf-8", "replace").replace("\0", "")
    except (InvalidConfiguration, NotPermitted, NotSupported, Unavailable) as error:
        answer, text = None, error.message
    return _Said(answer, text[:_SAID_BYTES], round(1000 * (time.monotonic() - begun)))


def forget_old(backend: Backend) -> None:
    """Messages of events that are kept no more."""
    before: datetime = now() - backend.settings.events_kept
    with backend.database.write() as session:
        queries.forget(session, before)


# --- pieces -----------------------------------------------------------------------------------------------------------


def _known(session: Session, principal: Principal, webhook_id: str) -> StoredWebhook:
    account_id = principal.require_account()
    found = queries.webhook_by_id(session, webhook_id)
    if found is None or (found.account_id != account_id and not is_site_admin(principal)):
        raise NotFound(f"there is no webhook {webhook_id[:40]} of {principal.name}")
    return found


def _own(session: Session, principal: Principal, webhook_id: str) -> StoredWebhook:
    """One that the principal may let say something. Raises `NotFound`, `NotPermitted`."""
    found = _known(session, principal, webhook_id)
    require(principal, Action.WRITE, found.by)
    return found


def _sealed(backend: Backend, webhook_id: str, secret: str) -> bytes:
    return backend.signer.seal(_PURPOSE, secret, bound_to=webhook_id)


def _secrets(backend: Backend, webhook: StoredWebhook) -> list[str]:
    """The one that it has, and for a while the one before. Raises `InvalidConfiguration`."""
    sealed = [webhook.sealed_secret]
    if webhook.former_until is not None and webhook.former_until > now():
        sealed.append(webhook.sealed_former)
    opened = [backend.signer.open(_PURPOSE, one, bound_to=webhook.id) for one in sealed if one is not None]
    if None in opened:
        raise InvalidConfiguration("the secret was kept under another LORAHUB_SECRET; replace it")
    return [one for one in opened if one is not None]


def _record(
    session: Session, principal: Principal, action: str, webhook: StoredWebhook, **details: Mapping[str, Any] | object
) -> None:
    record_act(session, principal, action, webhook.id, url=webhook.url, **details)
