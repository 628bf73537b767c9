"""Counting downloads."""

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.features.catalog.trending import weight_of_a_read
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.failures import UNAVAILABLE
from lorahub_registry.infrastructure.database.tables import DownloadsPerDay, Repository

__all__ = ["UNAVAILABLE", "count_download"]


def count_download(session: Session, repository_id: int) -> None:
    day = now().date().isoformat()
    one_more = (
        update(DownloadsPerDay)
        .where(DownloadsPerDay.repository_id == repository_id, DownloadsPerDay.day == day)
        .values(count=DownloadsPerDay.count + 1)
        .returning(DownloadsPerDay.count)
    )
    if session.execute(one_more).first() is None:
        try:
            with session.begin_nested():
                session.execute(insert(DownloadsPerDay).values(repository_id=repository_id, day=day, count=1))
        except IntegrityError:  # another read was the day's first
            session.execute(one_more)
    one_read = {"downloads": Repository.downloads + 1, "trending": Repository.trending + weight_of_a_read()}
    session.execute(update(Repository).where(Repository.id == repository_id).values(one_read))


def counts_since(session: Session, repository_id: int, day: str) -> dict[str, int]:
    """By day, as `2026-11-24` in UTC, oldest first; days without a download have none."""
    statement = (
        select(DownloadsPerDay.day, DownloadsPerDay.count)
        .where(DownloadsPerDay.repository_id == repository_id, DownloadsPerDay.day >= day)
        .order_by(DownloadsPerDay.day)
    )
    return {found: count for found, count in session.execute(statement)}  # noqa: C416 (rows aren't pairs to mypy)
