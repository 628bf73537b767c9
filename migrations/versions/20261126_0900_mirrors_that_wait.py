"""mirrors that wait"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mirrors", sa.Column("sealed_token", sa.LargeBinary(), nullable=True))
    op.add_column("mirrors", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("mirrors", sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("mirrors", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("mirrors", "paused_at")
    op.drop_column("mirrors", "next_try_at")
    op.drop_column("mirrors", "failures")
    op.drop_column("mirrors", "sealed_token")
