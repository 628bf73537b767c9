"""The one DBOS of a worker process."""

import sqlite3
from pathlib import Path

from dbos import DBOS, DBOSConfig

from lorahub_registry.settings import Settings

VERSION = "1"
"""Of the workflows. By default it would be a hash of their source, and an upgrade would strand what is pending."""


def launch(settings: Settings, *, name: str) -> None:
    """Takes up again what an earlier worker of this name left. `name` is this worker's alone."""
    url = settings.database_url or _embedded(settings.registry_home)
    config = DBOSConfig(
        name="lorahub",
        system_database_url=url,
        executor_id=name,
        application_version=VERSION,
        log_level="WARNING",
        enable_otlp=False,
    )
    DBOS(config=config)
    DBOS.launch()


def shut_down() -> None:
    DBOS.destroy()


def _embedded(home: Path) -> str:
    """A file of its own: its writers would hold the catalog's lock. DBOS doesn't set WAL, which is twice as fast."""
    path = home / "jobs.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return f"sqlite:///{path}"
