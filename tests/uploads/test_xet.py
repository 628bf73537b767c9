"""Xet uploads by hand: what the stock client sends is unpacked, what it never sends is refused."""

from collections.abc import Callable

import httpx2
import lz4.frame
import pytest
import wire
from builders import lora_weights
from registry_process import Registry
from xet_wire import XetUpload, frame, grouped_frame, lz4_frame, segment, shard


@pytest.fixture
def upload(registry: Registry, user: tuple[str, str]) -> XetUpload:
    name, token = user
    with registry.client(token) as client:
        wire.create_repo(client, f"{name}/xet")
    return XetUpload(registry, token, f"{name}/xet")


def commit(registry: Registry, user: tuple[str, str], content: bytes) -> int:
    with registry.client(user[1]) as client:
        lines = [wire.uploaded("w.safetensors", content)]
        return wire.commit(client, f"{user[0]}/xet", lines).status_code


@pytest.mark.parametrize("make", [frame, lz4_frame, grouped_frame], ids=["raw", "lz4", "grouped"])
def test_a_file_of_several_chunks_is_unpacked(
    registry: Registry, user: tuple[str, str], upload: XetUpload, make: Callable[[bytes], bytes]
) -> None:
    content = lora_weights(seed=11, width=64)
    cuts = [content[i : i + 1001] for i in range(0, len(content), 1001)]
    one = upload.xorb(b"".join(make(cut) for cut in cuts[:3]))
    two = upload.xorb(b"".join(make(cut) for cut in cuts[3:]) + b"XETBLOB footer")
    parts = [
        segment(one, sum(map(len, cuts[:3])), 0, 3),
        segment(two, sum(map(len, cuts[3:])), 0, len(cuts) - 3),
    ]
    answer = upload.post("/v2/shards", shard(parts, wire.sha256(content)))
    assert answer.json() == {"type": "result"}
    assert commit(registry, user, content) == 200
    with registry.client(user[1]) as client:
        assert client.get(f"/{user[0]}/xet/resolve/main/w.safetensors").content == content


def test_a_file_without_a_digest_is_hashed_here(registry: Registry, user: tuple[str, str], upload: XetUpload) -> None:
    content = lora_weights(seed=12)
    name = upload.xorb(frame(content))
    answer = upload.post("/v1/shards", shard([segment(name, len(content), 0, 1)], None))
    assert (answer.status_code, answer.json()) == (200, {"result": 1})
    assert commit(registry, user, content) == 200


def shards_of(name: str, size: int, sha256: str) -> dict[str, bytes]:
    good = segment(name, size, 0, 1)
    return {
        "another digest": shard([good], "0" * 64),
        "another size": shard([segment(name, size + 1, 0, 1)], sha256),
        "chunks that are not there": shard([segment(name, size, 0, 9)], sha256),
        "chunks reversed": shard([segment(name, size, 1, 1)], sha256),
        "a xorb that was not sent": shard([segment("ab" * 32, size, 0, 1)], sha256),
        "no segments": shard([], sha256),
        "another tag": shard([good], sha256, tag=b"SomethingElse"),
        "another version": shard([good], sha256, version=3),
        "cut short": shard([good], sha256)[:100],
        "empty": b"",
        "a million segments": shard([good], sha256)[:84] + (1 << 31).to_bytes(4, "little") + bytes(200),
    }


@pytest.mark.parametrize("fault", list(shards_of("0" * 64, 1, "0" * 64)))
def test_a_malformed_shard_is_refused(registry: Registry, user: tuple[str, str], upload: XetUpload, fault: str) -> None:
    content = lora_weights(seed=13)
    name = upload.xorb(frame(content))
    body = shards_of(name, len(content), wire.sha256(content))[fault]
    first, second = upload.post("/v1/shards", body), upload.post("/v2/shards", body)
    assert 400 <= first.status_code < 500, first.text
    assert second.json()["type"] == "error"
    assert second.json()["retryable"] is False
    assert commit(registry, user, content) == 400


CHUNK = b"x" * 1000
XORBS = {
    "a bomb": frame(CHUNK, scheme=1, packed=lz4.frame.compress(bytes(50_000_000)), unpacked=1000),
    "a bomb that is honest": frame(CHUNK, scheme=1, packed=lz4.frame.compress(bytes(1 << 20)), unpacked=1 << 20),
    "no LZ4 at all": frame(CHUNK, scheme=1, packed=b"not lz4"),
    "shorter than it says": frame(CHUNK, scheme=1, packed=lz4.frame.compress(CHUNK[:-1]), unpacked=1000),
    "an unknown scheme": frame(CHUNK, scheme=3),
    "another version": b"\1" + frame(CHUNK)[1:],
    "an empty chunk": frame(b""),
    "cut in its header": frame(CHUNK)[:5],
    "cut in its chunk": frame(CHUNK)[:-1],
    "nothing": b"",
    "too many chunks": frame(b"x") * 8193,
}


@pytest.mark.parametrize("fault", list(XORBS))
def test_a_malformed_xorb_is_refused_when_it_is_unpacked(registry: Registry, upload: XetUpload, fault: str) -> None:
    before = registry.rss_bytes()
    name = upload.xorb(XORBS[fault])
    answer = upload.post("/v1/shards", shard([segment(name, len(CHUNK), 0, 1)], wire.sha256(CHUNK)))
    assert 400 <= answer.status_code < 500, f"{answer.status_code} {answer.text}"
    assert registry.rss_bytes() - before < 40 << 20


def test_xorbs_of_another_session_user_or_repository_are_not_there(
    registry: Registry, user: tuple[str, str], upload: XetUpload, new_user: Callable[[], tuple[str, str]]
) -> None:
    content = lora_weights(seed=14)
    name = upload.xorb(frame(content))
    body = shard([segment(name, len(content), 0, 1)], wire.sha256(content))
    other, other_token = new_user()
    with registry.client(other_token) as client:
        wire.create_repo(client, f"{other}/xet")
    stranger = XetUpload(registry, other_token, f"{other}/xet")
    again = XetUpload(registry, user[1], f"{user[0]}/xet")
    for address, token in ((stranger.url, stranger.token), (again.url, again.token), (upload.url, stranger.token)):
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx2.post(f"{address}/v1/shards", content=body, headers=headers).status_code == 400
    renewed = httpx2.post(f"{upload.url}/v1/shards", content=body, headers={"Authorization": f"Bearer {again.token}"})
    assert renewed.status_code == 200, "a renewed token of the same user and repository goes on with the first address"


def test_a_session_needs_its_own_token(registry: Registry, user: tuple[str, str], upload: XetUpload) -> None:
    for token in ("x", user[1], upload.token[:-2] + "xx", registry.token):
        answer = httpx2.post(
            f"{upload.url}/v1/xorbs/default/{'a' * 64}", content=b"x", headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 401
    assert upload.post("/v1/xorbs/default/..%2f..%2fx", b"x").status_code in (400, 404)
    with registry.client(None) as client:
        assert client.get(f"/api/models/{user[0]}/xet/xet-write-token/main").status_code == 401
        assert client.get(f"/api/models/{user[0]}/xet/xet-read-token/main").status_code == 404


def test_reading_never_mentions_xet(registry: Registry, user: tuple[str, str], upload: XetUpload) -> None:
    content = lora_weights(seed=15)
    name = upload.xorb(frame(content))
    assert (
        upload.post("/v1/shards", shard([segment(name, len(content), 0, 1)], wire.sha256(content))).status_code == 200
    )
    assert commit(registry, user, content) == 200
    repo = f"{user[0]}/xet"
    with registry.client(user[1]) as client:
        for path in (f"/{repo}/resolve/main/w.safetensors", f"/api/models/{repo}", f"/api/models/{repo}/tree/main"):
            answer = client.get(path)
            assert not [header for header in answer.headers if "xet" in header.lower()]
            if path.startswith("/api"):
                assert "xethash" not in answer.text.lower()
