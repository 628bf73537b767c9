"""fsck finds what is broken, and a collector takes what is unreferenced and nothing else."""

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wire
from builders import lora_weights
from registry_process import LORAHUB, Registry


@pytest.fixture
def filled(own_registry: Registry) -> Registry:
    """One repository with weights; the server is stopped."""
    content = lora_weights(seed=5)
    with own_registry.client() as client:
        repo = wire.create_repo(client, "owner/filled")
        wire.upload(client, repo, content)
        wire.commit(client, repo, [wire.uploaded("w.safetensors", content), wire.version("latest")])
    own_registry.stop()
    return own_registry


def weights_file(registry: Registry) -> Path:
    [found] = (registry.home / "storage" / "blobs").rglob(f"{wire.sha256(lora_weights(seed=5))}-*")
    return found


@contextmanager
def rows(registry: Registry) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(registry.home / "registry.db")
    database.execute("PRAGMA foreign_keys=OFF")
    with database:
        yield database
    database.close()


def problems(registry: Registry, *flags: str) -> list[str]:
    report = registry.admin_command("fsck", *flags)
    assert report["ok"] == (not report["problems"])
    return list(report["problems"])


def test_a_sound_registry_has_no_problems(filled: Registry) -> None:
    assert problems(filled, "--deep") == []


def test_a_flipped_bit_is_found_by_a_deep_check(filled: Registry) -> None:
    path = weights_file(filled)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert problems(filled) == []
    [problem] = problems(filled, "--deep")
    assert "the stored bytes have the sha256" in problem


def test_a_missing_and_a_short_object_are_found(filled: Registry) -> None:
    path = weights_file(filled)
    path.write_bytes(path.read_bytes()[:-1])
    [problem] = problems(filled)
    assert "bytes recorded" in problem
    path.unlink()
    [problem] = problems(filled)
    assert "nothing stored" in problem


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("DELETE FROM blobs WHERE size > 1000", "which has no row"),
        (
            "UPDATE refs SET commit_id = 'f000000000000000000000000000000000000000' WHERE name = 'v1'",
            "which is no commit",
        ),
        ("UPDATE commit_files SET path = 'x' WHERE path = 'w.safetensors'", "its files have the digest"),
        ("DELETE FROM refs WHERE name = 'main'", "it has no branch main"),
        ("DELETE FROM ref_moves WHERE name = 'latest'", "is not where its log says"),
        ("DELETE FROM audit_events WHERE action = 'revision.publish'", "no audit row names it"),
        ("DELETE FROM commits WHERE parent_id IS NULL", "is missing"),
    ],
)
def test_each_broken_invariant_is_reported(filled: Registry, damage: str, says: str) -> None:
    with rows(filled) as database:
        database.execute(damage)
    found = problems(filled)
    assert any(says in problem for problem in found), found


def test_fsck_exits_with_7_and_says_how_many_for_people(filled: Registry) -> None:
    weights_file(filled).unlink()
    result = subprocess.run(
        [LORAHUB, "admin", "fsck", "--home", str(filled.home)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 7
    assert "1 problems" in result.stdout


def test_the_collector_takes_what_nothing_refers_to(filled: Registry) -> None:
    path = weights_file(filled)
    stray = filled.home / "storage" / "staging" / ("0" * 32) / "whole"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"left by a crash")
    would = filled.admin_command("gc", "--grace-hours", "0", "--dry-run")
    assert (would["objects"], would["blobs"]) == (1, 0)
    assert stray.exists()
    filled.admin_command("gc", "--grace-hours", "0")
    assert not stray.exists()
    assert path.exists()
    filled.start()
    with filled.client() as client:
        client.request("DELETE", "/api/repos/delete", json={"name": "filled"})
    kept = filled.admin_command("gc")
    assert kept["blobs"] == 0, "a blob was taken before its grace was over"
    taken = filled.admin_command("gc", "--grace-hours", "0")
    assert taken["blobs"] >= 1
    assert not path.exists()
    filled.assert_sound()
