"""Alembic's entry: on the connection that the registry hands over, or on LORAHUB_DATABASE_URL from the command line."""

import os

from alembic import context
from lorahub_registry.infrastructure.database.session import Database
from lorahub_registry.infrastructure.database.tables import Table, UtcDateTime
from lorahub_registry.settings import default_home
from sqlalchemy import Connection, text

LOCK_TIMEOUT, STATEMENT_TIMEOUT = (
    "4s",
    "60s",
)  # PostgreSQL: a migration gives way to traffic, not the other way round


def render_item(type_: str, item: object, _context: object) -> str | bool:
    """A migration stays as it was written, whatever becomes of the class that its columns have today."""
    return "sa.DateTime(timezone=True)" if type_ == "type" and isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
    handed_over.commit()
else:
    url = os.environ.get("LORAHUB_DATABASE_URL")
    database = Database(url) if url else Database.in_folder(default_home())
    with database.engine.connect() as own:
        run(own)
        own.commit()
