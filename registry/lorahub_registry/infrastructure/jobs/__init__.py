"""Background jobs: DBOS, embedded on SQLite or on the registry's PostgreSQL.

A step may run twice: what it writes depends on its input alone.
"""

from lorahub_registry.infrastructure.jobs.engine import launch, shut_down

__all__ = ["launch", "shut_down"]
