"""judge again when a base moves"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("base_names", sa.Column("judged_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("base_names", sa.Column("judge_fault", sa.Text(), nullable=True))
    op.execute("UPDATE base_names SET judged_at = added_at")  # what was registered before is no news
    op.create_index("ix_base_names_judged_at", "base_names", ["judged_at"], unique=False)
    op.create_table(
        "moved_verdicts",
        sa.Column("base_name_id", ID, nullable=False),
        sa.Column("commit_id", sa.String(length=40), nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("version", sa.String(length=32), nullable=True),
        sa.Column("before", sa.String(length=16), nullable=False),
        sa.Column("after", sa.String(length=16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["base_name_id"], ["base_names.id"], name=op.f("fk_moved_verdicts_base_name_id_base_names")
        ),
        sa.ForeignKeyConstraint(
            ["commit_id"], ["commits.id"], name=op.f("fk_moved_verdicts_commit_id_commits"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.id"],
            name=op.f("fk_moved_verdicts_repository_id_repositories"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("base_name_id", "commit_id", name=op.f("pk_moved_verdicts")),
    )
    op.create_index(op.f("ix_moved_verdicts_commit_id"), "moved_verdicts", ["commit_id"], unique=False)
    op.create_index(op.f("ix_moved_verdicts_repository_id"), "moved_verdicts", ["repository_id"], unique=False)


def downgrade() -> None:
    op.drop_table("moved_verdicts")
    op.drop_index("ix_base_names_judged_at", table_name="base_names")
    op.drop_column("base_names", "judge_fault")
    op.drop_column("base_names", "judged_at")
