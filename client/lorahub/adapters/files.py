"""A set of files that can be read in part: a folder, a revision of a repository, what was just uploaded."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Protocol

from lorahub.adapters.safetensors_header import SafetensorsHeader, read_header


class Files(Protocol):
    """`sizes` maps paths with `/` to bytes."""

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def read(self, path: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file; fewer where it ends before."""
        ...

    def sha256(self, path: str) -> str | None:
        """A file's sha256, where it is known without reading the file."""
        ...


class FolderFiles:
    """The files of a folder, hidden ones left out; or one file alone."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._root = place.parent if place.is_file() else place
        found = [place] if place.is_file() else sorted(place.rglob("*"))
        paths = {path.relative_to(self._root).as_posix(): path for path in found if path.is_file()}
        self.sizes = {
            name: path.stat().st_size
            for name, path in paths.items()
            if not any(part.startswith(".") for part in name.split("/"))
        }

    def read(self, path: str, start: int, stop: int) -> bytes:
        with (self._root / path).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def sha256(self, path: str) -> str | None:  # noqa: ARG002 (nobody has read it)
        return None

    def path(self, path: str) -> Path:
        return self._root / path


class HashedFolder(FolderFiles):
    """A folder whose files are read for their sha256 when it is asked for."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._sums: dict[str, str] = {}

    def sha256(self, path: str) -> str | None:
        if path not in self._sums and path in self.sizes:
            with self.path(path).open("rb") as file:
                self._sums[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._sums.get(path)


class OpenFolder(FolderFiles):
    """A folder whose files stay open from their first reading until `close`: opening one takes as long as a block."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._handles: dict[str, int] = {}
        self._lock = Lock()

    def read(self, path: str, start: int, stop: int) -> bytes:
        return os.pread(self.handle(path), stop - start, start)

    def handle(self, path: str) -> int:
        """A descriptor of the file, which stays this folder's."""
        with self._lock:
            if path not in self._handles:
                self._handles[path] = os.open(self.path(path), os.O_RDONLY)
            return self._handles[path]

    def close(self) -> None:
        with self._lock:
            while self._handles:
                os.close(self._handles.popitem()[1])


class BytesFiles:
    """Files in memory."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = contents
        self.sizes = {path: len(content) for path, content in contents.items()}

    def read(self, path: str, start: int, stop: int) -> bytes:
        return self._contents[path][start:stop]

    def sha256(self, path: str) -> str | None:
        return hashlib.sha256(self._contents[path]).hexdigest()


def read_whole(files: Files, path: str, *, limit: int) -> bytes | None:
    """A small file; None where it isn't there. At most `limit` bytes of it."""
    size = files.sizes.get(path)
    return None if size is None else files.read(path, 0, min(size, limit))


def header_of(files: Files, path: str, *, allow_empty: bool = False) -> SafetensorsHeader:
    """Raises `InvalidSafetensors`."""
    return read_header(
        lambda start, stop: files.read(path, start, stop), size=files.sizes[path], allow_empty=allow_empty
    )
