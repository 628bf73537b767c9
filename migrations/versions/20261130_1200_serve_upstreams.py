"""serve repositories of upstreams"""

import sqlalchemy as sa
from alembic import op
from lorahub_registry.infrastructure.database.tables import BigId, UtcDateTime

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("upstream", sa.String(32), nullable=True))
    op.add_column("repositories", sa.Column("upstream", sa.String(32), nullable=True))
    op.add_column("repositories", sa.Column("kept_at", UtcDateTime(), nullable=True))
    op.create_table(
        "upstreams",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("definition", sa.JSON(), nullable=True),
        sa.Column("sealed_token", sa.LargeBinary(), nullable=True),
        sa.Column("quiet_until", UtcDateTime(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "upstream_answers",
        sa.Column("repository_id", BigId, sa.ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("revision", sa.String(128), primary_key=True),
        sa.Column("commit_id", sa.String(40), sa.ForeignKey("commits.id", ondelete="CASCADE"), nullable=True),
        sa.Column("etag", sa.String(200), nullable=True),
        sa.Column("said", sa.JSON(), nullable=True),
        sa.Column("checked_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_upstream_answers_commit_id", "upstream_answers", ["commit_id"])
    op.create_table(
        "upstream_files",
        sa.Column("commit_id", sa.String(40), sa.ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("path", sa.String(1024), primary_key=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("read_at", UtcDateTime(), nullable=True),
    )
    op.create_index("ix_upstream_files_digest", "upstream_files", ["digest", "commit_id"])
    op.create_table(
        "upstream_transfers",
        sa.Column("repository_id", BigId, sa.ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(32), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("upload_id", sa.String(32), nullable=True),
        sa.Column("part_bytes", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("fault", sa.JSON(), nullable=True),
        sa.Column("retry_at", UtcDateTime(), nullable=True),
    )


def downgrade() -> None:
    for table in ("upstream_transfers", "upstream_files", "upstream_answers", "upstreams"):
        op.drop_table(table)
    for table, column in (("repositories", "kept_at"), ("repositories", "upstream"), ("accounts", "upstream")):
        op.drop_column(table, column)
