"""How the database is reached: `read()` for questions, `write()` for one short transaction that commits on the way out.

Services open these themselves and never call commit. SQLite runs in WAL mode with foreign keys on; its single writer
is queued in the process, fairly, instead of by polling the file lock.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

__all__ = ["Database", "Session", "now"]


def now() -> datetime:
    return datetime.now(UTC)


class Database:
    """One engine, two ways in. `url` is a SQLAlchemy URL: `sqlite:////path/registry.db`, `postgresql+psycopg://…`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else create_engine(url, pool_size=20, max_overflow=20)
        self._reader = (
            self.engine.execution_options(isolation_level="AUTOCOMMIT") if not self.is_sqlite else self.engine
        )
        self._writer = self.engine.execution_options(lorahub_writes=True)
        self._turn: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()

    @classmethod
    def in_folder(cls, home: Path) -> "Database":
        return cls(f"sqlite:///{home / 'registry.db'}")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only asks; each statement sees what is committed, or one snapshot on SQLite."""
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._turn, Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False}, pool_size=48, max_overflow=16)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; `begin` below does
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        writes = connection.get_execution_options().get("lorahub_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
