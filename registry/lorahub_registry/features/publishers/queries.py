"""Rows of trusted publishers, and of identity tokens that were exchanged."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import Account, Repository, SpentIdentity, TrustedPublisher

__all__ = ["IntegrityError"]


@dataclass(frozen=True, slots=True)
class Publisher:
    id: int
    repository_id: int
    account_id: int
    added_by: str
    issuer: str
    claims: dict[str, Any]
    created_at: datetime


def publishers_of(session: Session, repository_id: int) -> list[Publisher]:
    return _publishers(session, _WITH_ACCOUNT.where(TrustedPublisher.repository_id == repository_id))


def publishers_named(session: Session, repository_key: str, issuer: str) -> list[Publisher]:
    """Those of one issuer: no other's token can be one of them."""
    statement = _WITH_ACCOUNT.join(Repository, Repository.id == TrustedPublisher.repository_id)
    return _publishers(
        session, statement.where(Repository.name_key == repository_key, TrustedPublisher.issuer == issuer)
    )


_WITH_ACCOUNT = (
    select(TrustedPublisher, Account.name)
    .join(Account, Account.id == TrustedPublisher.account_id)
    .order_by(TrustedPublisher.id)
)


def _publishers(session: Session, statement: Select[TrustedPublisher, str]) -> list[Publisher]:
    return [
        Publisher(row.id, row.repository_id, row.account_id, name, row.issuer, row.claims, row.created_at)
        for row, name in session.execute(statement)
    ]


def insert_publisher(
    session: Session, *, repository_id: int, account_id: int, issuer: str, claims: dict[str, str]
) -> int:
    row = TrustedPublisher(
        repository_id=repository_id, account_id=account_id, issuer=issuer, claims=claims, created_at=now()
    )
    session.add(row)
    session.flush()
    return row.id


def delete_publisher(session: Session, publisher_id: int) -> None:
    session.execute(delete(TrustedPublisher).where(TrustedPublisher.id == publisher_id))


def spend_identity(session: Session, *, issuer: str, jti: str, expires_at: datetime) -> None:
    """Raises `IntegrityError` where it was spent before."""
    session.execute(delete(SpentIdentity).where(SpentIdentity.expires_at < now()))
    session.add(SpentIdentity(issuer=issuer, jti=jti, expires_at=expires_at))
    session.flush()
