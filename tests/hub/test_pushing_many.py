"""A push of many small files: what crosses the wire, in what portions, what is seen of it, and what comes of it."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import lorahub
import pytest
import wire
from huggingface_hub import HfApi
from lorahub.hub import upload
from lorahub.hub.progress import JsonLines
from registry_process import Registry
from services.counting_proxy import counting_proxy

COUNT, SIZE = 1200, 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("many")
    for number in range(COUNT):
        path = made / f"d{number % 40}" / f"f{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(os.urandom(SIZE // 2).hex())
    (made / "empty.txt").touch()
    return made


def content_of(folder: Path) -> dict[str, str]:
    """Path → sha256."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): wire.sha256(path.read_bytes()) for path in found}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that, like many a proxy, takes no body of the size of them all."""
    limits = {"INLINE_FILE_BYTES": 100_000, "COMMIT_LINE_BYTES": 200_000, "COMMIT_BODY_BYTES": 800_000}
    settings = {f"LORAHUB_{limit}": str(size) for limit, size in limits.items()}
    running = Registry(tmp_path_factory.mktemp("narrow"), settings).start()
    yield running
    running.stop()
    running.assert_sound()


def test_many_files_come_in_portions_and_only_those_that_changed_come_again(
    narrow: Registry, folder: Path, tmp_path: Path
) -> None:
    with counting_proxy(narrow.url) as (url, passed), lorahub.Hub(url, token=narrow.token) as hub:
        first = hub.push(folder, "owner/many")
        assert (first.version, first.created) == ("v1", True)
        once = passed()
        (folder / "d0" / "f0.txt").write_text("changed")
        second = hub.push(folder, "owner/many")
        assert second.version == "v2"
        assert passed() - once < once / 2, "files that had not changed were sent again"
        pulled = hub.pull("owner/many", tmp_path / "pulled").path
    assert content_of(pulled) == content_of(folder)
    with narrow.client() as client:
        assert wire.files(client, "owner/many") == content_of(folder)
        listed = client.get("/api/models/owner/many/tree/main?recursive=true").json()
        assert not any("lfs" in file for file in listed)
    assert narrow.sql("SELECT count(*) FROM uploads") == [(0,)], "a lease was left"


def test_it_is_seen_from_the_beginning_and_to_the_end(registry: Registry, user: tuple[str, str], folder: Path) -> None:
    name, token = user
    told = io.StringIO()
    with redirect_stderr(told), lorahub.Hub(registry.url, token=token, progress=JsonLines()) as hub:
        hub.push(folder, f"{name}/seen")
    events = [json.loads(line) for line in told.getvalue().splitlines()]
    phases = {event["what"]: event["total"] for event in events if event["event"] == "begin"}
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert phases == {"Hashing": total, f"Pushing {name}/seen": total}
    ends = [event for event in events if event["event"] == "end"]
    assert all(event["bytes"] == event["total"] for event in ends)


def test_what_is_sent_ahead_waits_for_the_commit_that_names_it(own_registry: Registry) -> None:
    with lorahub.Hub(own_registry.url, token=own_registry.token) as hub:
        hub.create("owner/broken")
    with own_registry.client() as client:
        body = b'{"key": "header", "value": {"summary": ""}}\n' + json.dumps(wire.inline("x.txt", b"ahead")).encode()
        sent = client.post("/api/lorahub/v1/models/owner/broken/files/main", content=body, headers=upload.NDJSON)
        assert (sent.status_code, sent.json()) == (200, {"kept": 1})
        named = {"key": "file", "value": {"path": "x.txt", "oid": wire.sha256(b"ahead"), "size": 5}}
        wrong = {"key": "file", "value": {"path": "x.txt", "oid": wire.sha256(b"ahead"), "size": 6}}
        other = {"key": "file", "value": {"path": "x.txt", "oid": wire.sha256(b"never sent")}}
        assert wire.commit(client, "owner/broken", [wrong]).status_code == 422
        assert wire.commit(client, "owner/broken", [other]).json()["code"] == "BlobNotFound"
        stored = len(own_registry.objects.list())
        assert client.post("/api/lorahub/v1/models/owner/broken/files/main", content=body).json() == {"kept": 1}
        assert len(own_registry.objects.list()) == stored, "what had arrived was stored again"
        wire.require(wire.commit(client, "owner/broken", [named]))
        assert client.get("/owner/broken/resolve/main/x.txt").content == b"ahead"
    own_registry.assert_sound()


def test_bytes_of_others_are_not_taken_by_their_digest(
    registry: Registry, user: tuple[str, str], new_user: object
) -> None:
    secret = os.urandom(40)
    with registry.client(user[1]) as client:
        private = wire.create_repo(client, f"{user[0]}/secret-many", private=True)
        wire.require(wire.commit(client, private, [wire.inline("secret.txt", secret)]))
    thief, token = new_user()  # type: ignore[operator]
    with registry.client(token) as client:
        own = wire.create_repo(client, f"{thief}/loot-many")
        stolen = {"key": "file", "value": {"path": "x.txt", "oid": wire.sha256(secret), "size": len(secret)}}
        assert wire.commit(client, own, [stolen]).json()["code"] == "BlobNotFound"


def test_the_hubs_client_pushes_many_files(registry: Registry, user: tuple[str, str], folder: Path) -> None:
    name, token = user
    api = HfApi(endpoint=registry.url, token=token)
    api.create_repo(f"{name}/stock")
    api.upload_folder(repo_id=f"{name}/stock", folder_path=folder)
    with registry.client(token) as client:
        found = wire.files(client, f"{name}/stock")
    assert {path: digest for path, digest in found.items() if path != ".gitattributes"} == content_of(folder)


def test_a_damaged_file_is_healed_by_pushing_the_folder_again(own_registry: Registry, folder: Path) -> None:
    with lorahub.Hub(own_registry.url, token=own_registry.token) as hub:
        hub.push(folder, "owner/healed")
        with own_registry.client() as client:
            digest = wire.files(client, "owner/healed")["d3/f3.txt"]
        [key] = [key for key in own_registry.objects.list("blobs/") if digest in key]
        own_registry.objects.write(key, b"x" * SIZE)
        own_registry.admin_command("scrub")
        hub.push(folder, "owner/healed", message="a good copy")
        with own_registry.client() as client:
            served = client.get("/owner/healed/resolve/main/d3/f3.txt")
    assert served.content == (folder / "d3" / "f3.txt").read_bytes()
    own_registry.admin_command("gc", "--grace-hours", "0")
    own_registry.assert_sound()
