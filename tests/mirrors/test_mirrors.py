"""Mirrors: a worker brings what another hub has. Another registry stands for that hub, whose protocol it speaks."""

import gzip
import http.server
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import wire
from builders import lora_config, lora_weights
from corpus import file_kinds as corpus
from lorahub.protocol.digests import git_blob_sha1
from registry_process import LORAHUB, Registry, eventually

pytestmark = pytest.mark.xdist_group("mirrors")

V1 = "/api/lorahub/v1"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    running = Registry(tmp_path_factory.mktemp("hub")).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A hub that says whatever a file in its folder says."""
    folder = tmp_path_factory.mktemp("liar")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def here(hub: Registry, liar: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that may call both and where the hub keeps its bytes, and looks for new commits every second."""
    called = [hub.url, liar[1], hub.settings.get("LORAHUB_STORAGE_ENDPOINT") or hub.url]
    internal = [address.removeprefix("http://") for address in called]
    settings = {
        "LORAHUB_WORKER": "true",
        "LORAHUB_MIRROR_INTERVAL": "PT1S",
        "LORAHUB_OUTBOUND_INTERNAL": json.dumps(internal),
    }
    running = Registry(tmp_path_factory.mktemp("here"), settings).start()
    with running.client() as client:
        wire.require(client.post(f"{V1}/organisations", json={"name": "acme"}))
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def cli(here: Registry, tmp_path: Path) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        environment = {"LORAHUB_ENDPOINT": here.url, "LORAHUB_TOKEN": here.token, "LORAHUB_HOME": str(tmp_path)}
        result = subprocess.run(
            [LORAHUB, *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )
        assert result.stdout, result.stderr
        return json.loads(result.stdout)

    return run


def push(hub: Registry, repo: str, seed: int, **more: bytes) -> tuple[str, bytes]:
    """The commit, and the weights."""
    weights = lora_weights(seed=seed)
    with hub.client() as client:
        if client.get(f"/api/models/{repo}").status_code == 404:
            wire.create_repo(client, repo)
        wire.upload(client, repo, weights)
        lines = [
            wire.uploaded("adapter_model.safetensors", weights),
            wire.inline("adapter_config.json", json.dumps(lora_config()).encode()),
            *(wire.inline(path, content) for path, content in more.items()),
        ]
        return str(wire.require(wire.commit(client, repo, lines)).json()["commitOid"]), weights


def add(here: Registry, endpoint: str, source: str, target: str, token: str | None = "", **more: Any) -> Any:
    body = {"endpoint": endpoint, "repository": source, "target": target, **more}
    with here.client(token) as client:
        return client.post(f"{V1}/mirrors", json=body)


def mirror(here: Registry, target: str) -> dict[str, Any]:
    with here.client() as client:
        [found] = [one for one in client.get(f"{V1}/mirrors").json() if one["target"] == target]
    return dict(found)


def forget(here: Registry, target: str) -> None:
    with here.client() as client:
        wire.require(client.delete(f"{V1}/mirrors/{mirror(here, target)['id']}"))


def versions(here: Registry, repo: str) -> list[str]:
    with here.client() as client:
        answer = client.get(f"{V1}/models/{repo}/versions")
        return [one["name"] for one in answer.json()] if answer.status_code == 200 else []


def test_a_repository_follows_the_hub_commit_by_commit(here: Registry, hub: Registry, cli: Callable[..., Any]) -> None:
    first, weights = push(hub, "owner/followed", 1, empty=b"", NOTES=b"first\n")
    made = cli("mirror", "add", "acme", "owner/followed", "--from", hub.url, "--private")
    assert made["ok"], made
    eventually(lambda: versions(here, "acme/followed") == ["v1"], 30)
    with here.client() as client, here.client(None) as anyone, hub.client() as remote:
        assert wire.files(client, "acme/followed", "v1") == wire.files(remote, "owner/followed", first)
        assert wire.files(client, "acme/followed", "latest")["adapter_model.safetensors"] == wire.sha256(weights)
        assert anyone.get("/api/models/acme/followed").status_code == 404
        said = client.get(f"{V1}/models/acme/followed/revisions/v1").json()
        assert said["origin"] == {"endpoint": hub.url, "repository": "owner/followed", "commit": first}
        assert said["message"] == f"Mirror {hub.url}/owner/followed@{first}"
        etag = client.head("/acme/followed/resolve/v1/NOTES").headers["ETag"]
        assert etag == remote.head(f"/owner/followed/resolve/{first}/NOTES").headers["ETag"]
        [published] = [
            row
            for row in client.get(f"{V1}/audit").json()
            if (row["action"], row["subject"]) == ("revision.publish", "acme/followed")
        ]
        assert published["actor"] == here.admin
    assert f"mirrored from {hub.url}/owner/followed@{first}" in _info(here, "acme/followed@v1")

    _, newer = push(hub, "owner/followed", 2)
    with hub.client() as remote:
        gone = {"key": "deletedFile", "value": {"path": "NOTES"}}
        second = wire.commit(remote, "owner/followed", [gone]).json()["commitOid"]
    eventually(lambda: mirror(here, "acme/followed")["commit"] == second, 30)
    with here.client() as client:
        files = wire.files(client, "acme/followed", "latest")
        assert files["adapter_model.safetensors"] == wire.sha256(newer)
        assert "NOTES" not in files
    assert cli("mirror", "ls")["result"][0]["error"] is None


def _info(here: Registry, reference: str) -> str:
    environment = {**os.environ, "LORAHUB_ENDPOINT": here.url, "LORAHUB_TOKEN": here.token}
    shown = subprocess.run([LORAHUB, "info", reference], capture_output=True, text=True, check=True, env=environment)
    return shown.stdout


def test_a_commit_is_published_once_however_often_it_is_looked_at(here: Registry, hub: Registry) -> None:
    commit, _ = push(hub, "owner/once", 3)
    assert add(here, hub.url, "owner/once", "acme/once").status_code == 200
    eventually(lambda: mirror(here, "acme/once")["commit"] == commit, 30)
    for _ in range(2):
        with here.database() as database:  # as if the worker had died before it wrote down what it had published
            database.exec_driver_sql("UPDATE mirrors SET remote_commit = NULL, version = NULL WHERE name = 'once'")
            database.exec_driver_sql("DELETE FROM revision_origins")
        before = mirror(here, "acme/once")["checkedAt"]
        with here.client() as client:
            run = client.post(f"{V1}/mirrors/{mirror(here, 'acme/once')['id']}/run")
            assert run.status_code == 200
        eventually(lambda before=before: mirror(here, "acme/once")["checkedAt"] != before, 30)
        eventually(lambda: mirror(here, "acme/once")["version"] == "v1", 30)
    with here.client() as client:
        assert len(client.get("/api/models/acme/once/commits/main").json()) == 2, "the first one, and the mirror's"


def test_bytes_that_are_not_what_the_hub_says_are_not_published(here: Registry, hub: Registry) -> None:
    _, weights = push(hub, "owner/decayed", 4)
    [key] = [key for key in hub.objects.list("blobs/") if wire.sha256(weights) in key]
    hub.objects.write(key, bytes([*weights[:-1], weights[-1] ^ 1]))
    assert add(here, hub.url, "owner/decayed", "acme/decayed").status_code == 200
    eventually(lambda: mirror(here, "acme/decayed")["error"], 30)
    assert mirror(here, "acme/decayed")["error"].startswith("DigestMismatch: adapter_model.safetensors")
    assert versions(here, "acme/decayed") == []
    forget(here, "acme/decayed")


def test_a_hub_that_names_our_private_bytes_does_not_get_them_published(here: Registry, liar: tuple[Path, str]) -> None:
    folder, url = liar
    secret = lora_weights(seed=5)
    with here.client() as client:
        wire.create_repo(client, "owner/secret", private=True)
        wire.upload(client, "owner/secret", secret)
        wire.commit(client, "owner/secret", [wire.uploaded("w.safetensors", secret)])
    stolen = {"rfilename": "w.safetensors", "size": len(secret), "lfs": {"sha256": wire.sha256(secret)}}
    listing = folder / "api/models/evil/thief/revision/main"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"sha": "a" * 40, "siblings": [stolen]}))
    assert add(here, url, "evil/thief", "acme/stolen").status_code == 200
    eventually(lambda: mirror(here, "acme/stolen")["error"], 30)
    assert "answers 404" in mirror(here, "acme/stolen")["error"]
    with here.client() as client:
        assert "w.safetensors" not in wire.files(client, "acme/stolen")
    forget(here, "acme/stolen")


def test_pickles_and_by_products_are_left_and_named_and_all_else_is_brought(
    here: Registry, liar: tuple[Path, str]
) -> None:
    folder, url = liar
    commit = "c" * 40
    files = {
        "adapter_model.safetensors": lora_weights(seed=12),
        "adapter_config.json": json.dumps(lora_config()).encode(),
        "lfs.bin": b"a text, whatever its name says",
        "samples.zip": corpus.ordinary()["notes.zip"],
        "sly.bin": corpus.pickles()["code, protocol 0"],
        "large.bin": corpus.pickles()["code, protocol 4"] + bytes(2_000_000),
        "adapter_model.bin": b"never fetched",
        "training_args.bin": b"never fetched",
    }
    listed = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
    for file, content in zip(listed, files.values(), strict=True):
        file["blobId"] = git_blob_sha1(content)
    corpus.written(folder / "evil/mixed/resolve" / commit, {path: files[path] for path in list(files)[:-2]})
    listing = folder / "api/models/evil/mixed/revision/main"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"sha": commit, "siblings": listed}))
    assert add(here, url, "evil/mixed", "acme/mixed").status_code == 200
    eventually(lambda: mirror(here, "acme/mixed")["commit"] == commit, 30)
    with here.client() as client:
        brought = {"adapter_model.safetensors", "adapter_config.json", "lfs.bin", "samples.zip"}
        assert set(wire.files(client, "acme/mixed", "v1")) == brought
        [said, *_] = client.get("/api/models/acme/mixed/commits/main").json()
    left = "left, as pickles and by-products of training: adapter_model.bin, training_args.bin, sly.bin, large.bin"
    assert said["message"] == left
    forget(here, "acme/mixed")


def test_a_private_repository_is_brought_with_a_token_that_nobody_sees(
    here: Registry, hub: Registry, cli: Callable[..., Any], tmp_path: Path
) -> None:
    with hub.client() as client:
        wire.create_repo(client, "owner/guarded", private=True)
    commit, _ = push(hub, "owner/guarded", 31)
    secret = tmp_path / "token"
    secret.write_text(f"{hub.token}\n")
    added = ("mirror", "add", "acme", "owner/guarded@main=kept", "--from", hub.url, "--hub-token-file")
    [made] = cli(*added, str(secret))["result"]
    assert (made["target"], made["has_token"]) == ("acme/kept", True)
    eventually(lambda: mirror(here, "acme/kept")["commit"] == commit, 30)
    assert cli("mirror", "show", str(made["id"]))["result"][0]["version"] == "v1"

    with here.client() as client:
        told = client.get(f"{V1}/mirrors").text + client.get(f"{V1}/audit").text
    rows = "".join(str(row) for table in ("mirrors", "audit_events") for row in here.sql(f"SELECT * FROM {table}"))
    assert hub.token not in told + rows
    place = tmp_path / "backup"
    here.admin_command("backup", str(place))
    kept = b"".join(gzip.decompress(path.read_bytes()) for path in place.rglob("*.gz"))
    assert hub.token.encode() not in kept

    assert not cli("mirror", "token", str(made["id"]))["result"][0]["has_token"]
    eventually(lambda: "answers 40" in (mirror(here, "acme/kept")["error"] or ""), 30)
    with here.database() as database:  # as after a restore under another secret, or where a row leads to another hub
        sealed = sqlalchemy.text("UPDATE mirrors SET sealed_token = :sealed WHERE name = 'kept'")
        database.execute(sealed, {"sealed": b"what somebody else has sealed"})
    eventually(lambda: "give it again" in mirror(here, "acme/kept")["error"], 30)
    cli("mirror", "token", str(made["id"]), "--hub-token-file", str(secret))
    cli("mirror", "resume", str(made["id"]))
    eventually(lambda: mirror(here, "acme/kept")["error"] is None, 30)
    forget(here, "acme/kept")


def test_what_fails_is_tried_later_each_time_and_pauses_when_told(
    here: Registry, hub: Registry, cli: Callable[..., Any]
) -> None:
    assert add(here, hub.url, "owner/nowhere", "acme/nowhere").status_code == 200
    eventually(lambda: mirror(here, "acme/nowhere")["failures"] >= 3, 30)
    seen = mirror(here, "acme/nowhere")
    pauses = [time_of(seen["nextTryAt"]) - time_of(seen["checkedAt"])]
    assert pauses[0] >= timedelta(seconds=2 ** (seen["failures"] - 1) - 1)
    paused = cli("mirror", "pause", str(seen["id"]))["result"][0]
    assert paused["paused"]
    with here.database() as database:  # its time has come, and it stays as it is
        database.exec_driver_sql("UPDATE mirrors SET next_try_at = NULL WHERE name = 'nowhere'")
    before = mirror(here, "acme/nowhere")["checkedAt"]
    time.sleep(3)
    assert mirror(here, "acme/nowhere")["checkedAt"] == before
    commit, _ = push(hub, "owner/nowhere", 32)
    cli("mirror", "run", str(seen["id"]))  # whoever asks is answered all the same
    eventually(lambda: mirror(here, "acme/nowhere")["commit"] == commit, 30)
    assert (mirror(here, "acme/nowhere")["failures"], mirror(here, "acme/nowhere")["nextTryAt"]) == (0, None)
    assert not cli("mirror", "resume", str(seen["id"]))["result"][0]["paused"]
    newer, _ = push(hub, "owner/nowhere", 33)
    eventually(lambda: mirror(here, "acme/nowhere")["commit"] == newer, 30)
    forget(here, "acme/nowhere")


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)


BAD_LISTINGS: dict[str, Any] = {
    "no commit": {"sha": "main", "siblings": []},
    "no files": {"sha": "a" * 40},
    "a path out": {"sha": "a" * 40, "siblings": [{"rfilename": "../x", "size": 1, "blobId": "0" * 40}]},
    "a file that is a folder": {
        "sha": "a" * 40,
        "siblings": [{"rfilename": name, "size": 1, "blobId": "0" * 40} for name in ("a", "a/b")],
    },
    "a negative size": {"sha": "a" * 40, "siblings": [{"rfilename": "x", "size": -1, "blobId": "0" * 40}]},
    "no digest": {"sha": "a" * 40, "siblings": [{"rfilename": "x", "size": 1}]},
    "a list": [],
}


def test_a_listing_that_can_not_be_is_refused(here: Registry, liar: tuple[Path, str]) -> None:
    folder, url = liar
    for number, body in enumerate(BAD_LISTINGS.values()):
        listing = folder / f"api/models/evil/bad{number}/revision/main"
        listing.parent.mkdir(parents=True)
        listing.write_text(json.dumps(body))
        assert add(here, url, f"evil/bad{number}", f"acme/bad{number}").status_code == 200
    for number, what in enumerate(BAD_LISTINGS):
        eventually(lambda number=number: mirror(here, f"acme/bad{number}")["error"], 60)
        with here.client() as client:
            assert client.get(f"/api/models/acme/bad{number}").status_code == 404, what
        forget(here, f"acme/bad{number}")


def test_nothing_that_is_here_is_overwritten(here: Registry, hub: Registry) -> None:
    with here.client() as client:
        wire.create_repo(client, "acme/taken")
        wire.commit(client, "acme/taken", [wire.inline("a.txt", b"ours")])
    refused = add(here, hub.url, "owner/any", "acme/taken")
    assert (refused.status_code, refused.json()["code"]) == (409, "AlreadyExists")
    push(hub, "owner/late", 6)
    with here.client() as client:  # it is taken between the wish and the run
        wire.create_repo(client, "acme/late")
        assert add(here, hub.url, "owner/absent", "acme/late").status_code == 200
        wire.commit(client, "acme/late", [wire.inline("a.txt", b"ours")])
        with here.database() as database:
            database.exec_driver_sql("UPDATE mirrors SET source = 'owner/late' WHERE name = 'late'")
        eventually(lambda: "AlreadyExists" in (mirror(here, "acme/late")["error"] or ""), 30)
        assert wire.files(client, "acme/late")["a.txt"] == wire.sha256(b"ours")
    assert add(here, hub.url, "owner/other", "acme/late").status_code == 409


def test_who_may_not_manage_the_namespace_any_more_mirrors_no_more(here: Registry, hub: Registry) -> None:
    commit, _ = push(hub, "owner/left", 7)
    eva = here.add_user("eva")
    with here.client() as client:
        wire.require(client.put(f"{V1}/organisations/acme/members/eva", json={"role": "admin"}))
    assert add(here, hub.url, "owner/left", "acme/left", token=eva).status_code == 200
    eventually(lambda: mirror(here, "acme/left")["commit"] == commit, 30)
    with here.client() as client:
        client.delete(f"{V1}/organisations/acme/members/eva")
    push(hub, "owner/left", 8)
    eventually(lambda: mirror(here, "acme/left")["error"], 30)
    assert mirror(here, "acme/left")["error"].startswith("NotPermitted")
    assert versions(here, "acme/left") == ["v1"]


def test_it_is_off_unless_an_operator_names_the_hub(registry: Registry, here: Registry, hub: Registry) -> None:
    off = add(registry, hub.url, "owner/followed", f"{registry.admin}/mirrored")
    assert (off.status_code, off.json()["code"]) == (501, "NotSupported")
    assert "calls no other host" in off.json()["error"]
    for endpoint in (
        "http://127.0.0.1:1",
        "https://huggingface.co",
        "http://[::1]/",
        f"{hub.url}/?x=1",
        "file:///etc",
        f"http://hub.test@{hub.url.removeprefix('http://')}",
    ):
        assert add(here, endpoint, "owner/x", "acme/x").status_code in (400, 403), endpoint
