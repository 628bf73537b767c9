"""Requests of each caller, counted by PostgreSQL for all processes, in windows of its own clock."""

import threading

from sqlalchemy import text

from lorahub_registry.infrastructure.database.session import Database

_COUNT = text("""
    INSERT INTO request_counts (window_at, kind, caller, used)
    VALUES (to_timestamp(floor(extract(epoch FROM now()) / :window) * :window), :kind, :caller, 1)
    ON CONFLICT (window_at, kind, caller) DO UPDATE SET used = request_counts.used + 1
    RETURNING used, extract(epoch FROM window_at)::float8, extract(epoch FROM now() - window_at)::float8
""")
_FORGET = text("DELETE FROM request_counts WHERE window_at < to_timestamp(:window_at)")


class RequestCounts:
    """`window` is in seconds."""

    def __init__(self, database: Database, window: float) -> None:
        self._database = database
        self._window = window
        self._lock = threading.Lock()
        self._newest = 0.0

    def count(self, kind: str, caller: str) -> tuple[int, float]:
        """Counts one more. Gives how many there are in this window, and how many seconds of it have passed.

        Raises the driver's own errors.
        """
        with self._database.read() as session:  # a statement outside of a transaction is one of its own
            told = session.execute(_COUNT, {"window": self._window, "kind": kind, "caller": caller})
            used, window_at, passed = told.one()
            if self._is_new(window_at):
                session.execute(_FORGET, {"window_at": window_at})
        return used, passed

    def _is_new(self, window_at: float) -> bool:
        """Whether this process counts in it for the first time: it clears up behind the one before."""
        with self._lock:
            is_new, self._newest = window_at > self._newest, max(window_at, self._newest)
        return is_new
