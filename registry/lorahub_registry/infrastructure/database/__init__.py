"""The database: its tables, its sessions, its migrations."""

from lorahub_registry.infrastructure.database.session import Database, Session, now

__all__ = ["Database", "Session", "now"]
