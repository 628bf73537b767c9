"""take out of circulation"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("repositories", sa.Column("quarantined_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("repositories", sa.Column("quarantined_by", sa.String(length=96), nullable=True))
    op.add_column("repositories", sa.Column("quarantine_reason", sa.Text(), nullable=True))
    op.add_column("blobs", sa.Column("damaged_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "blocked_digests",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.String(length=96), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blocked_digests")),
    )
    hold = op.create_table(
        "collection_hold",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collection_hold")),
    )
    op.bulk_insert(hold, [{"id": 1, "until": None}])


def downgrade() -> None:
    op.drop_table("collection_hold")
    op.drop_table("blocked_digests")
    op.drop_column("blobs", "damaged_at")
    op.drop_column("repositories", "quarantine_reason")
    op.drop_column("repositories", "quarantined_by")
    op.drop_column("repositories", "quarantined_at")
