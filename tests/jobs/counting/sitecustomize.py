"""Found by each Python process that has this folder in its PYTHONPATH: writes down every SQL statement of SQLite, as
SQLite itself sees them, one line each.
"""

import os
import sqlite3
from pathlib import Path
from typing import Any

_connect, _log = sqlite3.connect, Path(os.environ["COUNTED_STATEMENTS"]).open("a", buffering=1)  # noqa: SIM115


def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
    connection = _connect(*arguments, **options)
    connection.set_trace_callback(lambda statement: print(" ".join(statement.split())[:200], file=_log))
    return connection


sqlite3.connect = sqlite3.dbapi2.connect = connect  # type: ignore[assignment, attr-defined]
