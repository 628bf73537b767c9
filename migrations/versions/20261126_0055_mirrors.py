"""mirrors"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "mirrors",
        sa.Column("id", ID, nullable=False),
        sa.Column("namespace_id", ID, nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("endpoint", sa.String(length=300), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column("revision", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=96), nullable=False),
        sa.Column("name_key", sa.String(length=200), nullable=False),
        sa.Column("is_private", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("remote_commit", sa.String(length=40), nullable=True),
        sa.Column("version", sa.String(length=32), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_mirrors_account_id_accounts")),
        sa.ForeignKeyConstraint(["namespace_id"], ["accounts.id"], name=op.f("fk_mirrors_namespace_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mirrors")),
        sa.UniqueConstraint("name_key", name=op.f("uq_mirrors_name_key")),
    )
    op.create_index(op.f("ix_mirrors_namespace_id"), "mirrors", ["namespace_id"], unique=False)
    op.create_table(
        "revision_origins",
        sa.Column("commit_id", sa.String(length=40), nullable=False),
        sa.Column("endpoint", sa.String(length=300), nullable=False),
        sa.Column("repository", sa.String(length=200), nullable=False),
        sa.Column("remote_commit", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["commit_id"], ["commits.id"], name=op.f("fk_revision_origins_commit_id_commits"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("commit_id", name=op.f("pk_revision_origins")),
    )


def downgrade() -> None:
    op.drop_table("revision_origins")
    op.drop_index(op.f("ix_mirrors_namespace_id"), table_name="mirrors")
    op.drop_table("mirrors")
