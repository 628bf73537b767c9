"""The workers' bell: whoever writes down a wish rings it, and workers hear it as soon as the wish is committed.

On PostgreSQL it is a notification, on SQLite, whose workers are all on one machine, the time of a file. One that rings
while nobody listens is heard by nobody: workers look at the wishes themselves when they begin to listen, and now and
then.
"""

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import event, func, make_url, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from lorahub_registry.infrastructure.database.session import Database

logger = logging.getLogger("lorahub")

_CHANNEL = "lorahub_wishes"
_LOOK_SECONDS = 0.2
_PAUSE_SECONDS = 1.0


def ring(session: Session) -> None:
    """When the transaction is committed."""
    engine = session.get_bind().engine
    if engine.dialect.name != "sqlite":
        session.execute(select(func.pg_notify(_CHANNEL, "")))
        return
    event.listen(session, "after_commit", lambda _: _touch(_file(engine.url.database)), once=True)


def _file(database: str | None) -> Path:
    assert database is not None
    return Path(f"{database}.wished")


def _touch(path: Path) -> None:
    """To the nanosecond: the system's own clock of files ticks a few hundred times in a second."""
    with suppress(OSError):  # what is wished for is committed, and is found without it
        path.touch()
        os.utime(path, ns=(time.time_ns(), time.time_ns()))


class Bell:
    """One process's ear."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._woken = threading.Event()
        listen = self._watch_file if database.is_sqlite else self._listen
        threading.Thread(target=listen, name="bell", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Until it rings; whether it did, or `wake` was called."""
        is_woken = self._woken.wait(seconds)
        self._woken.clear()  # before whoever waits looks for the wishes
        return is_woken

    def wake(self) -> None:
        self._woken.set()

    def _watch_file(self) -> None:
        path = _file(make_url(self._database.url).database)
        seen = _time_of(path)
        while True:
            time.sleep(_LOOK_SECONDS)
            if (found := _time_of(path)) != seen:
                seen = found
                self.wake()

    def _listen(self) -> None:
        while True:
            try:
                self._hear_all()
            except (SQLAlchemyError, psycopg.Error) as error:
                logger.info("wishes aren't heard of at once: %s", type(error).__name__)
                time.sleep(_PAUSE_SECONDS)

    def _hear_all(self) -> None:
        """Until the connection is lost. It is one of the pool's, and counts as such."""
        with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            try:
                connection.exec_driver_sql(f"LISTEN {_CHANNEL}")
                self.wake()  # for those who rang before
                driver: Any = connection.connection.driver_connection
                for _ in driver.notifies():
                    self.wake()
            finally:
                connection.invalidate()


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
