"""count what namespaces keep"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "namespace_blobs",
        sa.Column("account_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("blob_sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_namespace_blobs_account_id_accounts")),
        sa.ForeignKeyConstraint(
            ["blob_sha256"], ["blobs.sha256"], name=op.f("fk_namespace_blobs_blob_sha256_blobs"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("account_id", "blob_sha256", name=op.f("pk_namespace_blobs")),
    )
    op.create_index(op.f("ix_namespace_blobs_blob_sha256"), "namespace_blobs", ["blob_sha256"], unique=False)
    op.add_column("accounts", sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("accounts", sa.Column("byte_quota", sa.BigInteger(), nullable=True))
    op.add_column("accounts", sa.Column("repository_quota", sa.Integer(), nullable=True))
    op.execute(
        "INSERT INTO namespace_blobs (account_id, blob_sha256) "
        "SELECT DISTINCT repositories.namespace_id, commit_files.blob_sha256 FROM commit_files "
        "JOIN commits ON commits.id = commit_files.commit_id "
        "JOIN repositories ON repositories.id = commits.repository_id"
    )
    op.execute(
        "UPDATE accounts SET stored_bytes = coalesce((SELECT sum(blobs.size) FROM namespace_blobs "
        "JOIN blobs ON blobs.sha256 = namespace_blobs.blob_sha256 WHERE namespace_blobs.account_id = accounts.id), 0)"
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_namespace_blobs_blob_sha256"), table_name="namespace_blobs")
    op.drop_table("namespace_blobs")
    with op.batch_alter_table("accounts") as batch_op:
        batch_op.drop_column("repository_quota")
        batch_op.drop_column("byte_quota")
        batch_op.drop_column("stored_bytes")
