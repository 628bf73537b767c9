"""What DBOS asks of SQLite, for one that is older than 3.42, as Debian 12's is: the time in milliseconds.

On Python 3.12 and newer DBOS writes `unixepoch('subsec')` into its statements and the defaults of its columns. To an
older SQLite that is NULL, and no row gets in. A file that was made so may be read by another Python later.
"""

import sqlite3
import time
from typing import Any

from sqlalchemy import Engine, event

_KNOWS_IT = (3, 42)


def teach_milliseconds() -> None:
    """To each SQLite connection that this process makes from now on, where its SQLite doesn't know them."""
    if sqlite3.sqlite_version_info < _KNOWS_IT:
        event.listen(Engine, "connect", _teach)


def _teach(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.create_function("unixepoch", 1, _unixepoch)


def _unixepoch(modifier: str) -> float:
    if modifier != "subsec":
        raise ValueError(f"unixepoch({modifier!r}) is not what DBOS asks")
    return time.time_ns() // 1_000_000 / 1000
