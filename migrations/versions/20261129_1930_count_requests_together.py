"""count requests together"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_postgres = op.get_bind().dialect.name == "postgresql"
    op.create_table(
        "request_counts",
        sa.Column("window_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("caller", sa.String(length=64), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("window_at", "kind", "caller", name=op.f("pk_request_counts")),
        prefixes=["UNLOGGED"] if is_postgres else [],
    )


def downgrade() -> None:
    op.drop_table("request_counts")
