"""count what comes in"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("made_by", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_accounts_made_by"), "accounts", ["made_by"], unique=False)
    op.create_table(
        "reservations",
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("key", sa.String(length=96), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("uploads", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_reservations_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "key", name=op.f("pk_reservations")),
    )
    op.create_index("ix_reservations_expiry", "reservations", ["account_id", "expires_at"], unique=False)
    op.create_table(
        "reserved_totals",
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("uploads", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_reserved_totals_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_reserved_totals")),
    )
    op.create_table(
        "xet_sessions",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("repository_id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("promised_bytes", sa.BigInteger(), nullable=False),
        sa.Column("received_bytes", sa.BigInteger(), nullable=False),
        sa.Column("taken_bytes", sa.BigInteger(), nullable=False),
        sa.Column("unpacked_bytes", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_xet_sessions_account_id_accounts")),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.id"],
            name=op.f("fk_xet_sessions_repository_id_repositories"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_xet_sessions")),
    )
    op.create_index(op.f("ix_xet_sessions_expires_at"), "xet_sessions", ["expires_at"], unique=False)
    op.create_index(op.f("ix_xet_sessions_repository_id"), "xet_sessions", ["repository_id"], unique=False)
    op.create_table(
        "xet_xorbs",
        sa.Column("session_id", sa.String(length=96), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("is_received", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["xet_sessions.id"], name=op.f("fk_xet_xorbs_session_id_xet_sessions"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_id", "name", name=op.f("pk_xet_xorbs")),
    )
    op.create_index("ix_uploads_declared", "uploads", ["repository_id", "declared_sha256"], unique=False)
    op.create_index("ix_uploads_leased", "uploads", ["repository_id", "blob_sha256"], unique=False)
    op.drop_index(op.f("ix_uploads_repository_id"), table_name="uploads")
    _reserve_what_is_under_way()


def _reserve_what_is_under_way() -> None:
    """Open uploads, in their namespace and at their uploader; then leased blobs that no commit of the namespace has."""
    op.execute(
        "INSERT INTO reservations (account_id, key, bytes, uploads, expires_at) "
        "SELECT repositories.namespace_id, uploads.id, uploads.declared_size, "
        "CASE WHEN repositories.namespace_id = uploads.account_id THEN 1 ELSE 0 END, uploads.expires_at FROM uploads "
        "JOIN repositories ON repositories.id = uploads.repository_id WHERE uploads.blob_sha256 IS NULL"
    )
    op.execute(
        "INSERT INTO reservations (account_id, key, bytes, uploads, expires_at) "
        "SELECT uploads.account_id, uploads.id, 0, 1, uploads.expires_at FROM uploads "
        "JOIN repositories ON repositories.id = uploads.repository_id "
        "WHERE uploads.blob_sha256 IS NULL AND repositories.namespace_id <> uploads.account_id"
    )
    op.execute(
        "INSERT INTO reservations (account_id, key, bytes, uploads, expires_at) "
        "SELECT repositories.namespace_id, blobs.sha256, blobs.size, 0, max(uploads.expires_at) FROM uploads "
        "JOIN repositories ON repositories.id = uploads.repository_id "
        "JOIN blobs ON blobs.sha256 = uploads.blob_sha256 WHERE NOT EXISTS (SELECT 1 FROM namespace_blobs "
        "WHERE namespace_blobs.account_id = repositories.namespace_id AND namespace_blobs.blob_sha256 = blobs.sha256) "
        "GROUP BY repositories.namespace_id, blobs.sha256, blobs.size"
    )
    op.execute(
        "INSERT INTO reserved_totals (account_id, bytes, uploads) "
        "SELECT account_id, sum(bytes), sum(uploads) FROM reservations GROUP BY account_id"
    )


def downgrade() -> None:
    op.create_index(op.f("ix_uploads_repository_id"), "uploads", ["repository_id"], unique=False)
    op.drop_index("ix_uploads_leased", table_name="uploads")
    op.drop_index("ix_uploads_declared", table_name="uploads")
    op.drop_index(op.f("ix_accounts_made_by"), table_name="accounts")
    with op.batch_alter_table("accounts") as batch_op:
        batch_op.drop_column("made_by")
    op.drop_table("xet_xorbs")
    op.drop_table("xet_sessions")
    op.drop_table("reserved_totals")
    op.drop_table("reservations")
