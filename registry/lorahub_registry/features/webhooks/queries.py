"""Rows of webhooks and of their messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, func, insert, or_, select, update
from sqlalchemy.orm import aliased

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.bell import ring
from lorahub_registry.infrastructure.database.tables import Account, WebhookDelivery
from lorahub_registry.infrastructure.database.tables import Webhook as WebhookRow


@dataclass(frozen=True, slots=True)
class StoredWebhook:
    id: str
    account_id: int
    by: str
    url: str
    watched: Sequence[Mapping[str, Any]]
    """`type`, `name`, and `id`: of the repository or namespace that was meant."""
    kinds: Sequence[str]
    sealed_secret: bytes | None = field(repr=False)
    sealed_former: bytes | None = field(repr=False)
    former_until: datetime | None
    is_hub: bool
    domains: Sequence[str]
    created_at: datetime
    delivered_at: datetime | None
    paused_at: datetime | None
    pause_reason: str | None


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    id: int
    webhook_id: str
    event_number: int | None
    lane: str
    kind: str
    name: str
    status: str
    attempts: int
    next_try_at: datetime
    answer: int | None
    said: str | None
    milliseconds: int | None
    created_at: datetime
    tried_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    webhook_id: str
    event_number: int | None
    lane: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class LaneHead:
    """The message of a lane that is next."""

    id: int
    attempts: int
    next_try_at: datetime


# --- webhooks ---------------------------------------------------------------------------------------------------------


def insert_webhook(
    session: Session,
    webhook_id: str,
    *,
    account_id: int,
    url: str,
    watched: Sequence[Mapping[str, Any]],
    kinds: Sequence[str],
    sealed_secret: bytes | None,
    is_hub: bool,
    domains: Sequence[str],
) -> None:
    session.add(
        WebhookRow(
            id=webhook_id,
            account_id=account_id,
            url=url,
            watched=[dict(one) for one in watched],
            kinds=list(kinds),
            sealed_secret=sealed_secret,
            is_hub=is_hub,
            domains=list(domains),
            created_at=now(),
        )
    )
    session.flush()


def webhooks(session: Session, *, account_id: int | None = None, is_active: bool = False) -> list[StoredWebhook]:
    """Oldest first; of all accounts where none is named."""
    statement = select(WebhookRow, Account.name).join(Account, Account.id == WebhookRow.account_id)
    if account_id is not None:
        statement = statement.where(WebhookRow.account_id == account_id)
    if is_active:
        statement = statement.where(WebhookRow.paused_at.is_(None))
    return [_webhook(row, by) for row, by in session.execute(statement.order_by(WebhookRow.created_at, WebhookRow.id))]


def webhook_by_id(session: Session, webhook_id: str) -> StoredWebhook | None:
    statement = select(WebhookRow, Account.name).join(Account, Account.id == WebhookRow.account_id)
    found = session.execute(statement.where(WebhookRow.id == webhook_id)).first()
    return None if found is None else _webhook(found[0], found[1])


def change_webhook(session: Session, webhook_id: str, **values: Any) -> None:
    session.execute(update(WebhookRow).where(WebhookRow.id == webhook_id).values(values))
    ring(session)


def delete_webhook(session: Session, webhook_id: str) -> None:
    session.execute(delete(WebhookRow).where(WebhookRow.id == webhook_id))


def _webhook(row: WebhookRow, by: str) -> StoredWebhook:
    return StoredWebhook(
        id=row.id,
        account_id=row.account_id,
        by=by,
        url=row.url,
        watched=row.watched,
        kinds=row.kinds,
        sealed_secret=row.sealed_secret,
        sealed_former=row.sealed_former,
        former_until=row.former_until,
        is_hub=row.is_hub,
        domains=row.domains,
        created_at=row.created_at,
        delivered_at=row.delivered_at,
        paused_at=row.paused_at,
        pause_reason=row.pause_reason,
    )


# --- messages ---------------------------------------------------------------------------------------------------------


def insert_deliveries(session: Session, made: Sequence[NewDelivery]) -> None:
    at = now()
    rows = [
        {
            "webhook_id": one.webhook_id,
            "event_number": one.event_number,
            "lane": one.lane,
            "kind": one.kind,
            "name": one.name,
            "status": "wanted",
            "attempts": 0,
            "next_try_at": at,
            "created_at": at,
        }
        for one in made
    ]
    if rows:
        session.execute(insert(WebhookDelivery), rows)
        ring(session)


def waiting(session: Session, webhook_ids: Sequence[str]) -> dict[str, int]:
    """How many messages each has to be sent."""
    statement = (
        select(WebhookDelivery.webhook_id, func.count())
        .where(WebhookDelivery.webhook_id.in_(webhook_ids), WebhookDelivery.status == "wanted")
        .group_by(WebhookDelivery.webhook_id)
    )
    return {str(webhook_id): count for webhook_id, count in session.execute(statement)}


def deliveries(session: Session, webhook_id: str, *, before: int | None, limit: int) -> list[StoredDelivery]:
    """Newest first, but for those that were withheld."""
    statement = select(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.status != "withheld"
    )
    if before is not None:
        statement = statement.where(WebhookDelivery.id < before)
    return [_delivery(row) for row in session.scalars(statement.order_by(WebhookDelivery.id.desc()).limit(limit))]


def delivery_by_id(session: Session, delivery_id: int) -> StoredDelivery | None:
    row = session.get(WebhookDelivery, delivery_id)
    return None if row is None else _delivery(row)


def heads(session: Session, *, limit: int) -> list[LaneHead]:
    """Those of lanes that nobody works on, of webhooks that aren't paused; the soonest first."""
    first = (
        select(func.min(WebhookDelivery.id).label("id"))
        .join(WebhookRow, WebhookRow.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.status == "wanted", WebhookRow.paused_at.is_(None))
        .group_by(WebhookDelivery.webhook_id, WebhookDelivery.lane)
        .subquery()
    )
    is_free = or_(WebhookDelivery.claimed_until.is_(None), WebhookDelivery.claimed_until <= now())
    statement = (
        select(WebhookDelivery.id, WebhookDelivery.attempts, WebhookDelivery.next_try_at)
        .join(first, first.c.id == WebhookDelivery.id)
        .where(is_free)
        .order_by(WebhookDelivery.next_try_at, WebhookDelivery.id)
        .limit(limit)
    )
    return [LaneHead(*row) for row in session.execute(statement)]


def take(session: Session, of_lane: int, claimant: str, *, span: timedelta) -> StoredDelivery | None:
    """The message that is next in the lane of `of_lane`, which is the claimant's alone for so long.

    None where none is due, the webhook is paused, or somebody else has it.
    """
    one, other = aliased(WebhookDelivery), aliased(WebhookDelivery)
    lane = select(other.webhook_id, other.lane).where(other.id == of_lane).subquery()
    first = session.scalars(
        select(one)
        .join(lane, and_(one.webhook_id == lane.c.webhook_id, one.lane == lane.c.lane))
        .join(WebhookRow, and_(WebhookRow.id == one.webhook_id, WebhookRow.paused_at.is_(None)))
        .where(one.status == "wanted")
        .order_by(one.id)
        .limit(1)
    ).first()
    if first is None or first.next_try_at > now():
        return None
    is_mine = or_(
        WebhookDelivery.claimed_until.is_(None),
        WebhookDelivery.claimed_until <= now(),
        WebhookDelivery.claimed_by == claimant,
    )
    taken = session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == first.id, WebhookDelivery.status == "wanted", is_mine)
        .values(claimed_by=claimant, claimed_until=now() + span)
        .returning(WebhookDelivery.id)
        .execution_options(synchronize_session=False)
    ).first()
    return None if taken is None else _delivery(first)


def settle(session: Session, delivery_id: int, claimant: str, **values: Any) -> bool:
    """What came of a try; False where somebody else has it by now."""
    settled = session.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == delivery_id,
            WebhookDelivery.claimed_by == claimant,
            WebhookDelivery.status == "wanted",
        )
        .values(claimed_by=None, claimed_until=None, tried_at=now(), **values)
        .returning(WebhookDelivery.id)
    ).first()
    return settled is not None


def give_up(session: Session, delivery_id: int, reason: str) -> None:
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.status == "wanted")
        .values(status="failed", said=reason, claimed_by=None, claimed_until=None)
    )


def forget(session: Session, before: datetime) -> None:
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.created_at < before))


def _delivery(row: WebhookDelivery) -> StoredDelivery:
    return StoredDelivery(
        id=row.id,
        webhook_id=row.webhook_id,
        event_number=row.event_number,
        lane=row.lane,
        kind=row.kind,
        name=row.name,
        status=row.status,
        attempts=row.attempts,
        next_try_at=row.next_try_at,
        answer=row.answer,
        said=row.said,
        milliseconds=row.milliseconds,
        created_at=row.created_at,
        tried_at=row.tried_at,
    )
