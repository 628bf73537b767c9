"""Rows of mirrors."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, or_, select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import Account
from lorahub_registry.infrastructure.database.tables import Mirror as MirrorRow

__all__ = ["IntegrityError"]


@dataclass(frozen=True, slots=True)
class Mirror:
    id: int
    namespace: str
    account_id: int
    """In whose name it publishes."""
    endpoint: str
    source: str
    revision: str
    name: str
    """Of the repository here, in the namespace."""
    is_private: bool
    created_at: datetime
    wanted_at: datetime | None
    checked_at: datetime | None
    remote_commit: str | None
    version: str | None
    error: str | None

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


def all_mirrors(session: Session) -> list[Mirror]:
    return _mirrors(session, _WITH_NAMESPACE)


def mirror_by_id(session: Session, mirror_id: int) -> Mirror | None:
    found = _mirrors(session, _WITH_NAMESPACE.where(MirrorRow.id == mirror_id))
    return found[0] if found else None


def due(session: Session, interval: timedelta, *, limit: int) -> list[Mirror]:
    """Those that somebody asked for, and where there is an interval those that weren't looked at for as long."""
    statement = _WITH_NAMESPACE.where(MirrorRow.wanted_at.is_not(None))
    if interval:
        is_old = or_(MirrorRow.checked_at.is_(None), MirrorRow.checked_at <= now() - interval)
        statement = _WITH_NAMESPACE.where(or_(MirrorRow.wanted_at.is_not(None), is_old))
    return _mirrors(session, statement.limit(limit))


_WITH_NAMESPACE = (
    select(MirrorRow, Account.name).join(Account, Account.id == MirrorRow.namespace_id).order_by(MirrorRow.id)
)


def _mirrors(session: Session, statement: Select[MirrorRow, str]) -> list[Mirror]:
    return [
        Mirror(
            id=row.id,
            namespace=namespace,
            account_id=row.account_id,
            endpoint=row.endpoint,
            source=row.source,
            revision=row.revision,
            name=row.name,
            is_private=row.is_private,
            created_at=row.created_at,
            wanted_at=row.wanted_at,
            checked_at=row.checked_at,
            remote_commit=row.remote_commit,
            version=row.version,
            error=row.error,
        )
        for row, namespace in session.execute(statement)
    ]


def insert_mirror(
    session: Session,
    *,
    namespace_id: int,
    account_id: int,
    endpoint: str,
    source: str,
    revision: str,
    name: str,
    name_key: str,
    is_private: bool,
) -> int:
    """Raises `IntegrityError` where another mirror fills the repository."""
    row = MirrorRow(
        namespace_id=namespace_id,
        account_id=account_id,
        endpoint=endpoint,
        source=source,
        revision=revision,
        name=name,
        name_key=name_key,
        is_private=is_private,
        created_at=now(),
    )
    session.add(row)
    session.flush()
    return row.id


def delete_mirror(session: Session, mirror_id: int) -> None:
    session.execute(delete(MirrorRow).where(MirrorRow.id == mirror_id))


def want(session: Session, mirror_id: int) -> None:
    session.execute(update(MirrorRow).where(MirrorRow.id == mirror_id).values(wanted_at=now()))


def settle_published(session: Session, mirror: Mirror, *, remote_commit: str, version: str | None) -> None:
    _settle(session, mirror, error=None, remote_commit=remote_commit, version=version)


def settle_failed(session: Session, mirror: Mirror, error: str) -> None:
    _settle(session, mirror, error=error)


def _settle(session: Session, mirror: Mirror, **values: object) -> None:
    """A wish that came while it ran stays one."""
    session.execute(update(MirrorRow).where(MirrorRow.id == mirror.id).values(checked_at=now(), **values))
    if mirror.wanted_at is not None:
        session.execute(
            update(MirrorRow)
            .where(MirrorRow.id == mirror.id, MirrorRow.wanted_at == mirror.wanted_at)
            .values(wanted_at=None)
        )
