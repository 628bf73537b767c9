"""Brings a database to the newest schema, or says what it lacks.

Replicas that start together take turns: one migrates, the others find it done. On PostgreSQL a step that doesn't get
its lock at once gives way to traffic and is tried again; each step is a transaction of its own.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from lorahub.errors import InvalidConfiguration
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import OperationalError

from lorahub_registry.infrastructure.database.session import Database
from lorahub_registry.infrastructure.database.tables import SchemaFloor

_MIGRATING = {"lock_timeout": "300ms", "statement_timeout": "30min", "idle_in_transaction_session_timeout": "0"}
"""PostgreSQL's. The first is what traffic may be held up for: less than the second after which PostgreSQL lets one of
two that wait for each other fail, so it is never the other. An index of millions of rows takes minutes.
"""
_TURN = int.from_bytes(b"lorahub")
_TRIES, _PAUSE_SECONDS, _ASK_SECONDS = 60, 1.0, 0.2
_NO_LOCK = frozenset({"55P03", "40P01"})
"""It took too long, or was a deadlock."""


class Schema(StrEnum):
    """How a database stands to this program."""

    CURRENT = "current"
    OLDER = "older"
    AHEAD = "ahead"
    """A newer program's, which says that this one may go on."""
    NEWER = "newer"
    """A newer program's, which this one would misread."""


def migrations_folder() -> Path:
    """Beside the package in a wheel, at the top of the tree in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


def pending(database: Database) -> tuple[Schema, list[str]]:
    """How the schema stands, and the migrations that it lacks, oldest first. Changes nothing."""
    with database.engine.connect() as connection:
        return _compare(connection)


def upgrade(database: Database, to: str = "head") -> list[str]:
    """Runs every migration that this database has not seen, up to the one called `to`; which it had not seen.

    Raises `InvalidConfiguration` where a newer lorahub has migrated it, `CommandError` where nothing is called `to`.
    """
    with database.writing() as connection, _turn(database, connection):
        schema, missing = _compare(connection)
        connection.rollback()
        refuse_newer(schema)
        if missing:
            _run(connection, to)
    return missing


def refuse_newer(schema: Schema) -> None:
    """Raises `InvalidConfiguration`."""
    if schema is Schema.NEWER:
        raise InvalidConfiguration(
            "the database has the schema of a newer lorahub, which this one can't serve",
            hint="run that version, or a newer one",
        )


def require_servable(database: Database) -> None:
    """Raises `InvalidConfiguration` where the schema is none that this program can serve."""
    schema, missing = pending(database)
    refuse_newer(schema)
    if missing:
        raise InvalidConfiguration(
            f"the database lacks {len(missing)} migrations: {', '.join(missing)}",
            hint="run lorahub admin migrate, once for all servers, before they start",
        )


def require_known(database: Database) -> None:
    """For what takes all that is there, and not only what this program knows. Raises `InvalidConfiguration`."""
    if pending(database)[0] is not Schema.CURRENT:
        raise InvalidConfiguration(
            "the database has another schema than this lorahub's: what is new in it would be left out",
            hint="run the version that migrated it",
        )


def is_servable(database: Database) -> bool:
    return pending(database)[0] in (Schema.CURRENT, Schema.AHEAD)


def _compare(connection: Connection) -> tuple[Schema, list[str]]:
    here = MigrationContext.configure(connection).get_current_revision()
    steps = [(step.revision, step.doc) for step in _scripts().walk_revisions()][::-1]
    known = [revision for revision, _ in steps]
    if here is not None and here not in known:
        return (Schema.AHEAD if _floor(connection) in known else Schema.NEWER), []
    missing = [f"{revision} {doc}" for revision, doc in steps[known.index(here) + 1 if here else 0 :]]
    return (Schema.OLDER if missing else Schema.CURRENT), missing


def _floor(connection: Connection) -> str | None:
    """See `tables.SchemaFloor`; schemas from before it have none."""
    has_one = inspect(connection).has_table(SchemaFloor.__tablename__)
    return connection.scalar(select(SchemaFloor.revision)) if has_one else None


@lru_cache(maxsize=1)
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    return config


def _run(connection: Connection, to: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    for tries_left in reversed(range(_TRIES)):
        try:
            command.upgrade(config, to)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in _NO_LOCK or not tries_left:
                raise
            connection.rollback()
            time.sleep(_PAUSE_SECONDS)
        else:
            return


@contextmanager
def _turn(database: Database, connection: Connection) -> Iterator[None]:
    """Nobody else migrates this database meanwhile. The connection is given other limits, and closed afterwards."""
    if database.is_sqlite:
        with _locked(Path(f"{database.engine.url.database}.migrating")):
            yield
        return
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:turn)"), {"turn": _TURN}):
        connection.rollback()  # an index that is built beside traffic waits for every open transaction, also for this
        time.sleep(_ASK_SECONDS)
    for setting, value in _MIGRATING.items():
        connection.execute(text(f"SET {setting} = '{value}'"))
    connection.commit()
    try:
        yield
    finally:
        connection.invalidate()


@contextmanager
def _locked(path: Path) -> Iterator[Any]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
