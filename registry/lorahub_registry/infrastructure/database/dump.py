"""Tables as lines of JSON, the same from SQLite and from PostgreSQL: what a backup holds, and a move between the two.

A line is a row: columns by name, times in ISO 8601, bytes in base64. Reading goes by the columns that the database has,
so that a dump of an older schema is loaded into that schema, and migrated afterwards.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    DateTime,
    LargeBinary,
    MetaData,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy import Table as SqlTable

from lorahub_registry.infrastructure.database.session import Database
from lorahub_registry.infrastructure.database.tables import (
    CollectionHold,
    Feed,
    RequestCount,
    Reservation,
    ReservedTotal,
    SchemaFloor,
    Table,
    Terms,
    Upload,
    Worker,
    XetSession,
    XetXorb,
)

__all__ = ["Connection", "dump", "is_empty", "load", "schema_of", "snapshot", "table_names"]

BATCH = 500
_OF_THE_MOMENT = (Upload, Reservation, ReservedTotal, XetSession, XetXorb, CollectionHold, Worker, RequestCount)
_LEFT = {table.__tablename__ for table in (*_OF_THE_MOMENT, SchemaFloor)}
"""Uploads under way, whose bytes are nobody's yet, and the room they take; who holds collection, who works, how often
who has asked; and what migrations write by themselves.
"""

_BEGUN = {Feed.__tablename__}
"""What a migration gives its first row, which the dumped one replaces."""


def table_names() -> list[str]:
    """In an order in which rows can be inserted."""
    return [table.name for table in Table.metadata.sorted_tables if table.name not in _LEFT]


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """All tables as of one moment, while others write."""
    isolation = {} if database.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with database.engine.connect().execution_options(**isolation) as connection, connection.begin():
        schema_of(connection)  # the moment is that of the first question
        yield connection


def schema_of(connection: Connection) -> str:
    """The id of the newest migration that this database has seen."""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def is_empty(database: Database) -> bool:
    """Whether the database has no table at all."""
    with database.engine.connect() as connection:
        return not inspect(connection).get_table_names()


def dump(connection: Connection, table_name: str) -> Iterator[bytes]:
    """A line for each row, in order of the primary key."""
    table = Table.metadata.tables[table_name]
    statement = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=BATCH)
    for row in connection.execute(statement).mappings():
        record = {column: _encode(value) for column, value in row.items()}
        yield json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _encode(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def load(database: Database, tables: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """Inserts every row of every table in one transaction; numbers that the database gives out go on behind them."""
    with database.write() as session:
        connection = session.connection()
        for name, lines in tables:
            table = _as_it_is(connection, name)
            rest = iter(lines)
            if name in _BEGUN:
                connection.execute(table.delete())
            while some := list(islice(rest, BATCH)):
                connection.execute(table.insert(), [_decode(table, json.loads(line)) for line in some])
            if not database.is_sqlite:
                _go_on_behind(connection, table)


def _as_it_is(connection: Connection, name: str) -> SqlTable:
    """The table of the schema that the database has now, with our own types where a driver knows less."""
    table = SqlTable(name, MetaData(), autoload_with=connection, resolve_fks=False)
    known = Table.metadata.tables[name].columns
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type.none_as_null = True
        if column.name in known and isinstance(known[column.name].type, Terms):
            column.type = Terms()
    return table


def _decode(table: SqlTable, record: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(table.columns[name], value) for name, value in record.items()}


def _value(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, DateTime):
        return datetime.fromisoformat(value).astimezone(UTC)
    return base64.b64decode(value) if isinstance(column.type, LargeBinary) else value


def _go_on_behind(connection: Connection, table: SqlTable) -> None:
    """PostgreSQL's own counter knows nothing of ids that were given."""
    if "id" not in table.columns:
        return
    sequence = connection.execute(select(func.pg_get_serial_sequence(table.name, "id"))).scalar()
    highest = connection.execute(select(func.max(table.columns["id"]))).scalar()
    if sequence is not None and highest is not None:
        connection.execute(select(func.setval(sequence, highest)))
