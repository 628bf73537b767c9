"""Rows of mirrors."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Select, and_, delete, or_, select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.bell import ring
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
    """The repository's name here, in the namespace."""
    is_private: bool
    created_at: datetime
    wanted_at: datetime | None
    checked_at: datetime | None
    remote_commit: str | None
    version: str | None
    error: str | None
    sealed_token: bytes | None = field(repr=False)
    failures: int
    """How many of the last runs failed, one after the other."""
    next_try_at: datetime | None
    paused_at: datetime | None

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


def all_mirrors(session: Session) -> list[Mirror]:
    return _mirrors(session, _WITH_NAMESPACE)


def mirror_by_id(session: Session, mirror_id: int) -> Mirror | None:
    found = _mirrors(session, _WITH_NAMESPACE.where(MirrorRow.id == mirror_id))
    return found[0] if found else None


def due(session: Session, interval: timedelta, *, limit: int) -> list[Mirror]:
    """Those that somebody asked for, and where there is an interval those that weren't looked at for as long, or whose
    next try has come after a failure; but for paused ones.
    """
    statement = _WITH_NAMESPACE.where(MirrorRow.wanted_at.is_not(None))
    if interval:
        is_old = or_(MirrorRow.checked_at.is_(None), MirrorRow.checked_at <= now() - interval)
        is_next = or_(MirrorRow.next_try_at.is_(None), MirrorRow.next_try_at <= now())
        in_turn = and_(MirrorRow.paused_at.is_(None), is_old, is_next)
        statement = _WITH_NAMESPACE.where(or_(MirrorRow.wanted_at.is_not(None), in_turn))
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
            sealed_token=row.sealed_token,
            failures=row.failures,
            next_try_at=row.next_try_at,
            paused_at=row.paused_at,
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
    sealed_token: bytes | None,
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
        sealed_token=sealed_token,
        created_at=now(),
    )
    session.add(row)
    session.flush()
    return row.id


def delete_mirror(session: Session, mirror_id: int) -> None:
    session.execute(delete(MirrorRow).where(MirrorRow.id == mirror_id))


def want(session: Session, mirror_id: int) -> None:
    session.execute(update(MirrorRow).where(MirrorRow.id == mirror_id).values(wanted_at=now()))
    ring(session)


def settle_published(session: Session, mirror: Mirror, *, remote_commit: str, version: str | None) -> None:
    _settle(session, mirror, error=None, remote_commit=remote_commit, version=version, failures=0, next_try_at=None)


def settle_failed(session: Session, mirror: Mirror, error: str, *, next_try_at: datetime | None) -> None:
    _settle(session, mirror, error=error, failures=mirror.failures + 1, next_try_at=next_try_at)


def pause(session: Session, mirror_id: int, *, is_paused: bool) -> None:
    """Whoever goes on begins anew: what failed before is forgotten."""
    values = {"paused_at": now()} if is_paused else {"paused_at": None, "failures": 0, "next_try_at": None}
    session.execute(update(MirrorRow).where(MirrorRow.id == mirror_id).values(values))
    ring(session)


def set_token(session: Session, mirror_id: int, sealed_token: bytes | None) -> None:
    session.execute(update(MirrorRow).where(MirrorRow.id == mirror_id).values(sealed_token=sealed_token))


def _settle(session: Session, mirror: Mirror, **values: object) -> None:
    """A wish that came while it ran stays one."""
    session.execute(update(MirrorRow).where(MirrorRow.id == mirror.id).values(checked_at=now(), **values))
    if mirror.wanted_at is not None:
        session.execute(
            update(MirrorRow)
            .where(MirrorRow.id == mirror.id, MirrorRow.wanted_at == mirror.wanted_at)
            .values(wanted_at=None)
        )
