"""Bells: whoever writes down a wish, or what happened, rings one; those who listen hear it as soon as it is committed.

On PostgreSQL it is a notification, on SQLite, whose processes are all on one machine, the time of a file. One that
rings while nobody listens is heard by nobody: listeners look by themselves when they begin, and now and then.
"""

import logging
import os
import threading
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import event, func, make_url, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from lorahub_registry.infrastructure.database.session import Database

logger = logging.getLogger("lorahub")

_LOOK_SECONDS = 0.2
_PAUSE_SECONDS = 1.0


class Sound(Enum):
    """By the ending of the file that keeps its time."""

    WISH = "wished"
    EVENT = "happened"

    @property
    def channel(self) -> str:
        return f"lorahub_{self.value}"


def ring(session: Session, sound: Sound = Sound.WISH) -> None:
    """When the transaction is committed; once, however often it is called."""
    if sound in session.info:
        return
    session.info[sound] = True
    engine = session.get_bind().engine
    if engine.dialect.name != "sqlite":
        session.execute(select(func.pg_notify(sound.channel, "")))
        return
    event.listen(session, "after_commit", lambda _: _touch(_file(engine.url.database, sound)), once=True)


def _file(database: str | None, sound: Sound) -> Path:
    assert database is not None
    return Path(f"{database}.{sound.value}")


def _touch(path: Path) -> None:
    """To the nanosecond: the system's own clock of files ticks a few hundred times in a second."""
    with suppress(OSError):  # what is committed is found without it
        path.touch()
        os.utime(path, ns=(time.time_ns(), time.time_ns()))


class Bell:
    """One process's ear for some sounds."""

    def __init__(self, database: Database, *sounds: Sound) -> None:
        self._database = database
        self._sounds = sounds
        self._woken = threading.Event()
        self._heard: set[Sound] = set()
        listen = self._watching() if database.is_sqlite else self._listen
        threading.Thread(target=listen, name="bell", daemon=True).start()

    def wait(self, seconds: float | None) -> frozenset[Sound]:
        """Until something rings: what did. All of them where `wake` was called."""
        self._woken.wait(seconds)
        self._woken.clear()  # before whoever waits looks for what it is
        heard, self._heard = self._heard, set()
        return frozenset(heard)

    def wake(self) -> None:
        self._hear(*self._sounds)

    def _hear(self, *sounds: Sound) -> None:
        self._heard = self._heard.union(sounds)
        self._woken.set()

    def _watching(self) -> Any:
        """What watches the files, from how they are now."""
        paths = {sound: _file(make_url(self._database.url).database, sound) for sound in self._sounds}
        seen = {sound: _time_of(path) for sound, path in paths.items()}

        def watch() -> None:
            while True:
                time.sleep(_LOOK_SECONDS)
                for sound, path in paths.items():
                    if (found := _time_of(path)) != seen[sound]:
                        seen[sound] = found
                        self._hear(sound)

        return watch

    def _listen(self) -> None:
        while True:
            try:
                self._hear_all()
            except (SQLAlchemyError, psycopg.Error) as error:
                logger.info("what rings isn't heard at once: %s", type(error).__name__)
                time.sleep(_PAUSE_SECONDS)

    def _hear_all(self) -> None:
        """Until the connection is lost. It is one of the pool's, and counts as such."""
        by_channel = {sound.channel: sound for sound in self._sounds}
        with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            try:
                for channel in by_channel:
                    connection.exec_driver_sql(f"LISTEN {channel}")
                self.wake()  # for those who rang before
                driver: Any = connection.connection.driver_connection
                for notified in driver.notifies():
                    self._hear(by_channel[notified.channel])
            finally:
                connection.invalidate()


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
