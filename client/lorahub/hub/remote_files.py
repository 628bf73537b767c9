"""The files of a revision on any hub, read by ranges: headers cost kilobytes, weights nothing."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from lorahub.errors import EntryNotFound, RegistryFailed
from lorahub.hub.together import run_all
from lorahub.hub.transport import Transport, goes_on, retrying

FIRST_READ = 16 << 10
"""Bytes: a shard of an ordinary model has a header of 3 to 10 kB, so that one request has it."""

_MOST_FILES = 100_000


class RemoteFiles:
    """A revision by the Hub's protocol. What was read is kept: a file's beginning, and whole small files.

    `bytes_read` counts what came over the network; `commit` is the revision's full id.
    """

    def __init__(self, transport: Transport, repository: str, revision: str) -> None:
        """Raises what the hub refuses, `RegistryFailed` for an answer that is no listing."""
        self._transport = transport
        self._repository = repository
        self._kept: dict[str, bytes] = {}
        self.bytes_read = 0
        self.requests = 1
        info = transport.json(
            "GET", f"/api/models/{repository}/revision/{quote(revision, safe='')}", query={"blobs": "true"}
        )
        self.commit, self.sizes, self.sums, self.oids = _listing(info, repository)

    def read(self, path: str, start: int, stop: int) -> bytes:
        stop = min(stop, self.sizes.get(path, 0))
        kept = self._kept.get(path, b"")
        if stop <= len(kept):
            return kept[start:stop]
        if start > len(kept) and start > FIRST_READ:
            return self._range(path, start, stop)
        wanted = max(stop, min(FIRST_READ, self.sizes[path]))
        self._kept[path] = kept + self._range(path, len(kept), wanted)
        return self._kept[path][start:stop]

    def warm(self, paths: list[str]) -> None:
        """Fetches the beginnings of several files at once."""
        run_all([lambda path=path: self.read(path, 0, 8) and None for path in paths])  # type: ignore[misc]

    def sha256(self, path: str) -> str | None:
        return self.sums.get(path)

    def git_sha1(self, path: str) -> str | None:
        """Of a small file."""
        return self.oids.get(path)

    def _range(self, path: str, start: int, stop: int) -> bytes:
        if path not in self.sizes:
            raise EntryNotFound(f"{self._repository} has no file {path}")
        address = f"/{self._repository}/resolve/{self.commit}/{quote(path)}"
        got = retrying(lambda: self._fetch(address, start, stop))
        if len(got) != stop - start:
            raise RegistryFailed(f"{path}: asked for bytes {start} to {stop}, got {len(got)}")
        self.bytes_read += len(got)
        return got

    def _fetch(self, address: str, start: int, stop: int) -> bytes:
        self.requests += 1
        got = bytearray()
        with self._transport.stream(address, {"Range": f"bytes={start}-{stop - 1}"}) as response:
            skip = 0 if goes_on(response, start) else start
            for piece in response.iter_bytes():
                got += piece
                if len(got) >= skip + stop - start:
                    break
        return bytes(got[skip : skip + stop - start])


def _listing(info: Any, repository: str) -> tuple[str, Mapping[str, int], Mapping[str, str], Mapping[str, str]]:
    """(commit, sizes, sha256 of large files, git's sha1 of small ones) of the Hub's model information."""
    siblings = info.get("siblings") if isinstance(info, dict) else None
    commit = info.get("sha") if isinstance(info, dict) else None
    if not isinstance(siblings, list) or not isinstance(commit, str) or len(siblings) > _MOST_FILES:
        raise RegistryFailed(f"the answer about {repository} lists no files", hint="is this a model repository?")
    sizes: dict[str, int] = {}
    sums: dict[str, str] = {}
    oids: dict[str, str] = {}
    for entry in siblings:
        path, size = entry.get("rfilename"), entry.get("size")
        if isinstance(path, str) and isinstance(size, int) and size >= 0:
            sizes[path] = size
            large = entry.get("lfs")
            if isinstance(large, dict) and isinstance(large.get("sha256"), str):
                sums[path] = large["sha256"]
            elif isinstance(entry.get("blobId"), str):
                oids[path] = entry["blobId"]
    return commit, sizes, sums, oids
