"""Scrubs: decay of stored bytes is found, said, and forgotten when it is repaired."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import lorahub
import pytest
from builders import write_adapter
from prometheus_client.parser import text_string_to_metric_families
from registry_process import IN_A_FOLDER, Registry, eventually
from services.ports import free_port


@pytest.fixture
def filled(own_registry: Registry, tmp_path: Path) -> Registry:
    with lorahub.Hub(own_registry.url, token=own_registry.token) as hub:
        for seed in range(3):
            hub.push(write_adapter(tmp_path / str(seed), seed=seed), f"owner/adapter-{seed}")
    return own_registry


def test_decay_is_found_and_repair_is_seen(filled: Registry) -> None:
    whole = filled.admin_command("scrub")
    assert whole["ok"]
    assert whole["blobs"] == filled.sql("select count(*) from blobs")[0][0]
    [decayed, lost] = filled.objects.list("blobs/")[:2]
    right = {key: filled.objects.read(key) for key in (decayed, lost)}
    filled.objects.write(decayed, b"x" + right[decayed][1:])
    filled.objects.delete(lost)
    for _ in range(2):
        report = filled.admin_command("scrub")
        assert not report["ok"]
        assert set(report["damaged"]) == {_digest(decayed), _digest(lost)}
    for key, content in right.items():
        filled.objects.write(key, content)
    assert filled.admin_command("scrub")["damaged"] == []
    assert filled.sql("select count(*) from blobs where damaged_at is not null") == [(0,)]


def test_what_was_verified_longest_ago_comes_first(filled: Registry) -> None:
    """A scrub of one byte reads one blob; as many as there are blobs read each once."""
    blobs = int(filled.sql("select count(*) from blobs")[0][0])
    before = dict(filled.sql("select sha256, verified_at from blobs"))
    for _ in range(blobs):
        report = filled.admin_command("scrub", "--bytes", "1")
        assert report["blobs"] == 1
        assert not report["is_complete"]
    after = dict(filled.sql("select sha256, verified_at from blobs"))
    assert all(after[sha256] > at for sha256, at in before.items())


def test_a_corrupt_blob_is_known_though_a_later_slice_is_right(filled: Registry) -> None:
    key = filled.objects.list("blobs/")[0]
    content = filled.objects.read(key)
    filled.objects.write(key, content[:-1])
    filled.admin_command("scrub")
    later = filled.admin_command("scrub", "--bytes", "0")
    assert later["blobs"] == 0
    assert later["damaged"] == [_digest(key)]
    filled.objects.write(key, content)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Registry]:
    """With the worker and the log that `lorahub serve` has without any option."""
    settings = {
        "LORAHUB_WORKER": "true",
        "LORAHUB_SCRUB_INTERVAL": "PT2S",
        "LORAHUB_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    running = Registry(tmp_path / "watched", {**settings, **IN_A_FOLDER}, log=tmp_path / "log").start()
    yield running
    running.stop()


def test_damage_found_on_schedule_is_an_error_in_the_log_and_a_metric(watched: Registry, tmp_path: Path) -> None:
    assert watched.log is not None
    with lorahub.Hub(watched.url, token=watched.token) as hub:
        hub.push(write_adapter(tmp_path / "adapter"), "owner/adapter")
    key = watched.objects.list("blobs/")[0]
    content = watched.objects.read(key)
    watched.objects.write(key, b"x" + content[1:])
    found = f"ERROR lorahub stored bytes are damaged, and not served any more sha256={_digest(key)}"
    eventually(lambda: found in watched.log.read_text(), 60)
    again = "ERROR lorahub 1 stored files are damaged: lorahub admin scrub names them"
    eventually(lambda: watched.log.read_text().count(again) > 1, 60)
    assert watched.log.read_text().count(found) == 1
    assert _metric(watched, "lorahub_damaged_blobs") == 1
    examined = {one["subject"]: one["level"] for one in watched.admin_command("doctor")["observations"]}
    assert examined["stored bytes"] == "error"
    with watched.client() as client:
        assert client.get("/admin.json").json()["damagedBlobs"] == 1
    watched.objects.write(key, content)
    sound = f"WARNING lorahub stored bytes that were damaged are sound again sha256={_digest(key)}"
    eventually(lambda: sound in watched.log.read_text(), 60)


def _metric(registry: Registry, name: str) -> float:
    text = httpx2.get(f"http://{registry.settings['LORAHUB_METRICS_ADDRESS']}/metrics").text
    [family] = [family for family in text_string_to_metric_families(text) if family.name == name]
    return family.samples[0].value


def _digest(key: str) -> str:
    return key.rpartition("/")[2].partition("-")[0]
