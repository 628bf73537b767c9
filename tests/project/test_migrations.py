"""The migrations build exactly the tables of tables.py, down and up again."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.migrate import migrations_folder, upgrade
from lorahub_registry.infrastructure.database.tables import Table
from sqlalchemy import inspect


def test_the_newest_migration_gives_the_tables_of_today(tmp_path: Path) -> None:
    database = Database.in_folder(tmp_path)
    upgrade(database)
    with database.engine.connect() as connection:
        differences = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), Table.metadata
        )
    database.close()
    assert differences == []


def test_every_migration_can_be_undone_and_done_again(tmp_path: Path) -> None:
    database = Database.in_folder(tmp_path)
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    for act, target in ((command.upgrade, "head"), (command.downgrade, "base"), (command.upgrade, "head")):
        with database.engine.connect() as connection:
            config.attributes["connection"] = connection
            act(config, target)
    with database.engine.connect() as connection:
        assert set(Table.metadata.tables) < set(inspect(connection).get_table_names())
    database.close()
