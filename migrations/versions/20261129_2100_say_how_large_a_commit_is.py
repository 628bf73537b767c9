"""say how large a commit is"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("commits", sa.Column("size", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE commits SET size = (SELECT sum(blobs.size) FROM commit_files "
        "JOIN blobs ON blobs.sha256 = commit_files.blob_sha256 WHERE commit_files.commit_id = commits.id)"
    )


def downgrade() -> None:
    op.drop_column("commits", "size")
