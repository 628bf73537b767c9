"""The migrations build exactly the tables of tables.py, on both databases, down and up again, and one at a time."""

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.migrate import migrations_folder, pending, upgrade
from lorahub_registry.infrastructure.database.tables import Table, is_ours
from registry_process import LORAHUB, eventually
from services import production
from sqlalchemy import inspect, text


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty one."""
    sqlite = request.param == "sqlite"
    found = Database.in_folder(tmp_path) if sqlite else Database(production.postgres().new_database())
    yield found
    found.close()


def migrate(database: Database, home: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "LORAHUB_DATABASE_URL": database.url, "LORAHUB_REGISTRY_HOME": str(home)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([LORAHUB, "admin", "migrate", *options], text=True, env=environment, **pipes)


def test_the_newest_migration_gives_the_tables_of_today(database: Database) -> None:
    upgrade(database)
    options = {"compare_type": True, "include_name": is_ours}
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Table.metadata) == []


def test_every_migration_can_be_undone_and_done_again(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    for act, target in ((command.upgrade, "head"), (command.downgrade, "base"), (command.upgrade, "head")):
        with database.engine.connect() as connection:
            config.attributes["connection"] = connection
            act(config, target)
    with database.engine.connect() as connection:
        assert set(Table.metadata.tables) < set(inspect(connection).get_table_names())


def columns(database: Database) -> dict[tuple[str, str], dict[str, Any]]:
    """By table and name: type, whether a row may lack it, and whether one that doesn't name it gets a value."""
    found = inspect(database.engine)
    return {
        (table, column["name"]): {
            "type": str(column["type"]),
            "nullable": column["nullable"],
            "filled": column["nullable"] or column["default"] is not None,
        }
        for (_, table), described in found.get_multi_columns().items()
        for column in described
    }


def promises(database: Database) -> set[tuple[str, str, str]]:
    """What a table demands of its rows: keys, uniqueness, checks."""
    found = inspect(database.engine)
    asked = {
        "unique": found.get_multi_unique_constraints(),
        "unique index": {
            name: [one for one in all_ if one["unique"]] for name, all_ in found.get_multi_indexes().items()
        },
        "foreign key": found.get_multi_foreign_keys(),
        "check": found.get_multi_check_constraints(),
    }
    return {
        (str(table), kind, str(one.get("column_names") or one.get("constrained_columns") or one.get("sqltext")))
        for kind, tables in asked.items()
        for (_, table), rules in tables.items()
        for one in rules
    }


def floor(database: Database) -> str | None:
    """The oldest migration whose programs may go on."""
    with database.engine.connect() as connection:
        has_one = inspect(connection).has_table("schema_floor")
        return connection.scalar(text("SELECT revision FROM schema_floor")) if has_one else None


def test_every_migration_only_expands_or_says_that_others_can_t_go_on(database: Database) -> None:
    """So that servers of the version before go on: no column goes or changes, none is asked of their rows that they
    don't know, and nothing new is demanded of the columns that they write. Where the floor rises, they don't.
    """
    steps = [revision.split()[0] for revision in pending(database)[1]]
    upgrade(database, steps[0])
    before, demanded, lowest = columns(database), promises(database), None
    for step in steps[1:]:
        upgrade(database, step)
        after, demands = columns(database), promises(database)
        if lowest is not None and floor(database) == step:
            before, demanded, lowest = after, demands, step
            continue
        lost = {key: column for key, column in before.items() if after.get(key) != column}
        assert not lost, f"{step} takes away or changes {lost}"
        known = {table for table, _ in before}
        asked = [key for key, column in after.items() if key not in before and key[0] in known and not column["filled"]]
        assert not asked, f"{step} asks rows of the version before for {asked}"
        narrowed = [
            rule
            for rule in demands - demanded
            if any((rule[0], name) in before for name in re.findall(r"\w+", rule[2]))
        ]
        assert not narrowed, f"{step} demands more of rows of the version before: {narrowed}"
        before, demanded, lowest = after, demands, floor(database)


def test_replicas_that_migrate_at_once_take_turns(database: Database, tmp_path: Path) -> None:
    replicas = [migrate(database, tmp_path) for _ in range(3)]
    said = [replica.communicate(timeout=120) for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0] * 3, said
    assert sorted("done" in shown for shown, _ in said) == [False, False, True]
    assert pending(database)[1] == []


def test_a_migration_gives_way_to_who_holds_what_it_wants_and_wants_what_it_holds() -> None:
    """Step 0004 changes `repositories`, then `blobs`; the other takes them the other way round."""
    database = Database(production.postgres().new_database())
    upgrade(database, "0003")
    with database.engine.connect() as other, ThreadPoolExecutor() as pool:
        other.execute(text("LOCK TABLE blobs IN ROW EXCLUSIVE MODE"))
        done = pool.submit(upgrade, database, "0004")
        waits = text("SELECT count(*) FROM pg_locks WHERE relation = 'blobs'::regclass AND NOT granted")
        with database.engine.connect() as watcher:
            eventually(lambda: watcher.scalar(waits) > 0 and not watcher.rollback(), 30)
        assert other.scalar(text("SELECT count(*) FROM repositories")) == 0
        other.commit()
        assert done.result(60)
    assert "damaged_at" in {column["name"] for column in inspect(database.engine).get_columns("blobs")}
    database.close()


def test_an_index_beside_traffic_waits_for_it_and_is_whole() -> None:
    """Given up half-built it would stay, of no use, and be taken for there."""
    database = Database(production.postgres().new_database())
    upgrade(database, "0007")
    with database.engine.begin() as killed:  # what a migration leaves that was killed while it built one
        killed.execute(text("CREATE INDEX ix_repositories_gated ON repositories (id)"))
        killed.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_repositories_gated'::regclass")
        )
    with database.engine.connect() as other, ThreadPoolExecutor() as pool:
        other.execution_options(isolation_level="REPEATABLE READ")
        other.execute(text("SELECT 1"))  # a snapshot that the index is built for too, as a backup has
        done = pool.submit(upgrade, database)
        with pytest.raises(TimeoutError):
            done.result(8)
        other.commit()
        assert done.result(60)
    with database.engine.connect() as connection:
        halves = connection.scalars(text("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"))
        assert halves.all() == []
        found = {index["name"] for index in inspect(connection).get_indexes("repositories")}
    assert {"ix_repositories_gated", "ix_repositories_by_trending"} <= found
    database.close()


def test_check_says_what_is_missing_and_changes_nothing(database: Database, tmp_path: Path) -> None:
    check = migrate(database, tmp_path, "--check")
    assert "missing: 0001" in check.communicate(timeout=60)[0]
    assert check.returncode == 7
    with database.engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    upgrade(database)
    check = migrate(database, tmp_path, "--check")
    assert "newest schema" in check.communicate(timeout=60)[0]
    assert check.returncode == 0


def refused(database: Database, home: Path, **settings: str) -> str:
    """What a server says that doesn't start on this database."""
    environment = {**os.environ, "LORAHUB_DATABASE_URL": database.url, "LORAHUB_WORKER": "false", **settings}
    command = [LORAHUB, "serve", "--home", str(home), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    return ended.stderr


def test_a_server_refuses_a_newer_schema_and_where_told_so_an_older_one(database: Database, tmp_path: Path) -> None:
    assert "lorahub admin migrate" in refused(database, tmp_path, LORAHUB_MIGRATE="false")
    upgrade(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("UPDATE schema_floor SET revision = '9998'"))
    assert "newer lorahub" in refused(database, tmp_path)


def test_a_server_without_its_database_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "LORAHUB_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    command = [LORAHUB, "serve", "--home", str(tmp_path), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert ended.returncode == 8
    assert "unreachable" in ended.stderr
