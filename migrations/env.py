"""Alembic's entry: on the connection that the registry hands over, or on LORAHUB_DATABASE_URL from the command line."""

import os

from alembic import context
from lorahub_registry.infrastructure.database.session import Database
from lorahub_registry.infrastructure.database.tables import Table, UtcDateTime, is_ours
from lorahub_registry.settings import default_home
from sqlalchemy import Connection


def render_item(type_: str, item: object, _context: object) -> str | bool:
    """A migration stays as it was written, whatever becomes of the class that its columns have today."""
    return "sa.DateTime(timezone=True)" if type_ == "type" and isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    """SQLite's foreign keys sleep meanwhile: rebuilding a table drops it, which would delete what refers to it."""
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        outside_transaction(connection, "PRAGMA foreign_keys=OFF")
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=is_sqlite,
        transaction_per_migration=True,
        compare_type=True,
        include_name=is_ours,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()
    if is_sqlite:
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        assert not broken, f"a migration broke foreign keys: {broken[:5]}"
    connection.commit()
    if is_sqlite:
        outside_transaction(connection, "PRAGMA foreign_keys=ON")


def outside_transaction(connection: Connection, statement: str) -> None:
    connection.connection.cursor().execute(statement)


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    url = os.environ.get("LORAHUB_DATABASE_URL")
    database = Database(url) if url else Database.in_folder(default_home())
    with database.engine.connect() as own:
        run(own)
