"""What a Xet client sends, written by hand."""

import hashlib
import struct
from collections.abc import Sequence

import httpx2
import lz4.frame
from registry_process import Registry

END = b"\xff" * 32


def frame(chunk: bytes, *, scheme: int = 0, packed: bytes | None = None, unpacked: int | None = None) -> bytes:
    body = chunk if packed is None else packed
    size = len(chunk) if unpacked is None else unpacked
    return b"\0" + len(body).to_bytes(3, "little") + bytes([scheme]) + size.to_bytes(3, "little") + body


def lz4_frame(chunk: bytes) -> bytes:
    return frame(chunk, scheme=1, packed=lz4.frame.compress(chunk))


def grouped_frame(chunk: bytes) -> bytes:
    grouped = b"".join(chunk[k::4] for k in range(4))
    return frame(chunk, scheme=2, packed=lz4.frame.compress(grouped))


def raw_hash(text: str) -> bytes:
    return struct.pack("<4Q", *(int(text[i : i + 16], 16) for i in range(0, 64, 16)))


def segment(xorb: str, size: int, first: int, end: int) -> bytes:
    return struct.pack("<32sIIII", raw_hash(xorb), 0, size, first, end)


def shard(segments: Sequence[bytes], sha256: str | None, *, tag: bytes = b"HFRepoMetaData", version: int = 2) -> bytes:
    flags = (1 << 30) if sha256 else 0
    head = struct.pack("<32sQQ", tag, version, 0)
    file = struct.pack("<32sIIQ", b"\1" * 32, flags, len(segments), 0) + b"".join(segments)
    metadata = raw_hash(sha256) + bytes(16) if sha256 else b""
    return head + file + metadata + END + bytes(16)


class XetUpload:
    """One upload session of one user into one repository."""

    def __init__(self, registry: Registry, token: str, repo: str) -> None:
        with registry.client(token) as client:
            answer = client.get(f"/api/models/{repo}/xet-write-token/main")
        assert answer.status_code == 200, answer.text
        self.url, self.token = answer.json()["casUrl"], answer.json()["accessToken"]
        assert answer.headers["x-xet-cas-url"] == self.url

    def post(self, path: str, body: bytes) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.post(f"{self.url}{path}", content=body, headers=headers, timeout=60)

    def xorb(self, body: bytes) -> str:
        name = hashlib.blake2b(body, digest_size=32).hexdigest()
        answer = self.post(f"/v1/xorbs/default/{name}", body)
        assert answer.status_code == 200, answer.text
        return name
