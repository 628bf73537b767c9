"""Counting downloads."""

from sqlalchemy import update
from sqlalchemy.exc import OperationalError as DatabaseUnavailable

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import DownloadsPerDay, Repository

__all__ = ["DatabaseUnavailable", "count_download"]


def count_download(session: Session, repository_id: int) -> None:
    day = now().date().isoformat()
    changed = session.execute(
        update(DownloadsPerDay)
        .where(DownloadsPerDay.repository_id == repository_id, DownloadsPerDay.day == day)
        .values(count=DownloadsPerDay.count + 1)
        .returning(DownloadsPerDay.count)
    )
    if changed.first() is None:
        session.add(DownloadsPerDay(repository_id=repository_id, day=day, count=1))
        session.flush()
    session.execute(update(Repository).where(Repository.id == repository_id).values(downloads=Repository.downloads + 1))
