"""know a repeated request by its content"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("commits", sa.Column("request_digest", sa.String(length=64), nullable=True))


def downgrade() -> None:
    op.drop_column("commits", "request_digest")
