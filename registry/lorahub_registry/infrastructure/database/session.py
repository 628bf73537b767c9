"""How the database is reached: `read()` for questions, `snapshot()` for questions that belong together, `write()` for
one short transaction that commits on the way out.

Services open these themselves and never call commit. SQLite runs in WAL mode with foreign keys on; its single writer
is queued in the process, fairly, instead of by polling the file lock. PostgreSQL is never waited for without an end.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lorahub.errors import InvalidConfiguration
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from lorahub_registry.infrastructure import tracing
from lorahub_registry.infrastructure.database.failures import named_bug
from lorahub_registry.infrastructure.database.tracing import trace_statements

__all__ = ["Database", "DatabaseLimits", "Session", "now"]


COMMITS_AT_ONCE = 4
"""In one process on PostgreSQL: while one waits for the server's answer, others compute."""


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """What one process takes of a PostgreSQL, and how long it waits for it. All times in seconds."""

    connections: int = 40
    connect_seconds: int = 5
    wait_seconds: float = 10
    """For a free connection of the process's own."""
    lock_seconds: float = 10
    statement_seconds: float = 30


class Database:
    """One engine, two ways in. `url` is a SQLAlchemy URL: `sqlite:////path/registry.db`, `postgresql+psycopg://…`."""

    def __init__(self, url: str, limits: DatabaseLimits = DatabaseLimits()) -> None:
        self.url = url
        self.is_sqlite = _is_sqlite(url)
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url, limits)
        event.listen(self.engine, "handle_error", named_bug)
        if tracing.is_wanted():
            trace_statements(self.engine)
        self._reader = (
            self.engine.execution_options(isolation_level="AUTOCOMMIT") if not self.is_sqlite else self.engine
        )
        self._snapshots = (  # not also read-only: the connection would insist on writing ever after, on a standby too
            self.engine.execution_options(isolation_level="REPEATABLE READ") if not self.is_sqlite else self.engine
        )
        self._writer = self.engine.execution_options(lorahub_writes=True)
        self._turn: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()
        self.committing = threading.BoundedSemaphore(1 if self.is_sqlite else COMMITS_AT_ONCE)
        """Held by who reads, lays out or records a commit: thirty at once take the processor from everybody else, and
        are no sooner done. Nothing is stored meanwhile; of what is, a commit's card is read.
        """

    @classmethod
    def in_folder(cls, home: Path) -> "Database":
        return cls(f"sqlite:///{home / 'registry.db'}")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only asks; each statement sees what is committed, or one snapshot on SQLite."""
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session that only asks, and to which nothing changes while it is open."""
        with Session(self._snapshots, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._turn, Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def writing(self) -> Connection:
        """A bare connection for migrations. On SQLite each of its transactions waits its turn as it begins: one that
        has read already can't write any more once somebody else has.
        """
        return self._writer.connect()

    def has_table(self, name: str, *, schema: str) -> bool:
        return inspect(self.engine).has_table(name, schema=schema)

    def connections(self) -> dict[str, int]:
        """How many this process has, by use: `busy`, `idle`."""
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        return {"busy": pool.checkedout(), "idle": pool.checkedin()}

    def close(self) -> None:
        self.engine.dispose()


def _is_sqlite(url: str) -> bool:
    try:
        return make_url(url).get_backend_name() == "sqlite"
    except (ArgumentError, ValueError):
        raise InvalidConfiguration(
            "LORAHUB_DATABASE_URL is no URL of a database",
            hint="postgresql+psycopg://user:password@host:5432/name; what is special in a password, with %",
        ) from None


def _postgres_engine(url: str, limits: DatabaseLimits) -> Engine:
    """Custom plans: a plan made for any tag is wrong for the common ones. The ping drops what a restart has cut."""
    options = {
        "statement_timeout": f"{round(limits.statement_seconds * 1000)}ms",
        "lock_timeout": f"{round(limits.lock_seconds * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{round(2 * limits.statement_seconds * 1000)}ms",
        "plan_cache_mode": "force_custom_plan",
        "jit": "off",
    }
    return create_engine(
        url,
        pool_size=limits.connections,
        max_overflow=0,
        pool_timeout=limits.wait_seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": limits.connect_seconds,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": round((limits.statement_seconds + limits.connect_seconds) * 1000),
        },
    )


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": 30, "check_same_thread": False},
        pool_size=48,
        max_overflow=16,
        hide_parameters=True,  # values are no business of a log
    )

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
