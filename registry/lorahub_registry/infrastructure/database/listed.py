"""Which repositories lists and searches show: the one condition, for every feature's queries."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, true

from lorahub_registry.infrastructure.database.tables import Repository


def is_listed(visible_namespaces: Sequence[int] | None) -> ColumnElement[bool]:
    """Private and quarantined repositories only in `visible_namespaces` (None: all of them)."""
    if visible_namespaces is None:
        return true()
    is_open = ~Repository.is_private & Repository.quarantined_at.is_(None)
    return or_(is_open, Repository.namespace_id.in_(visible_namespaces))
