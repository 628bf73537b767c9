"""say what happened"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
IS_FRESH = sa.text("number IS NULL")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", ID, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("repository", sa.String(length=24), nullable=True),
        sa.Column("namespace_id", sa.BigInteger(), nullable=True),
        sa.Column("was_open", sa.Boolean(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("name_key", sa.String(length=200), nullable=False),
        sa.Column("actor", sa.String(length=96), nullable=False),
        sa.Column("audience", sa.String(length=8), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("number", name=op.f("uq_events_number")),
    )
    op.create_index("ix_events_fresh", "events", ["id"], postgresql_where=IS_FRESH, sqlite_where=IS_FRESH)
    op.create_index("ix_events_name_key", "events", ["name_key", "number"])
    op.create_index("ix_events_at", "events", ["at"])
    feed = op.create_table(
        "feed",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("forgotten", sa.BigInteger(), nullable=False),
        sa.Column("spread", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feed")),
    )
    assert feed is not None
    op.bulk_insert(feed, [{"id": 1, "last": 0, "forgotten": 0, "spread": 0}])


def downgrade() -> None:
    op.drop_table("feed")
    op.drop_table("events")
