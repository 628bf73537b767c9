"""A registry is copied while it is written to, and made again from the copy: on any database, on any storage."""

import gzip
import json
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import wire
from builders import lora_weights
from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.migrate import upgrade
from registry_process import Registry
from services import production


def in_production() -> dict[str, str]:
    """A new PostgreSQL database and a new bucket."""
    return {
        "LORAHUB_DATABASE_URL": production.postgres().new_database(),
        **production.storage_settings(production.s3()),
    }


def restored(place: str, home: Path, settings: Mapping[str, str] | None = None) -> Registry:
    """A registry of the newest backup, proved sound and started."""
    made = Registry(home, settings or {})
    report = made.admin_command("restore", place)
    assert report["ok"], report
    assert report["is_deep"]
    return made.start()


def everything(registry: Registry, token: str) -> dict[str, Any]:
    """What the registry says of itself, and the sha256 of every byte that it serves."""
    with registry.client(token) as client:
        told: dict[str, Any] = {"whoami": client.get("/api/whoami-v2").json()["name"]}
        for row in client.get("/api/models", params={"full": "true"}).json():
            repo = row["id"]
            model = client.get(f"/api/models/{repo}").json()
            told[repo] = {
                "model": {**model, "downloads": 0, "downloadsAllTime": 0},  # this function downloads
                "log": client.get(f"/api/lorahub/v1/models/{repo}/ref-log").json(),
                "versions": client.get(f"/api/lorahub/v1/models/{repo}/versions").json(),
                "aliases": client.get(f"/api/lorahub/v1/models/{repo}/aliases").json(),
                "check": client.get(f"/api/lorahub/v1/models/{repo}/check/main").json(),
                "files": {
                    path: wire.sha256(client.get(f"/{repo}/resolve/main/{path}").content)
                    for path in wire.files(client, repo)
                },
            }
        return told


def fill(registry: Registry) -> None:
    """Repositories of several accounts, versions, aliases, a yank, a base, a like."""
    token = registry.add_user("someone")
    with registry.client() as admin, registry.client(token) as other:
        for number, client in enumerate((admin, admin, other)):
            owner = "owner" if client is admin else "someone"
            repo = wire.create_repo(client, f"{owner}/adapter{number}", private=number == 1)
            for seed in (number, 40 + number):
                content = lora_weights(seed=seed)
                wire.upload(client, repo, content)
                lines = [wire.uploaded("w.safetensors", content), wire.inline("README.md", b"# \xe2\x9c\x93 %d" % seed)]
                assert wire.commit(client, repo, [*lines, wire.version("latest")]).status_code == 200
            client.put(f"/api/lorahub/v1/models/{repo}/aliases/best", json={"revision": "v1", "protected": True})
            client.post(f"/api/lorahub/v1/models/{repo}/versions/v2/yank", json={"reason": "wrong data"})
        base = {"names": ["acme/tiny"], "layout": "lorahub-base-layout-v1\nw\tF32\t4,4\n"}
        assert admin.post("/api/lorahub/v1/bases", json=base).status_code == 200


@contextmanager
def writing(registry: Registry, writers: int) -> Iterator[list[tuple[str, str, str]]]:
    """Pushes all the while; the list grows by (repository, commit, sha256) with each acknowledgement."""
    acknowledged: list[tuple[str, str, str]] = []
    stop = threading.Event()

    def write(number: int) -> None:
        with registry.client() as client:
            repo, turn = wire.create_repo(client, f"owner/writer{number}"), 0
            while not stop.is_set():
                content = lora_weights(seed=1000 * number + turn)
                wire.upload(client, repo, content)
                made = wire.commit(client, repo, [wire.uploaded("w.safetensors", content)], title=f"turn {turn}")
                assert made.status_code == 200, made.text
                acknowledged.append((repo, made.json()["commitOid"], wire.sha256(content)))
                turn += 1

    with ThreadPoolExecutor(writers) as pool:
        jobs = [pool.submit(write, number) for number in range(writers)]
        while len(acknowledged) < 2 * writers:
            assert not any(job.done() for job in jobs)
        try:
            yield acknowledged
        finally:
            stop.set()
        for job in jobs:
            job.result()


def test_what_was_acknowledged_before_a_backup_is_in_it(own_registry: Registry, tmp_path: Path) -> None:
    """Four writers push while it runs, and a collector gives no grace."""
    place = str(tmp_path / "place")
    with writing(own_registry, 4) as acknowledged:
        before = list(acknowledged)
        made = own_registry.admin_command("backup", place)
        during = len(acknowledged) - len(before)
        own_registry.admin_command("gc", "--grace-hours", "0")
    assert made["ok"]
    assert during > 0, "nobody wrote while the backup ran"
    again = restored(place, tmp_path / "again")
    with again.client(own_registry.token) as client:
        for repo, commit, digest in before:
            assert wire.sha256(client.get(f"/{repo}/resolve/{commit}/w.safetensors").content) == digest
    again.stop()
    again.assert_sound()


def test_an_embedded_registry_moves_to_postgres_and_s3_and_back(own_registry: Registry, tmp_path: Path) -> None:
    fill(own_registry)
    before = everything(own_registry, own_registry.token)
    assert len(before) == 4
    folder = str(tmp_path / "place")
    own_registry.admin_command("backup", folder)

    large = restored(folder, tmp_path / "large", in_production())
    assert everything(large, own_registry.token) == before
    with large.client(own_registry.token) as client:  # ids go on behind the ones that were brought
        repo = wire.create_repo(client, "owner/later")
        assert wire.commit(client, repo, [wire.inline("a.txt", b"a"), wire.version("latest")]).status_code == 200
        assert client.post("/api/lorahub/v1/tokens", json={"name": "new", "scope": "read"}).status_code == 200
    moved = everything(large, own_registry.token)
    bucket = f"s3://{production.s3().new_bucket()}/backups"
    made = large.admin_command("backup", bucket)
    [listed] = large.admin_command("backups", bucket)
    assert (listed["id"], listed["blobs"]) == (made["id"], made["copied"])
    large.stop()

    access = {key: value for key, value in large.settings.items() if key.startswith("AWS_")}
    small = Registry(tmp_path / "small", access)
    report = small.admin_command("restore", bucket, "--endpoint", production.s3().endpoint)
    assert report["ok"], report
    small.start()
    assert everything(small, own_registry.token) == moved
    small.stop()


def test_a_second_backup_copies_what_is_new(own_registry: Registry, tmp_path: Path) -> None:
    fill(own_registry)
    place = str(tmp_path / "place")
    first = own_registry.admin_command("backup", place)
    assert first["copied"] == first["blobs"]
    with own_registry.client() as client:
        wire.commit(client, "owner/adapter0", [wire.inline("new.txt", b"new")])
    second = own_registry.admin_command("backup", place)
    assert (second["blobs"], second["copied"]) == (first["blobs"] + 1, 1)
    assert [made["id"] for made in own_registry.admin_command("backups", place)] == [second["id"], first["id"]]

    older = Registry(tmp_path / "older")
    assert older.admin_command("restore", place, "--id", first["id"])["ok"]
    older.start()
    with older.client(own_registry.token) as client:
        assert "new.txt" not in wire.files(client, "owner/adapter0")
    older.stop()


def test_a_registry_that_has_anything_is_not_overwritten(own_registry: Registry, tmp_path: Path) -> None:
    fill(own_registry)
    before = everything(own_registry, own_registry.token)
    place = str(tmp_path / "place")
    own_registry.admin_command("backup", place)
    refused = own_registry.admin_command("restore", place)
    assert refused["error"]["code"] == "AlreadyExists"
    assert everything(own_registry, own_registry.token) == before


def _made_by(schema: str, place: Path, scratch: Path) -> None:
    """The backup becomes one of an older version: what that one's schema hasn't, it couldn't have written."""
    database = Database(f"sqlite:///{scratch / 'old.db'}")
    upgrade(database, to=schema)
    old = sqlalchemy.inspect(database.engine)
    [manifest] = place.rglob("manifest.json")
    said = json.loads(manifest.read_bytes())
    kept = [table for table in said["tables"] if old.has_table(table["name"])]
    for table in kept:
        [file] = place.rglob(f"{table['name']}.jsonl.gz")
        columns = {column["name"] for column in old.get_columns(table["name"])}
        rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        lines = [json.dumps({name: row[name] for name in row if name in columns}).encode() + b"\n" for row in rows]
        file.write_bytes(gzip.compress(b"".join(lines), mtime=0))
        table |= {"size": file.stat().st_size, "sha256": wire.sha256(file.read_bytes())}
    manifest.write_text(json.dumps({**said, "schema": schema, "tables": kept}))
    database.close()


def test_a_backup_of_an_older_version_is_brought_to_the_newest_schema(
    own_registry: Registry, backed_up: Path, tmp_path: Path
) -> None:
    before = everything(own_registry, own_registry.token)
    token = own_registry.token
    own_registry.stop()
    _made_by("0003", backed_up, tmp_path)
    restored_one = restored(str(backed_up), tmp_path / "clean", in_production())
    try:
        assert everything(restored_one, token) == before
        with restored_one.client(token) as client:
            repo = wire.create_repo(client, "owner/afterwards")
            assert wire.commit(client, repo, [wire.inline("a.txt", b"a"), wire.version()]).status_code == 200
        assert restored_one.admin_command("migrate", "--check")
    finally:
        restored_one.stop()
    restored_one.assert_sound()


# --- what isn't as it should be ---------------------------------------------------------------------------------------


@pytest.fixture
def backed_up(own_registry: Registry, tmp_path: Path) -> Path:
    fill(own_registry)
    own_registry.admin_command("backup", str(tmp_path / "place"))
    return tmp_path / "place"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _one(place: Path, pattern: str) -> Path:
    return min(place.rglob(pattern))


def _other_rows(place: Path) -> None:
    """Well-formed, of the right length even, but not what was written."""
    path = _one(place, "accounts.jsonl.gz")
    rows = gzip.decompress(path.read_bytes()).replace(b'"is_admin":false', b'"is_admin":true')
    path.write_bytes(gzip.compress(rows, mtime=0))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda place: _flip(_one(place, "commits.jsonl.gz")), "DigestMismatch"),
        (_other_rows, "DigestMismatch"),
        (lambda place: _one(place, "refs.jsonl.gz").unlink(), "DigestMismatch"),
        (lambda place: _flip(_one(place / "blobs", "*/*/*")), "DigestMismatch"),
        (lambda place: _one(place / "blobs", "*/*/*").unlink(), "DigestMismatch"),
        (lambda place: _one(place, "manifest.json").write_text("{}"), "DigestMismatch"),
        (lambda place: _one(place, "manifest.json").unlink(), "NotFound"),
    ],
)
def test_a_damaged_backup_makes_no_registry(backed_up: Path, tmp_path: Path, damage: Any, code: str) -> None:
    damage(backed_up)
    target = Registry(tmp_path / "target")
    assert target.admin_command("restore", str(backed_up))["error"]["code"] == code
    with target.database() as database:
        assert database.dialect.get_table_names(database) == []


def test_bytes_that_the_registry_had_lost_stay_lost_and_the_rest_is_served(
    own_registry: Registry, tmp_path: Path
) -> None:
    fill(own_registry)
    lost = wire.sha256(lora_weights(seed=0))
    [key] = [key for key in own_registry.objects.list("blobs/") if lost in key]
    own_registry.objects.delete(key)
    place = str(tmp_path / "place")
    made = own_registry.admin_command("backup", place)
    assert (made["ok"], made["damaged"]) == (False, [lost])

    again = Registry(tmp_path / "again")
    report = again.admin_command("restore", place)
    assert [lost in problem for problem in report["problems"]] == [True]
    again.start()
    with again.client(own_registry.token) as client:
        gone = client.get("/owner/adapter0/resolve/v1/w.safetensors")
        assert (gone.status_code, gone.headers["x-error-code"]) == (410, "BlobDamaged")
        good = client.get("/owner/adapter0/resolve/v2/w.safetensors").content
        assert good == lora_weights(seed=40)
    again.stop()


def test_nothing_is_collected_while_a_backup_holds(own_registry: Registry) -> None:
    from lorahub_registry.core.blobs.service import Hold
    from lorahub_registry.infrastructure.backend import Backend
    from lorahub_registry.settings import Settings

    with own_registry.client() as client:
        content = lora_weights(seed=3)
        repo = wire.create_repo(client, "owner/gone")
        wire.upload(client, repo, content)
        wire.commit(client, repo, [wire.uploaded("w.safetensors", content)])
        client.request("DELETE", "/api/repos/delete", json={"name": "gone"})
    with environment(own_registry.settings):
        backend = Backend.open(Settings(registry_home=own_registry.home))
    with Hold(backend):
        assert own_registry.admin_command("gc", "--grace-hours", "0")["blobs"] == 0
    backend.database.close()
    assert own_registry.admin_command("gc", "--grace-hours", "0")["blobs"] == 2


def test_the_hold_of_a_backup_that_was_killed_ends_by_itself(own_registry: Registry) -> None:
    with own_registry.client() as client:
        repo = wire.create_repo(client, "owner/gone")
        wire.commit(client, repo, [wire.inline("a.txt", b"only here")])
        client.request("DELETE", "/api/repos/delete", json={"name": "gone"})
    for until, collected in (("2999-01-01 00:00:00.000000", 0), ("2020-01-01 00:00:00.000000", 2)):
        with own_registry.database() as database:
            database.exec_driver_sql(f"UPDATE collection_hold SET until = '{until}'")
        assert own_registry.admin_command("gc", "--grace-hours", "0")["blobs"] == collected


def test_the_manifest_says_what_is_in_it(backed_up: Path, own_registry: Registry) -> None:
    said = json.loads(_one(backed_up, "manifest.json").read_text())
    assert said["format"] == "lorahub-backup-v1"
    for table in said["tables"]:
        content = _one(backed_up, f"{table['name']}.jsonl.gz").read_bytes()
        assert (len(content), wire.sha256(content)) == (table["size"], table["sha256"])
        assert gzip.decompress(content).count(b"\n") == table["rows"]
    assert "uploads" not in {table["name"] for table in said["tables"]}
    everywhere = b"".join(gzip.decompress(path.read_bytes()) for path in backed_up.rglob("*.gz"))
    assert own_registry.token.encode() not in everywhere


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """For code that runs in this process."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
