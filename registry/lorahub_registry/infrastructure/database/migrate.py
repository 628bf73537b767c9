"""Brings a database to the newest schema, or says what is missing."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from lorahub_registry.infrastructure.database.session import Database


def migrations_folder() -> Path:
    """Beside the package in a wheel, at the top of the tree in a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


def upgrade(database: Database) -> None:
    """Runs every migration that this database has not seen."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
