"""search in order

A step of its own, since on PostgreSQL these indexes are built outside of transactions: what was begun and given up is
begun anew, and nothing else is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

revision = "0007b"
down_revision = "0007"
branch_labels = None
depends_on = None

SORTED_BY = ("created_at", "updated_at", "downloads", "likes", "trending")
IS_GATED = sa.text("gated IS NOT NULL")
HALVES = """
    SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = 'repositories'::regclass AND NOT i.indisvalid
"""


@contextmanager
def beside_traffic() -> Iterator[dict[str, bool]]:
    """PostgreSQL builds an index of a table in use without holding its writers up. It waits for all who have begun
    before, however long: given up, it would leave half an index that passes for a whole one.
    """
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        yield {}
        return
    with op.get_context().autocommit_block():
        patience = connection.scalar(sa.text("SHOW lock_timeout"))
        op.execute("SET lock_timeout = 0")
        try:
            for half in connection.scalars(sa.text(HALVES)).all():  # of one that was killed
                op.drop_index(half, if_exists=True, postgresql_concurrently=True)
            yield {"postgresql_concurrently": True}
        finally:
            op.execute(f"SET lock_timeout = '{patience}'")


def upgrade() -> None:
    with beside_traffic() as how:
        for key in SORTED_BY:
            op.create_index(f"ix_repositories_by_{key}", "repositories", [key, "id"], if_not_exists=True, **how)
        where = {"postgresql_where": IS_GATED, "sqlite_where": IS_GATED}
        op.create_index("ix_repositories_gated", "repositories", ["id"], if_not_exists=True, **where, **how)
        for key in SORTED_BY[:-1]:
            op.drop_index(f"ix_repositories_{key}", "repositories", if_exists=True, **how)


def downgrade() -> None:
    with beside_traffic() as how:
        for key in SORTED_BY[:-1]:
            op.create_index(f"ix_repositories_{key}", "repositories", [key], if_not_exists=True, **how)
        for key in (*(f"by_{key}" for key in SORTED_BY), "gated"):
            op.drop_index(f"ix_repositories_{key}", "repositories", if_exists=True, **how)
