"""Rows of Xet sessions: what came in at an address, and what it became."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, update

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import XetSession, XetXorb

_PAGE = 500


@dataclass(slots=True)
class Tally:
    """Bytes of one session, so far; see `tables.XetSession`."""

    promised: int = 0
    received: int = 0
    taken: int = 0
    unpacked: int = 0


@dataclass(frozen=True, slots=True)
class Xorb:
    name: str
    size: int
    is_received: bool


def open_session(
    session: Session, session_id: str, *, repository_id: int, account_id: int, expires_at: datetime
) -> Tally:
    """What it is now; a new one where there is none. Alive until `expires_at`."""
    row = session.get(XetSession, session_id)
    if row is None:
        sums = dict.fromkeys(("promised_bytes", "received_bytes", "taken_bytes", "unpacked_bytes"), 0)
        row = XetSession(id=session_id, repository_id=repository_id, account_id=account_id, **sums)
        session.add(row)
    row.expires_at = expires_at
    session.flush()
    return Tally(row.promised_bytes, row.received_bytes, row.taken_bytes, row.unpacked_bytes)


def set_tally(session: Session, session_id: str, tally: Tally) -> None:
    row = session.get_one(XetSession, session_id)
    row.promised_bytes, row.received_bytes = tally.promised, tally.received
    row.taken_bytes, row.unpacked_bytes = tally.taken, tally.unpacked
    session.flush()


def xorbs(session: Session, session_id: str, names: Iterable[str]) -> dict[str, Xorb]:
    wanted, found = sorted(names), dict[str, Xorb]()
    for start in range(0, len(wanted), _PAGE):
        page = XetXorb.name.in_(wanted[start : start + _PAGE])
        rows = session.scalars(select(XetXorb).where(XetXorb.session_id == session_id, page))
        found.update((row.name, Xorb(row.name, row.size, row.is_received)) for row in rows)
    return found


def put_xorb(session: Session, session_id: str, name: str, size: int) -> None:
    session.merge(XetXorb(session_id=session_id, name=name, size=size, is_received=False))
    session.flush()


def set_received(session: Session, session_id: str, names: Sequence[str]) -> None:
    for start in range(0, len(names), _PAGE):
        page = XetXorb.name.in_(names[start : start + _PAGE])
        session.execute(update(XetXorb).where(XetXorb.session_id == session_id, page).values(is_received=True))


def expired_sessions(session: Session) -> list[str]:
    return list(session.scalars(select(XetSession.id).where(XetSession.expires_at <= now())))


def delete_expired_session(session: Session, session_id: str) -> bool:
    gone = session.execute(
        delete(XetSession).where(XetSession.id == session_id, XetSession.expires_at <= now()).returning(XetSession.id)
    )
    return gone.first() is not None


def is_session(session: Session, session_id: str) -> bool:
    return session.get(XetSession, session_id) is not None
