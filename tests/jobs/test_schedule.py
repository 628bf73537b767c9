"""Garbage collection and scrubs on schedule: by one worker of many, once in an interval."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lorahub
import pytest
import sqlalchemy
from builders import write_adapter
from jobs.worker_process import Worker
from lorahub_registry.infrastructure.jobs.engine import VERSION
from registry_process import Registry, eventually
from services import production


@pytest.fixture
def scheduled(tmp_path: Path) -> Iterator[Registry]:
    settings = {
        "LORAHUB_DATABASE_URL": production.postgres().new_database(),
        "LORAHUB_GC_INTERVAL": "PT3S",
        "LORAHUB_SCRUB_INTERVAL": "PT3S",
        "LORAHUB_BLOB_GRACE": "PT0S",
    }
    registry = Registry(tmp_path / "scheduled", settings).start()
    yield registry
    registry.stop()
    registry.assert_sound()


def test_two_workers_do_it_once_in_an_interval(
    scheduled: Registry, hire: Callable[..., Worker], tmp_path: Path
) -> None:
    with lorahub.Hub(scheduled.url, token=scheduled.token) as hub:
        for name, seed in (("kept", 0), ("deleted", 1)):
            hub.push(write_adapter(tmp_path / name, seed=seed), f"owner/{name}")
        hub.delete("owner/deleted")
    decayed = _key_of_the_adapter(scheduled)
    content = scheduled.objects.read(decayed)
    scheduled.objects.write(decayed, b"x" + content[1:])
    for name in ("one", "two"):
        hire(scheduled, name).start()
    unreferenced = "select count(*) from blobs where sha256 not in (select blob_sha256 from commit_files)"
    eventually(lambda: scheduled.sql(unreferenced) == [(0,)], 60)
    eventually(lambda: scheduled.sql("select count(*) from blobs where damaged_at is not null") == [(1,)], 60)
    scheduled.objects.write(decayed, content)
    eventually(lambda: scheduled.sql("select count(*) from blobs where damaged_at is not null") == [(0,)], 60)
    for name in ("collect-garbage", "scrub"):
        runs = scheduled.sql(
            "select workflow_uuid, recovery_attempts from dbos.workflow_status where name = :n", n=name
        )
        assert len(runs) >= 2
        assert all(run.endswith("/0") and starts <= 1 for run, starts in runs)


def test_the_engine_forgets_what_is_old_until_nothing_is_left(shared: Registry, hire: Callable[..., Worker]) -> None:
    """Also where nothing else is done on schedule. More than one batch, and what nobody would ever end."""
    month = timedelta(days=30)
    this_month = f"{VERSION}/scrub/{(datetime.now(UTC) - datetime.fromtimestamp(0, UTC)) // month}/0"
    with _engine(shared) as rows:
        rows.insert([f"{VERSION}/old/{number}" for number in range(1200)], days=61)
        rows.insert([f"{VERSION}/old/0/part"], days=61, parent_workflow_id=f"{VERSION}/old/0")
        rows.insert([f"{VERSION}/young"], days=59)
        rows.insert([this_month], days=40)
        rows.insert(["1/stranded"], days=61, status="ENQUEUED", application_version="1", completed_at=None)
        rows.insert([f"{VERSION}/waits"], days=61, status="ENQUEUED", completed_at=None)
        hire(shared, "one", LORAHUB_SCRUB_INTERVAL="P30D").start()
        eventually(lambda: not any(name.startswith((f"{VERSION}/old", "1/")) for name in rows.ids()), 60)
        assert {f"{VERSION}/young", f"{VERSION}/waits", this_month} <= rows.ids()


class _Rows:
    """Of the engine's own table, behind its back."""

    def __init__(self, connection: sqlalchemy.Connection, schema: str | None) -> None:
        self._connection = connection
        self._table = sqlalchemy.Table("workflow_status", sqlalchemy.MetaData(schema=schema), autoload_with=connection)

    def insert(self, ids: list[str], *, days: int, **values: Any) -> None:
        """Ended so many days ago."""
        at = int((datetime.now(UTC) - timedelta(days=days)).timestamp() * 1000)
        times = {"created_at": at, "updated_at": at, "completed_at": at}
        row = {"status": "SUCCESS", "name": "x", "application_version": VERSION, "application_name": "lorahub", **times}
        with self._connection.begin():
            self._connection.execute(self._table.insert(), [{**row, **values, "workflow_uuid": one} for one in ids])

    def ids(self) -> set[str]:
        with self._connection.begin():
            return set(self._connection.scalars(sqlalchemy.select(self._table.c.workflow_uuid)))


@contextmanager
def _engine(registry: Registry) -> Iterator[_Rows]:
    url = registry.settings.get("LORAHUB_DATABASE_URL")
    engine = sqlalchemy.create_engine(url or f"sqlite:///{registry.home / 'jobs.sqlite'}")
    with engine.connect() as connection:
        schema = "dbos" if url else None
        with connection.begin():
            rows = _Rows(connection, schema)
        yield rows
    engine.dispose()


def _key_of_the_adapter(registry: Registry) -> str:
    where = "where path = 'adapter_model.safetensors'"
    return str(registry.sql(f"select storage_key from blobs join commit_files on sha256 = blob_sha256 {where}")[0][0])
