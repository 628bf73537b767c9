"""A registry on a bucket: weights go from the client to the storage and back, never through the registry."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import wire
from builders import lora_weights, weights_of_size, write_adapter
from registry_process import LORAHUB, Registry, eventually
from services import production
from services.counting_proxy import counting_proxy
from services.s3 import S3Server
from xet_wire import XetUpload, frame, segment, shard

pytestmark = pytest.mark.xdist_group("storage-addresses")

PART = 5 << 20
PARTS = {"LORAHUB_MULTIPART_THRESHOLD_BYTES": str(PART), "LORAHUB_PART_BYTES": str(PART)}


def on_bucket(home: Path, server: S3Server | None = None, **settings: str) -> Registry:
    return Registry(home, settings={**production.storage_settings(server or production.s3()), **PARTS, **settings})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    running = on_bucket(tmp_path_factory.mktemp("registry")).start()
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def repo(registry: Registry, user: tuple[str, str]) -> str:
    with registry.client(user[1]) as client:
        return wire.create_repo(client, f"{user[0]}/direct")


@pytest.fixture
def client(registry: Registry, user: tuple[str, str]) -> Iterator[httpx2.Client]:
    with registry.client(user[1]) as running:
        yield running


def origin(address: str) -> str:
    return "://".join(urlsplit(address)[:2])


def whole(client: httpx2.Client, repo: str, content: bytes) -> str:
    """The address for one object in one piece."""
    address = str(wire.batch(client, repo, content)["actions"]["upload"]["href"])
    assert origin(address) == production.s3().endpoint
    return address


def parts(client: httpx2.Client, repo: str, content: bytes) -> tuple[str, dict[int, str], list[int]]:
    """Where to say that all are there, the parts' addresses, and the numbers of those that are."""
    wanted = {"oid": wire.sha256(content), "size": len(content)}
    body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [wanted], "hash_algo": "sha256"}
    answer = client.post(f"/{repo}.git/info/lfs/objects/batch", json=body).json()
    action = answer["objects"][0]["actions"]["upload"]
    addresses = {int(key): address for key, address in action["header"].items() if key.isdigit()}
    assert {origin(address) for address in addresses.values()} == {production.s3().endpoint}
    return action["href"], addresses, [part["partNumber"] for part in json.loads(action["header"]["done"])]


def verify(client: httpx2.Client, repo: str, content: bytes) -> httpx2.Response:
    return client.post(f"/{repo}.git/info/lfs/verify", json={"oid": wire.sha256(content), "size": len(content)})


def resolve(registry: Registry, token: str | None, path: str, **headers: str) -> httpx2.Response:
    """The registry's own answer; redirects are not followed."""
    bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx2.get(f"{registry.url}/{path}", headers={**bearer, **headers})


def test_a_file_goes_to_the_bucket_and_is_read_there(
    registry: Registry, user: tuple[str, str], client: httpx2.Client, repo: str
) -> None:
    content = lora_weights(seed=1)
    assert verify(client, repo, content).status_code == 400, "nothing has come yet"
    assert httpx2.put(whole(client, repo, content), content=content).status_code == 200
    assert verify(client, repo, content).status_code == 200
    assert "actions" not in wire.batch(client, repo, content)
    made = wire.commit(client, repo, [wire.uploaded("sub/wé.safetensors", content)]).json()["commitOid"]
    path = f"{repo}/resolve/main/sub/w%C3%A9.safetensors"
    head = httpx2.head(f"{registry.url}/{path}")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))
    led = resolve(registry, user[1], path)
    assert (led.status_code, led.content) == (302, b"")
    assert led.headers["x-repo-commit"] == made
    assert led.headers["x-linked-etag"] == led.headers["etag"] == f'"{wire.sha256(content)}"'
    assert led.headers["x-linked-size"] == str(len(content))
    assert led.headers["cache-control"] == "no-store"
    there = led.headers["location"]
    assert origin(there) == production.s3().endpoint
    got = httpx2.get(there)
    assert got.content == content
    assert got.headers["content-disposition"] == "attachment; filename*=UTF-8''w%C3%A9.safetensors"
    some = httpx2.get(there, headers={"Range": "bytes=100-199"})
    assert (some.status_code, some.content) == (206, content[100:200])
    assert httpx2.put(there, content=b"x").status_code == 403, "an address to read is none to write"


def test_small_files_and_what_is_refused_are_answered_here(
    registry: Registry, user: tuple[str, str], client: httpx2.Client
) -> None:
    repo, content = wire.create_repo(client, f"{user[0]}/hidden", private=True), lora_weights(seed=7_310_278)
    wire.upload(client, repo, content)
    wire.commit(client, repo, [wire.uploaded("w.safetensors", content), wire.inline("notes.txt", b"small")])
    small = resolve(registry, user[1], f"{repo}/resolve/main/notes.txt")
    assert (small.status_code, small.content) == (200, b"small")
    behind = resolve(registry, user[1], f"{repo}/resolve/main/w.safetensors", Range="bytes=99999999-")
    assert behind.status_code == 416
    for token in (None, registry.add_user(f"{user[0]}-stranger")):
        answer = resolve(registry, token, f"{repo}/resolve/main/w.safetensors")
        assert answer.status_code in (401, 404)
        assert "location" not in answer.headers


def test_other_bytes_than_announced_are_refused(registry: Registry, client: httpx2.Client, repo: str) -> None:
    content = lora_weights(seed=3)
    address = whole(client, repo, content)
    assert httpx2.put(address, content=content + b"x").status_code == 403, "the size is part of the signature"
    assert httpx2.put(address, content=bytes(len(content))).status_code == 200
    refused = verify(client, repo, content)
    assert (refused.status_code, refused.json()["code"]) == (422, "DigestMismatch")
    assert not [key for key in registry.objects.list() if wire.sha256(content) in key]
    assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 400


def test_an_address_that_is_used_again_changes_nothing(registry: Registry, client: httpx2.Client, repo: str) -> None:
    content = lora_weights(seed=4)
    address = whole(client, repo, content)
    for sent in (content, bytes(len(content))):
        assert httpx2.put(address, content=sent).status_code == 200
        assert verify(client, repo, content).status_code == 200
    assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
    assert httpx2.put(address, content=bytes(len(content))).status_code == 200
    assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content
    registry.admin_command("gc", "--grace-hours", "0")
    assert registry.objects.list("staging/") == []
    assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content


def test_a_client_that_never_verifies_may_commit(client: httpx2.Client, repo: str) -> None:
    content = lora_weights(seed=5)
    httpx2.put(whole(client, repo, content), content=content)
    assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
    assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content


def test_parts_come_in_any_order_and_an_upload_goes_on(registry: Registry, client: httpx2.Client, repo: str) -> None:
    content = weights_of_size(3 * PART + 17, seed=6)
    href, addresses, done = parts(client, repo, content)
    assert (sorted(addresses), done) == ([1, 2, 3, 4], [])

    def put(number: int) -> None:
        body = content[(number - 1) * PART : number * PART]
        assert httpx2.put(addresses[number], content=body, timeout=60).status_code == 200

    for number in (4, 2):
        put(number)
    assert httpx2.put(addresses[1], content=b"short").status_code == 403
    early = httpx2.post(href, json={"oid": wire.sha256(content), "parts": []})
    assert (early.status_code, early.json()["facts"]["missing"]) == (400, [1, 3])
    href, addresses, done = parts(client, repo, content)
    assert done == [2, 4]
    for number in (3, 1):
        put(number)
    complete = {"oid": wire.sha256(content), "parts": [{"partNumber": n, "etag": "x"} for n in addresses]}
    for _ in range(2):
        assert httpx2.post(href, json=complete, timeout=60).status_code == 200
    assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
    assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content
    assert registry.objects.list("staging/") == []


def test_wrong_parts_are_forgotten_as_a_whole(client: httpx2.Client, repo: str) -> None:
    content = weights_of_size(PART + 17, seed=7)
    href, addresses, _ = parts(client, repo, content)
    for number, address in addresses.items():
        body = bytes(len(content[(number - 1) * PART : number * PART]))
        assert httpx2.put(address, content=body, timeout=60).status_code == 200
    refused = httpx2.post(href, json={"oid": wire.sha256(content), "parts": []}, timeout=60)
    assert (refused.status_code, refused.json()["code"]) == (422, "DigestMismatch")
    assert parts(client, repo, content)[2] == []


def lorahub(registry: Registry, url: str, home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LORAHUB_", "HF_"))},
        "LORAHUB_HOME": str(home),
        "LORAHUB_ENDPOINT": url,
        "LORAHUB_TOKEN": registry.token,
        "LORAHUB_PROGRESS": "none",
    }
    return subprocess.Popen([LORAHUB, *arguments], env=variables, stdout=subprocess.DEVNULL)


def test_a_push_that_is_killed_goes_on_and_a_pull_has_it_all(registry: Registry, tmp_path: Path) -> None:
    folder, home = write_adapter(tmp_path / "big"), tmp_path / "home"
    content = weights_of_size(24 * PART, seed=8)
    (folder / "big.safetensors").write_bytes(content)
    with registry.client() as admin, counting_proxy(registry.url) as (url, passed):
        wire.create_repo(admin, "owner/parts")
        process = lorahub(registry, url, home, "push", str(folder), "owner/parts")
        eventually(lambda: process.poll() is not None or parts(admin, "owner/parts", content)[2], 60)
        assert process.poll() is None, "the push ended before it could be killed"
        process.kill()
        process.wait()
        _, _, done = parts(admin, "owner/parts", content)
        assert done
        assert lorahub(registry, url, home, "push", str(folder), "owner/parts").wait(120) == 0
        assert wire.files(admin, "owner/parts", "v1")["big.safetensors"] == wire.sha256(content)
        assert lorahub(registry, url, home, "pull", "owner/parts", str(tmp_path / "pulled")).wait(120) == 0
    assert (tmp_path / "pulled/big.safetensors").read_bytes() == content
    assert 1000 < passed() < 500_000, "the weights passed through the registry"


def test_what_nobody_finished_is_collected(tmp_path: Path) -> None:
    running = on_bucket(tmp_path / "home", LORAHUB_UPLOAD_LIFETIME="PT1S").start()
    try:
        content = weights_of_size(PART + 17, seed=9)
        with running.client() as admin:
            repo = wire.create_repo(admin, "owner/left")
            _, addresses, _ = parts(admin, repo, content)
            assert httpx2.put(addresses[1], content=content[:PART], timeout=60).status_code == 200
            other = lora_weights(seed=9)
            assert httpx2.put(whole(admin, repo, other), content=other).status_code == 200
        time.sleep(2.1)  # storages keep whole seconds
        assert running.admin_command("gc")["uploads"] == 2
        assert not [key for key in running.objects.list() if not key.startswith("blobs/")]
        assert running.admin_command("gc")["objects"] == 0, "the parts are still there"
        running.assert_sound()
    finally:
        running.kill()


def test_a_storage_that_is_down_makes_503_and_heals(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3").start()
    running = on_bucket(tmp_path / "home", server).start()
    try:
        content: Any = lora_weights(seed=10)
        with running.client() as admin:
            repo = wire.create_repo(admin, "owner/down")
            wire.upload(admin, repo, content)
            wire.commit(admin, repo, [wire.uploaded("w.safetensors", content), wire.inline("a.txt", b"a")])
            server.stop()
            lines = [wire.inline("b.txt", b"b")]
            for answer in (admin.get(f"/{repo}/resolve/main/a.txt"), wire.commit(admin, repo, lines)):
                assert (answer.status_code, answer.headers["x-error-code"]) == (503, "Unavailable")
                assert answer.headers["retry-after"]
            assert admin.get(f"/api/models/{repo}").status_code == 200, "what needs no bytes is answered"
            server.start()
            assert admin.get(f"/{repo}/resolve/main/a.txt").content == b"a"
            assert wire.commit(admin, repo, lines).status_code == 200
        running.assert_sound()
    finally:
        running.kill()
        server.stop()


# --- Xet --------------------------------------------------------------------------------------------------------------


def test_xorbs_are_granted_an_address_of_the_bucket(
    registry: Registry, user: tuple[str, str], client: httpx2.Client, repo: str
) -> None:
    content = lora_weights(seed=11)
    upload = XetUpload(registry, user[1], repo)
    xorb, name = frame(content), "ab" * 32

    def ask(length: int, token: str = upload.token) -> httpx2.Response:
        body = {"length": length, "checksum": {"algo": "crc64nvme", "value": "1"}}
        address = f"{upload.url}/v1/xorb-grants/default/{name}"
        return httpx2.post(address, json=body, headers={"Authorization": f"Bearer {token}"})

    assert ask(len(xorb), token=user[1]).status_code == 401
    assert ask(0).status_code == ask(1 << 30).status_code == 400
    grant = ask(len(xorb))
    assert (grant.status_code, grant.json()["method"]) == (201, "PUT")
    assert origin(grant.json()["url"]) == production.s3().endpoint
    commit = f"/v1/xorb-commits/default/{name}/grant/{grant.json()['id']}"
    assert upload.post(commit, b"").status_code == 404
    assert httpx2.put(grant.json()["url"], content=xorb + b"x").status_code == 403
    assert httpx2.put(grant.json()["url"], content=xorb, headers=grant.json()["headers"]).status_code == 200
    assert upload.post(commit, b"").status_code == 200
    described = shard([segment(name, len(content), 0, 1)], wire.sha256(content))
    assert upload.post("/v2/shards", described).json() == {"type": "result"}
    assert httpx2.put(grant.json()["url"], content=bytes(len(xorb))).status_code == 200, "good until it expires"
    assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
    assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content


STOCK_CLIENT = """
import sys
from huggingface_hub import HfApi, hf_hub_download

url, token, path, repo = sys.argv[1:]
HfApi(endpoint=url, token=token).upload_file(path_or_fileobj=path, path_in_repo="w.safetensors", repo_id=repo)
got = hf_hub_download(repo, "w.safetensors", endpoint=url, token=token)
assert open(got, "rb").read() == open(path, "rb").read()
"""


@pytest.mark.parametrize("variables", [{}, {"HF_HUB_DISABLE_XET": "1"}], ids=["xet", "lfs"])
def test_weights_of_the_stock_client_never_pass_through_the_registry(
    registry: Registry, user: tuple[str, str], repo: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights_of_size(3 * PART, seed=len(variables)))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "LORAHUB_"))}
    with counting_proxy(registry.url) as (url, passed):
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), **variables}
        command = [sys.executable, "-c", STOCK_CLIENT, url, user[1], str(path), repo]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert 1000 < passed() < 200_000
