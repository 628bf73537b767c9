"""What a driver's error means to whoever asked: the database is away, somebody else was first, the input can't be kept.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from lorahub.errors import Bug, Conflict, DiskFull, InvalidInput, LorahubError, Unavailable
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

logger = logging.getLogger("lorahub")

UNAVAILABLE = (OperationalError, InternalError, NoConnectionFree)
"""What work that can wait is given up for. To write to a read-only PostgreSQL is one of psycopg's `InternalError`s."""

_DISK_FULL = "53100"
_TOO_LARGE = "54"  # class: an index row over its size, a statement too complex
_PASSING = (
    "08",  # connection lost
    "25006",  # read-only: a standby
    "40",  # deadlock, serialization failure
    "53",  # too many connections, out of memory
    "55P03",  # a lock not had in time
    "57",  # shut down, starting up, a statement over its time
    "58",  # the system's own faults
)
_BROKEN_ROW = ("23502", "23514")  # NOT NULL, CHECK
_SQLITE_BROKEN_ROW = (sqlite3.SQLITE_CONSTRAINT_NOTNULL, sqlite3.SQLITE_CONSTRAINT_CHECK)
_SQLITE_PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
)
"""Not among them: `SQLITE_ERROR`, a statement that is wrong. https://www.sqlite.org/rescode.html"""


@contextmanager
def explained() -> Iterator[None]:
    """What goes wrong with the database inside is raised as what it means."""
    try:
        yield
    except (DBAPIError, NoConnectionFree) as error:
        raise meaning_of(error) from error


def named_bug(context: ExceptionContext) -> Bug | None:
    """For an engine's `handle_error`: a row that is broken in itself, whatever others there are, is a bug of ours.

    Drivers call it an `IntegrityError` too, which services take for somebody else's having been first.
    """
    state = getattr(context.original_exception, "sqlstate", None)
    code = getattr(context.original_exception, "sqlite_errorcode", None)
    if state not in _BROKEN_ROW and code not in _SQLITE_BROKEN_ROW:
        return None
    logger.error("the database refused a row: %s", context.original_exception)
    return _bug()


def meaning_of(error: DBAPIError | NoConnectionFree) -> LorahubError:
    """Logs what an operator should know; the answer says nothing that a client must not see."""
    if isinstance(error, NoConnectionFree):
        logger.error("every database connection of this process is in use")
        return _away()
    state = getattr(error.orig, "sqlstate", None) or ""
    if isinstance(error, IntegrityError):
        logger.warning("two requests changed the same thing: %s", error.orig)
        return Conflict("somebody else changed the same thing at the same moment", hint="try again")
    if isinstance(error, DataError) or state.startswith(_TOO_LARGE):
        logger.warning("the database can't hold what was sent: %s", error.orig)
        return InvalidInput("a value is out of the range of what can be stored")
    if state == _DISK_FULL or _sqlite_code(error) == sqlite3.SQLITE_FULL:
        logger.error("the database's disk is full: %s", error.orig)
        return DiskFull("the registry's disk is full; nothing of this request is kept")
    if state.startswith(_PASSING) or error.connection_invalidated or _is_away(error):
        logger.error("database unavailable: %s", error.orig)
        return _away()
    logger.error("database refused a statement", exc_info=error)
    return _bug()


def _is_away(error: DBAPIError) -> bool:
    """A SQLite that can't answer now, or a PostgreSQL that could not be asked, and so has said no state."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error) in _SQLITE_PASSING
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) is None


def _sqlite_code(error: DBAPIError) -> int | None:
    """Its primary code; None of another database."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _bug() -> Bug:
    return Bug("the registry failed; this is a bug in lorahub", hint="report it with the request id")


def _away() -> Unavailable:
    return Unavailable("the registry's database is busy or unreachable", hint="try again in a moment")
