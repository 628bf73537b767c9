"""have workers make what no read computes"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("wanted_at", sa.DateTime(timezone=True)),
    ("used_at", sa.DateTime(timezone=True)),
    ("fault", sa.String(length=2000)),
    ("failed_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    for name, kind in _COLUMNS:
        op.add_column("merged_revisions", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    for name, _ in _COLUMNS:
        op.drop_column("merged_revisions", name)
