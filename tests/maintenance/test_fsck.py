"""fsck finds what is broken, and a collector takes what is unreferenced and nothing else."""

import os
import subprocess

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


def weights_key(registry: Registry) -> str:
    [found] = [key for key in registry.objects.list("blobs/") if wire.sha256(lora_weights(seed=5)) in key]
    return found


def damage_rows(registry: Registry, statement: str) -> None:
    """Past the foreign keys, as a broken disk or a hand in the database would."""
    with registry.database() as database:
        is_sqlite = database.dialect.name == "sqlite"
        database.exec_driver_sql("PRAGMA foreign_keys=OFF" if is_sqlite else "SET session_replication_role = replica")
        if is_sqlite:  # a replica of PostgreSQL asks no trigger
            database.exec_driver_sql("DROP TRIGGER audit_events_keeps_all")
        database.exec_driver_sql(statement)


def problems(registry: Registry, *flags: str) -> list[str]:
    report = registry.admin_command("fsck", *flags)
    assert report["ok"] == (not report["problems"])
    return list(report["problems"])


def test_a_sound_registry_has_no_problems(filled: Registry) -> None:
    assert problems(filled, "--deep") == []


def test_a_flipped_bit_is_found_by_a_deep_check(filled: Registry) -> None:
    key = weights_key(filled)
    content = bytearray(filled.objects.read(key))
    content[-1] ^= 1
    filled.objects.write(key, bytes(content))
    assert problems(filled) == []
    [problem] = problems(filled, "--deep")
    assert "the stored bytes have the sha256" in problem


def test_a_missing_and_a_short_object_are_found(filled: Registry) -> None:
    key = weights_key(filled)
    filled.objects.write(key, filled.objects.read(key)[:-1])
    [problem] = problems(filled)
    assert "bytes recorded" in problem
    filled.objects.delete(key)
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
        ("UPDATE commits SET size = size + 1", "bytes, recorded are"),
        ("DELETE FROM refs WHERE name = 'main'", "it has no branch main"),
        ("DELETE FROM ref_moves WHERE name = 'latest'", "is not where its log says"),
        ("DELETE FROM audit_events WHERE action = 'revision.publish'", "no audit row names it"),
        ("DELETE FROM commits WHERE parent_id IS NULL", "is missing"),
    ],
)
def test_each_broken_invariant_is_reported(filled: Registry, damage: str, says: str) -> None:
    damage_rows(filled, damage)
    found = problems(filled)
    assert any(says in problem for problem in found), found


def test_fsck_exits_with_7_and_says_how_many_for_people(filled: Registry) -> None:
    filled.objects.delete(weights_key(filled))
    result = subprocess.run(
        [LORAHUB, "admin", "fsck", "--home", str(filled.home)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **filled.settings},
    )
    assert result.returncode == 7
    assert "1 problems" in result.stdout


def test_the_collector_takes_what_nothing_refers_to(filled: Registry) -> None:
    key, stray = weights_key(filled), f"staging/{'0' * 32}/whole"
    filled.objects.write(stray, b"left by a crash")
    would = filled.admin_command("gc", "--grace-hours", "0", "--dry-run")
    assert (would["objects"], would["blobs"]) == (1, 0)
    assert stray in filled.objects.list()
    filled.admin_command("gc", "--grace-hours", "0")
    assert stray not in filled.objects.list()
    assert key in filled.objects.list()
    filled.start()
    with filled.client() as client:
        client.request("DELETE", "/api/repos/delete", json={"name": "filled"})
    kept = filled.admin_command("gc")
    assert kept["blobs"] == 0, "a blob was taken before its grace was over"
    taken = filled.admin_command("gc", "--grace-hours", "0")
    assert taken["blobs"] >= 1
    assert key not in filled.objects.list()
    filled.assert_sound()
