"""compare adapters"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INDEXED = ("first_commit_id", "second_commit_id", "account_id", "status")


def upgrade() -> None:
    op.create_table(
        "adapter_overlaps",
        sa.Column("first_digest", sa.String(length=64), nullable=False),
        sa.Column("second_digest", sa.String(length=64), nullable=False),
        sa.Column("first_commit_id", sa.String(length=40), nullable=False),
        sa.Column("second_commit_id", sa.String(length=40), nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("overlap", sa.JSON(), nullable=True),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("first_digest", "second_digest", name=op.f("pk_adapter_overlaps")),
        sa.ForeignKeyConstraint(
            ["first_commit_id"],
            ["commits.id"],
            name=op.f("fk_adapter_overlaps_first_commit_id_commits"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["second_commit_id"],
            ["commits.id"],
            name=op.f("fk_adapter_overlaps_second_commit_id_commits"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_adapter_overlaps_account_id_accounts")),
    )
    for column in INDEXED:
        op.create_index(op.f(f"ix_adapter_overlaps_{column}"), "adapter_overlaps", [column])


def downgrade() -> None:
    op.drop_table("adapter_overlaps")
