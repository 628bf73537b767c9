"""The files of a revision on a hub, read by ranges: headers cost kilobytes, weights nothing.

What is in the cache is read there; beginnings that were fetched are kept there.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from lorahub.errors import EntryNotFound, RegistryFailed
from lorahub.hub.cache import Cache
from lorahub.hub.contents import Contents, ListedFile
from lorahub.hub.together import run_all
from lorahub.protocol.paths import is_path

if TYPE_CHECKING:
    from lorahub.hub.transport import Transport

FIRST_READ = 16 << 10
"""Bytes: a shard of an ordinary model has a header of 3 to 10 kB, so that one request has it."""

_MOST_KEPT = 16 << 20
"""Bytes of a file's beginning; no header and no configuration is larger."""

_MOST_AT_ONCE = 64 << 20
_MOST_READ = 1 << 30
"""Bytes of all files together: headers that take more are none."""

_MOST_IN_MEMORY = 256 << 10
"""Bytes of a beginning; a longer one is read from the cache again."""


class RemoteFiles:
    """`connect` is called for what isn't here; it raises where there is no network to be asked.

    Files with names that can't be written here are left out. `bytes_read` counts what came over the network.
    """

    def __init__(self, connect: "Callable[[], Transport]", cache: Cache, snapshot: Path, contents: Contents) -> None:
        self.contents = contents
        self.bytes_read = 0
        self.requests = 0
        self._connect = connect
        self._cache = cache
        self._snapshot = snapshot
        self._files = {file.path: file for file in contents.files if is_path(file.path)}
        self.sizes = {path: file.size for path, file in self._files.items()}
        self._heads: dict[str, bytes] = {}

    @property
    def commit(self) -> str:
        return self.contents.commit

    def read(self, path: str, start: int, stop: int) -> bytes:
        if path not in self._files:
            raise EntryNotFound(f"{self.contents.repository} has no file {path}")
        file = self._files[path]
        stop = min(stop, file.size)
        here = self._cache.held(self._snapshot, file)
        if here is not None:
            with here.open("rb") as opened:
                opened.seek(start)
                return opened.read(stop - start)
        return self._of_head(file, start, stop)

    def warm(self, paths: Sequence[str]) -> None:
        """Fetches the beginnings of several files at once."""
        run_all([lambda path=path: self.read(path, 0, 8) and None for path in paths])  # type: ignore[misc]

    def sha256(self, path: str) -> str | None:
        return self._files[path].sha256 if path in self._files else None

    def _of_head(self, file: ListedFile, start: int, stop: int) -> bytes:
        head = self._heads.get(file.path) or self._cache.head(file.key)
        if stop > len(head) and (start > max(len(head), FIRST_READ) or stop > _MOST_KEPT):
            return self._range(file, start, stop)
        if stop > len(head):
            head += self._range(file, len(head), max(stop, min(FIRST_READ, file.size)))
            self._cache.keep_head(file.key, head)
        if len(head) <= _MOST_IN_MEMORY:
            self._heads[file.path] = head
        return head[start:stop]

    def _range(self, file: ListedFile, start: int, stop: int) -> bytes:
        from lorahub.hub.transport import retrying

        if stop - start > _MOST_AT_ONCE or self.bytes_read > _MOST_READ:
            raise RegistryFailed(
                f"{file.path}: to read its header takes more bytes than any has", hint="is it what it says it is?"
            )
        transport = self._connect()
        address = f"/{self.contents.repository}/resolve/{self.commit}/{quote(file.path)}"
        got = retrying(lambda: self._fetch(transport, address, start, stop))
        if len(got) != stop - start:
            raise RegistryFailed(f"{file.path}: asked for bytes {start} to {stop}, got {len(got)}")
        self.bytes_read += len(got)
        return got

    def _fetch(self, transport: "Transport", address: str, start: int, stop: int) -> bytes:
        self.requests += 1
        got = bytearray()
        with transport.stream(address, {"Range": f"bytes={start}-{stop - 1}"}) as incoming:
            skipped = 0 if incoming.goes_on(start) else start
            if skipped > _MOST_AT_ONCE:
                raise RegistryFailed(f"{transport.endpoint} sends whole files where a part is asked for")
            for piece in incoming.pieces():
                passed = min(skipped, len(piece))
                skipped -= passed
                got += piece[passed : passed + stop - start - len(got)]
                if len(got) == stop - start:
                    break
        return bytes(got)
