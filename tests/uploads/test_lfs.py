"""Git-LFS uploads by hand, to the registry itself: the address is the credential, and good for one thing only.

A registry on a folder takes every byte itself; tests/uploads/test_storage_addresses.py is about one on a bucket.
"""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import wire
from builders import lora_weights, weights_of_size
from registry_process import IN_A_FOLDER, Registry, serve


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    running = serve(tmp_path_factory.mktemp("registry"), IN_A_FOLDER)
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def repo(registry: Registry, user: tuple[str, str]) -> str:
    with registry.client(user[1]) as client:
        return wire.create_repo(client, f"{user[0]}/lfs")


def parts_of(registry: Registry, user: tuple[str, str], repo: str, content: bytes) -> dict[str, Any]:
    body = {
        "operation": "upload",
        "transfers": ["basic", "multipart", "xet"],
        "objects": [{"oid": wire.sha256(content), "size": len(content)}],
        "hash_algo": "sha256",
    }
    with registry.client(user[1]) as client:
        answer = client.post(f"/{repo}.git/info/lfs/objects/batch", json=body).json()
    assert answer["transfer"] == "multipart"
    upload: dict[str, Any] = answer["objects"][0]["actions"]["upload"]
    return upload


def test_the_address_needs_no_token_and_takes_the_bytes_again(
    registry: Registry, user: tuple[str, str], repo: str
) -> None:
    content = lora_weights(seed=21)
    with registry.client(user[1]) as client:
        href = wire.batch(client, repo, content)["actions"]["upload"]["href"]
    for _ in range(2):
        assert httpx2.put(href, content=content).status_code == 200
    with registry.client(user[1]) as client:
        assert "actions" not in wire.batch(client, repo, content)
        verify = client.post(f"/{repo}.git/info/lfs/verify", json={"oid": wire.sha256(content), "size": len(content)})
        assert verify.status_code == 200


def test_an_altered_address_is_refused(registry: Registry, user: tuple[str, str], repo: str) -> None:
    content = lora_weights(seed=22)
    with registry.client(user[1]) as client:
        href = wire.batch(client, repo, content)["actions"]["upload"]["href"]
    credential = href.split("/")[-2]
    for wrong in (credential[:-1], credential + "x", "x" * 40, credential.replace(".", ".x", 1), user[1]):
        assert httpx2.put(href.replace(credential, wrong), content=content).status_code == 401
    assert httpx2.put(href.replace("/whole", "/parts/1"), content=content).status_code == 400


def test_an_expired_address_is_refused(folder_registry: Registry) -> None:
    import time

    folder_registry.stop()
    folder_registry.start(LORAHUB_URL_LIFETIME="PT1S")
    content = lora_weights(seed=23)
    with folder_registry.client() as client:
        wire.create_repo(client, "owner/late")
        href = wire.batch(client, "owner/late", content)["actions"]["upload"]["href"]
        time.sleep(2.1)
        assert httpx2.put(href, content=content).status_code == 401
        assert "actions" in wire.batch(client, "owner/late", content)


def test_parts_come_in_any_order_and_more_than_once(registry: Registry, user: tuple[str, str], repo: str) -> None:
    content = weights_of_size(70_000_000, seed=24)
    upload = parts_of(registry, user, repo, content)
    chunk = int(upload["header"]["chunk_size"])
    numbers = sorted(int(key) for key in upload["header"] if key.isdigit())
    assert numbers == list(range(1, -(-len(content) // chunk) + 1))
    complete = {"oid": wire.sha256(content), "parts": [{"partNumber": n, "etag": "x"} for n in numbers]}
    for number in [*reversed(numbers), 2]:
        body = content[(number - 1) * chunk : number * chunk]
        if number == 3:
            early = httpx2.post(upload["href"], json=complete)
            assert early.status_code == 400
            assert early.json()["facts"]["missing"]
        answer = httpx2.put(upload["header"][str(number)], content=body, timeout=60)
        assert answer.status_code == 200
        assert answer.headers["etag"]
    assert httpx2.put(upload["header"]["1"], content=b"short").status_code == 422
    for _ in range(2):
        assert httpx2.post(upload["href"], json=complete, timeout=60).status_code == 200
    with registry.client(user[1]) as client:
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
        assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content
    staged = [path for path in (registry.home / "storage/staging").rglob("*") if path.is_file()]
    assert staged == []


def test_wrong_parts_are_forgotten_as_a_whole(registry: Registry, user: tuple[str, str], repo: str) -> None:
    content = weights_of_size(70_000_000, seed=25)
    upload = parts_of(registry, user, repo, content)
    chunk = int(upload["header"]["chunk_size"])
    for key in [key for key in upload["header"] if key.isdigit()]:
        start = (int(key) - 1) * chunk
        size = len(content[start : start + chunk])
        assert httpx2.put(upload["header"][key], content=b"x" * size, timeout=60).status_code == 200
    refused = httpx2.post(upload["href"], json={"oid": wire.sha256(content), "parts": []}, timeout=60)
    assert (refused.status_code, refused.json()["code"]) == (422, "DigestMismatch")
    assert httpx2.post(upload["href"], json={"oid": wire.sha256(content), "parts": []}).status_code == 401
    assert parts_of(registry, user, repo, content)["header"]["done"] == "[]"


def test_a_faulty_object_of_a_batch_has_its_own_error(registry: Registry, user: tuple[str, str], repo: str) -> None:
    objects = [
        {"oid": "x", "size": 1},
        {"oid": "a" * 64, "size": 0},
        {"oid": "b" * 64, "size": 1 << 45},
        {"oid": "c" * 64, "size": 1},
    ]
    with registry.client(user[1]) as client:
        body = {"operation": "upload", "transfers": ["basic"], "objects": objects, "hash_algo": "sha256"}
        answers = client.post(f"/{repo}.git/info/lfs/objects/batch", json=body).json()["objects"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [400, 413, 413, None]


def test_a_broken_connection_leaves_nothing(registry: Registry, user: tuple[str, str], repo: str) -> None:
    import socket
    import time
    from urllib.parse import urlsplit

    content = lora_weights(seed=26, width=256)
    with registry.client(user[1]) as client:
        href = wire.batch(client, repo, content)["actions"]["upload"]["href"]
    parts = urlsplit(href)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
        head = f"PUT {parts.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[: len(content) // 2])
    time.sleep(0.5)
    staged = [path for path in (registry.home / "storage/staging").rglob("*") if path.is_file()]
    assert staged == []
    assert httpx2.put(href, content=content).status_code == 200
