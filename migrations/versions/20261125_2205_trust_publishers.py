"""trust publishers"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007b"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "spent_identities",
        sa.Column("issuer", sa.String(length=300), nullable=False),
        sa.Column("jti", sa.String(length=300), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "jti", name=op.f("pk_spent_identities")),
    )
    with op.batch_alter_table("spent_identities", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_spent_identities_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "trusted_publishers",
        sa.Column("id", ID, nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("issuer", sa.String(length=300), nullable=False),
        sa.Column("claims", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_trusted_publishers_account_id_accounts")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.id"],
            name=op.f("fk_trusted_publishers_repository_id_repositories"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trusted_publishers")),
    )
    with op.batch_alter_table("trusted_publishers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_trusted_publishers_repository_id"), ["repository_id"], unique=False)

    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.add_column(sa.Column("repository_id", ID, nullable=True))
        batch_op.create_index(batch_op.f("ix_tokens_repository_id"), ["repository_id"], unique=False)
        batch_op.create_foreign_key(
            batch_op.f("fk_tokens_repository_id_repositories"),
            "repositories",
            ["repository_id"],
            ["id"],
            ondelete="CASCADE",
        )


def downgrade() -> None:
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_tokens_repository_id_repositories"), type_="foreignkey")
        batch_op.drop_index(batch_op.f("ix_tokens_repository_id"))
        batch_op.drop_column("repository_id")

    with op.batch_alter_table("trusted_publishers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_trusted_publishers_repository_id"))

    op.drop_table("trusted_publishers")
    with op.batch_alter_table("spent_identities", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_spent_identities_expires_at"))

    op.drop_table("spent_identities")
