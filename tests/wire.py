"""The Hub's write calls, spoken by hand: for tests of what happens between them."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2


class Refused(AssertionError):
    """An answer other than 200."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__(f"{response.status_code}: {response.text[:2000]}")
        self.status = response.status_code


def require(response: httpx2.Response) -> httpx2.Response:
    """The response, if it is a 200. Raises `Refused`."""
    if response.status_code != 200:
        raise Refused(response)
    return response


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def create_repo(client: httpx2.Client, repo: str, *, private: bool = False) -> str:
    namespace, name = repo.split("/")
    body = {"name": name, "organization": namespace, "visibility": "private" if private else "public"}
    response = client.post("/api/repos/create", json=body)
    assert response.status_code == 200, response.text
    return repo


def inline(path: str, content: bytes) -> dict[str, Any]:
    return {
        "key": "file",
        "value": {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"},
    }


def uploaded(path: str, content: bytes) -> dict[str, Any]:
    return {
        "key": "lfsFile",
        "value": {"path": path, "algo": "sha256", "oid": sha256(content), "size": len(content)},
    }


def batch(client: httpx2.Client, repo: str, content: bytes, **changes: Any) -> dict[str, Any]:
    """The answer for one object."""
    wanted = {"oid": sha256(content), "size": len(content)} | changes
    body = {"operation": "upload", "transfers": ["basic"], "objects": [wanted], "hash_algo": "sha256"}
    response = require(client.post(f"/{repo}.git/info/lfs/objects/batch", json=body))
    answer: dict[str, Any] = response.json()["objects"][0]
    return answer


def upload(client: httpx2.Client, repo: str, content: bytes) -> None:
    """Through LFS, if the registry doesn't have it for this caller."""
    target = batch(client, repo, content)
    if "actions" in target:
        require(httpx2.put(target["actions"]["upload"]["href"], content=content, timeout=60))


def commit(
    client: httpx2.Client,
    repo: str,
    lines: Sequence[Mapping[str, Any]],
    *,
    parent: str | None = None,
    title: str = "a commit",
    key: str | None = None,
    branch: str = "main",
) -> httpx2.Response:
    header: dict[str, Any] = {"summary": title, "description": ""}
    if parent is not None:
        header["parentCommit"] = parent
    body = "".join(json.dumps(line) + "\n" for line in [{"key": "header", "value": header}, *lines])
    headers = {"Content-Type": "application/x-ndjson"} | ({"Idempotency-Key": key} if key else {})
    return client.post(f"/api/models/{repo}/commit/{branch}", content=body.encode(), headers=headers)


def version(*aliases: str, name: str | None = None) -> dict[str, Any]:
    return {"key": "version", "value": {"name": name, "aliases": list(aliases)}}


def head(client: httpx2.Client, repo: str) -> str:
    return str(client.get(f"/api/models/{repo}").json()["sha"])


def files(client: httpx2.Client, repo: str, revision: str = "main") -> dict[str, str]:
    """Path → sha256."""
    response = client.get(f"/api/lorahub/v1/models/{repo}/revisions/{revision}")
    assert response.status_code == 200, response.text
    return {file["path"]: file["sha256"] for file in response.json()["files"]}
