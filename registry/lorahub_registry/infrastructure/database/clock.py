"""The database's clock, by which processes on several machines agree: their own differ."""

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.sql.functions import FunctionElement

from lorahub_registry.infrastructure.database import Session, now


def clock(session: Session) -> datetime:
    """SQLite's is this machine's."""
    at = moment(session)
    return at if isinstance(at, datetime) else session.execute(select(at)).scalar_one().astimezone(UTC)


def moment(session: Session) -> "datetime | FunctionElement[datetime]":
    """`clock`, for a statement that needs it."""
    return now() if session.get_bind().dialect.name == "sqlite" else func.now()
