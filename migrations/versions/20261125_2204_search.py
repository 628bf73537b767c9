"""search

Expands only: what servers of the version before write and read stays. What they publish while both run is found again
after `lorahub admin reindex`. Rebuilding `catalog_entries` on SQLite (a batch with `recreate`) would lose its triggers.
"""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op
from lorahub.errors import InvalidConfiguration
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

EPOCH, HALF_LIFE_DAYS, REMEMBERED_DAYS = datetime(2026, 1, 1, tzinfo=UTC), 7, 70

ENTRIES = """
    INSERT INTO catalog_entries (repository_id, name, terms, least_rank, most_rank, parameters)
    SELECT r.id, lower(r.namespace || '/' || r.name), {terms}, a.least_rank, a.most_rank, {parameters}
    FROM repositories r
    LEFT JOIN refs h ON h.repository_id = r.id AND h.space = 'heads' AND h.name = 'main'
    LEFT JOIN adapter_facts a ON a.commit_id = h.commit_id
    LEFT JOIN commit_facts f ON f.commit_id = h.commit_id
"""
TERMS = """
    SELECT 'tag:' || t.tag AS term FROM repository_tags t WHERE t.repository_id = r.id
    UNION SELECT l.label FROM adapter_labels l WHERE l.commit_id = h.commit_id
    UNION SELECT 'base:' || a.base_key WHERE a.base_key IS NOT NULL
"""
FOLLOWING = {
    "insert": "AFTER INSERT ON catalog_entries BEGIN {new} END",
    "delete": "AFTER DELETE ON catalog_entries BEGIN {old} END",
    "update": "AFTER UPDATE OF name, terms ON catalog_entries BEGIN {old} {new} END",
}
NEW = """
    INSERT INTO search_terms(rowid, terms) VALUES (new.repository_id, new.terms);
    INSERT INTO search_names(rowid, name) VALUES (new.repository_id, new.name);
"""
OLD = """
    INSERT INTO search_terms(search_terms, rowid, terms) VALUES ('delete', old.repository_id, old.terms);
    INSERT INTO search_names(search_names, rowid, name) VALUES ('delete', old.repository_id, old.name);
"""
FULL_TEXT = "fts5({column}, content='catalog_entries', content_rowid='repository_id', {how})"


def is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def upgrade() -> None:
    if not is_sqlite():
        make_extension()
    with op.batch_alter_table("repositories") as batch_op:
        batch_op.add_column(sa.Column("trending", sa.Double(), nullable=False, server_default="0"))
    op.create_table(
        "catalog_entries",
        sa.Column("repository_id", sa.BigInteger(), autoincrement=False, nullable=False)
        if not is_sqlite()
        else sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("terms", sa.Text() if is_sqlite() else postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("least_rank", sa.Integer(), nullable=True),
        sa.Column("most_rank", sa.Integer(), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["repository_id"],
            ["repositories.id"],
            name=op.f("fk_catalog_entries_repository_id_repositories"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("repository_id", name=op.f("pk_catalog_entries")),
    )
    fill_entries()
    fill_trending()
    op.create_index("ix_catalog_entries_ranks", "catalog_entries", ["most_rank", "least_rank"])
    op.create_index(op.f("ix_catalog_entries_parameters"), "catalog_entries", ["parameters"])
    if is_sqlite():
        make_full_text()
    else:
        names = {"postgresql_using": "gin", "postgresql_ops": {"name": "gin_trgm_ops"}}
        op.create_index("search_terms", "catalog_entries", ["terms"], postgresql_using="gin")
        op.create_index("search_names", "catalog_entries", ["name"], **names)


def make_extension() -> None:
    """In PostgreSQL's contrib, and trusted: whoever may create in a database may add it."""
    connection = op.get_bind()
    if connection.scalar(sa.text("SELECT 1 FROM pg_extension WHERE extname = 'pg_trgm'")):
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION pg_trgm"))
    except sa.exc.DBAPIError as error:
        raise InvalidConfiguration(
            f"the database lacks the extension pg_trgm, and it can't be added: {error.orig}",
            hint="let a superuser run in it: CREATE EXTENSION pg_trgm (package postgresql-contrib); then migrate again",
        ) from error


def fill_entries() -> None:
    terms = f"ARRAY({TERMS})"
    parameters = "(f.safetensors->>'total')::bigint"
    if is_sqlite():
        terms = f"(SELECT coalesce(group_concat(hex(term), ' '), '') FROM ({TERMS}))"  # noqa: S608 (our own)
        parameters = "json_extract(f.safetensors, '$.total')"
    op.execute(ENTRIES.format(terms=terms, parameters=parameters))


def fill_trending() -> None:
    """A download weighs twice as much as one a half-life earlier; what is older than ten of them is nothing."""
    connection = op.get_bind()
    first = (datetime.now(UTC) - timedelta(days=REMEMBERED_DAYS)).date().isoformat()
    days = connection.scalars(
        sa.text("SELECT DISTINCT day FROM downloads_per_day WHERE day >= :first"), {"first": first}
    )
    for day in days.all():
        age = datetime.fromisoformat(day).replace(tzinfo=UTC) - EPOCH
        connection.execute(
            sa.text(
                "UPDATE repositories SET trending = trending + :weight * (SELECT d.count FROM downloads_per_day d"
                " WHERE d.repository_id = repositories.id AND d.day = :day)"
                " WHERE id IN (SELECT repository_id FROM downloads_per_day WHERE day = :day)"
            ),
            {"weight": 2 ** (age / timedelta(days=HALF_LIFE_DAYS)), "day": day},
        )


def make_full_text() -> None:
    terms = FULL_TEXT.format(column="terms", how="tokenize='ascii', detail='none', columnsize=0")
    names = FULL_TEXT.format(column="name", how="tokenize='trigram', columnsize=0")
    for name, definition in (("search_terms", terms), ("search_names", names)):
        op.execute(f"CREATE VIRTUAL TABLE {name} USING {definition}")
        op.execute(f"INSERT INTO {name}({name}) VALUES ('rebuild')")  # noqa: S608 (our own)
    for event, body in FOLLOWING.items():
        op.execute(f"CREATE TRIGGER search_follows_{event} {body.format(old=OLD, new=NEW)}")


def downgrade() -> None:
    if is_sqlite():
        for event in FOLLOWING:
            op.execute(f"DROP TRIGGER search_follows_{event}")
        op.execute("DROP TABLE search_terms")
        op.execute("DROP TABLE search_names")
    op.drop_table("catalog_entries")
    with op.batch_alter_table("repositories") as batch_op:
        batch_op.drop_column("trending")
