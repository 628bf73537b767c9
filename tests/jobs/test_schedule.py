"""Garbage collection and scrubs on schedule: by one worker of many, once in an interval."""

from collections.abc import Callable, Iterator
from pathlib import Path

import lorahub
import pytest
from builders import write_adapter
from jobs.worker_process import Worker
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


def _key_of_the_adapter(registry: Registry) -> str:
    where = "where path = 'adapter_model.safetensors'"
    return str(registry.sql(f"select storage_key from blobs join commit_files on sha256 = blob_sha256 {where}")[0][0])
