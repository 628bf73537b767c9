"""A database that is there and refuses: full, read-only, no connection free. 507 or 503, and well again afterwards."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import psycopg
import pytest
import wire
from registry_process import Registry
from services.postgres import Postgres, has_small_disks


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    running = Postgres(tmp_path_factory.mktemp("refusals")).start()
    yield running
    running.stop()


def standing(home: Path, url: str) -> Registry:
    registry = Registry(home, settings={"LORAHUB_DATABASE_URL": url}).start()
    with registry.client() as client:
        wire.create_repo(client, "owner/read")
        wire.require(wire.commit(client, "owner/read", [wire.inline("known.txt", b"known")]))
    return registry


@pytest.fixture
def registry(postgres: Postgres, tmp_path: Path) -> Iterator[Registry]:
    running = standing(tmp_path / "home", postgres.new_database())
    yield running
    running.kill()


def commit(registry: Registry, number: int) -> httpx2.Response:
    lines = [wire.inline(f"folder{number}/{row}.txt", f"{number} {row}".encode()) for row in range(30)]
    with registry.client() as client:
        return wire.commit(client, "owner/read", lines, key=f"commit-{number}")


def read(registry: Registry) -> httpx2.Response:
    with registry.client() as client:
        return client.get("/owner/read/resolve/main/known.txt")


@pytest.mark.skipif(not has_small_disks(), reason="this system lets nobody mount a small disk")
def test_a_full_disk_of_postgresql_is_507_until_there_is_room(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", small_disk_mb=40).start()
    postgres.sql(f"create tablespace small location '{postgres.folder / 'small'}'")
    url = postgres.new_database("tablespace small")
    database = url.rpartition("/")[2]
    registry = standing(tmp_path / "home", url)
    try:
        fill(postgres, database)
        number = next(number for number in range(30) if commit(registry, number).status_code != 200)
        refused = commit(registry, number)
        assert (refused.status_code, refused.json()["code"]) == (507, "DiskFull")
        assert read(registry).content == b"known"
        postgres.sql("drop table ballast", database)
        assert commit(registry, number).status_code == 200
        registry.assert_sound()
    finally:
        registry.kill()
        postgres.stop()


def fill(postgres: Postgres, database: str) -> None:
    """Until not even a page is left."""
    postgres.sql("create table ballast (bytes text)", database)
    postgres.sql("alter table ballast alter bytes set storage plain", database)
    for rows in (1000, 100, 10, 1):
        statement = f"insert into ballast select repeat('x', 8000) from generate_series(1, {rows})"
        with suppress(psycopg.errors.DiskFull):
            while True:
                postgres.sql(statement, database)


SAID = {
    "53100": (507, "DiskFull"),
    "53200": (503, "Unavailable"),  # out of memory
    "53300": (503, "Unavailable"),  # too many connections
    "58030": (503, "Unavailable"),  # the system's input and output
    "57P01": (503, "Unavailable"),  # it is being shut down
    "40P01": (503, "Unavailable"),  # a deadlock
    "42P01": (500, "Bug"),  # a table that isn't there
}


def test_what_postgresql_says_is_what_a_client_is_told(postgres: Postgres, registry: Registry) -> None:
    database = registry.settings["LORAHUB_DATABASE_URL"].rpartition("/")[2]
    for number, (state, told) in enumerate(SAID.items()):
        raised = f"begin raise exception 'refused' using errcode = '{state}'; end"
        postgres.sql(f"create or replace function refuse() returns trigger language plpgsql as $${raised}$$", database)
        postgres.sql("create trigger refusing before insert on commits execute function refuse()", database)
        refused = commit(registry, number)
        assert (refused.status_code, refused.json()["code"]) == told
        assert refused.headers.get("Retry-After") == (None if told[0] == 500 else "2")
        postgres.sql("drop trigger refusing on commits", database)
        assert commit(registry, number).status_code == 200
    registry.assert_sound()


def test_a_postgresql_that_only_reads_is_read_and_written_to_later(postgres: Postgres, registry: Registry) -> None:
    """As after a failover, until the addresses lead to the new primary."""
    database = registry.settings["LORAHUB_DATABASE_URL"].rpartition("/")[2]
    others = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"
    postgres.sql(f'alter database "{database}" set default_transaction_read_only = on')
    postgres.sql(others)
    assert read(registry).content == b"known"
    refused = commit(registry, 1)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    postgres.sql(f'alter database "{database}" reset default_transaction_read_only')
    postgres.sql(others)
    assert commit(registry, 1).status_code == 200


def test_a_postgresql_without_a_free_connection_is_503_until_it_has_one(postgres: Postgres, tmp_path: Path) -> None:
    postgres.sql("create role few login connection limit 12")
    url = postgres.new_database("owner few")
    registry = standing(tmp_path / "home", url.replace("lorahub@", "few@"))
    try:
        postgres.sql("alter role few connection limit 1")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: read(registry), range(80)))
        assert {answer.status_code for answer in answers} == {200, 503}
        assert {answer.headers.get("Retry-After") for answer in answers if answer.status_code == 503} == {"2"}
        postgres.sql("alter role few connection limit 50")
        with ThreadPoolExecutor(8) as pool:
            assert {answer.status_code for answer in pool.map(lambda _: read(registry), range(80))} == {200}
    finally:
        registry.kill()


def test_a_sqlite_without_a_table_is_a_bug_and_not_away(tmp_path: Path) -> None:
    registry = Registry(tmp_path, {"LORAHUB_DATABASE_URL": f"sqlite:///{tmp_path / 'registry.db'}"})
    registry.start()
    try:
        with registry.client() as client:
            rename(registry, "mirrors", "elsewhere")
            answer = client.get("/api/lorahub/v1/mirrors")
            assert (answer.status_code, answer.json()["code"]) == (500, "Bug")
            assert "Retry-After" not in answer.headers
            rename(registry, "elsewhere", "mirrors")
            assert client.get("/api/lorahub/v1/mirrors").status_code == 200
    finally:
        registry.kill()


def rename(registry: Registry, before: str, after: str) -> None:
    with registry.database() as database:
        database.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")
