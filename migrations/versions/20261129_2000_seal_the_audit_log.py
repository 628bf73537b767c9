"""seal the audit log"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLES = ("audit_events", "audit_seals", "audit_forgotten")
KEEPS = """
CREATE FUNCTION audit_keeps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'audit_events' THEN
    IF OLD.id <= (SELECT max(last_event_id) FROM audit_forgotten) THEN
      RETURN OLD;
    END IF;
  END IF;
  RAISE EXCEPTION USING MESSAGE = 'rows of ' || TG_TABLE_NAME || ' are kept as they are',
    ERRCODE = 'integrity_constraint_violation';
END $$
"""


def upgrade() -> None:
    op.add_column("audit_events", sa.Column("address", sa.String(length=64), nullable=True))
    op.create_table(
        "audit_seals",
        sa.Column("id", ID, autoincrement=False, nullable=False),
        sa.Column("last_event_id", ID, nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_seals")),
        sa.UniqueConstraint("last_event_id", name=op.f("uq_audit_seals_last_event_id")),
    )
    op.create_table(
        "audit_forgotten",
        sa.Column("last_event_id", ID, autoincrement=False, nullable=False),
        sa.Column("before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=96), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("last_event_id", name=op.f("pk_audit_forgotten")),
    )
    if op.get_bind().dialect.name == "sqlite":
        _guard_sqlite()
    else:
        _guard_postgres()


def _guard_postgres() -> None:
    op.execute(KEEPS)
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_keeps BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION audit_keeps()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_keeps_all BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_keeps()"
        )


def _guard_sqlite() -> None:
    for table in TABLES:
        refusal = f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are kept as they are'); END"
        unless = (
            "WHEN OLD.id > coalesce((SELECT max(last_event_id) FROM audit_forgotten), 0)"
            if table == "audit_events"
            else ""
        )
        op.execute(f"CREATE TRIGGER {table}_keeps BEFORE UPDATE ON {table} {refusal}")
        op.execute(f"CREATE TRIGGER {table}_keeps_all BEFORE DELETE ON {table} {unless} {refusal}")


def downgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in TABLES:
        on = "" if is_sqlite else f"ON {table}"
        op.execute(f"DROP TRIGGER {table}_keeps {on}")
        op.execute(f"DROP TRIGGER {table}_keeps_all {on}")
    if not is_sqlite:
        op.execute("DROP FUNCTION audit_keeps()")
    op.drop_table("audit_forgotten")
    op.drop_table("audit_seals")
    op.drop_column("audit_events", "address")
