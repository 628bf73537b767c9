"""Scrubs: decay of stored bytes is found, said, and forgotten when it is repaired."""

from pathlib import Path

import lorahub
import pytest
from builders import write_adapter
from registry_process import Registry


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


def _digest(key: str) -> str:
    return key.rpartition("/")[2].partition("-")[0]
