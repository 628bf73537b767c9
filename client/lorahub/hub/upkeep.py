"""What the cache holds, what that takes on the disk, and how what nobody uses is cleared away.

Used is what a revision's folder has, the beginnings of files that a revision lists, and what names and bases stood for.
All else is what broken pulls and removed revisions left.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lorahub.errors import RegistryFailed
from lorahub.hub.cache import NO_NAMESPACE, clearing, read_json
from lorahub.hub.contents import contents_of
from lorahub.protocol.digests import is_commit_id

_BLOCK_BYTES = 512
_NEW = re.compile(r"\..+\.[0-9]+(-[0-9]+)?\.new")
"""How files are called before they are whole."""
_BLOB = re.compile(r"(at-)?[0-9a-f]{40,64}(\.(head|part|lock))?")
_OLD_BASE = re.compile(r"[0-9a-f]{64}\.json")
"""Where bases were kept before, beside the hosts."""

File = tuple[int, int]
"""What a path leads to: device and inode."""


@dataclass(frozen=True, slots=True)
class Held:
    """A revision, or a base as the registry knew it. `size` is that of its files, whoever has them too.

    `disk` are the blocks that it takes; what several share counts for the first alone. `paths` are its own.
    """

    host: str
    name: str
    commit: str | None
    paths: tuple[Path, ...]
    size: int
    disk: int

    @property
    def path(self) -> Path:
        return self.paths[0]


@dataclass(frozen=True, slots=True)
class Unused:
    path: Path
    why: str
    size: int
    disk: int


@dataclass(frozen=True, slots=True)
class Survey:
    """`disk` is what `du` says of the whole."""

    held: tuple[Held, ...]
    unused: tuple[Unused, ...]
    disk: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """`files` counts what went, by what it was; `bytes` are what the disk has again."""

    files: Mapping[str, int]
    bytes: int


def survey(root: Path) -> Survey:
    """Of a cache that others may be filling. Nothing on a new machine."""
    scale = _Scale(root)
    hosts = [_Host(folder) for folder in _folders(root)]
    held = tuple(one for host in hosts for one in host.held(scale))
    unused = tuple(Unused(path, why, _size(path), scale.weigh([path])) for host in hosts for path, why in host.unused())
    return Survey(held, unused, usage(root))


def clear(
    root: Path, doomed: Callable[[Held], bool], *, patience: float, on_wait: Callable[[], object]
) -> tuple[list[Held], Cleared]:
    """Removes what is `doomed`, and what nobody uses then. Raises `Unavailable` while somebody fills the cache."""
    if not root.is_dir():
        return [], Cleared({}, 0)
    with clearing(root, patience, on_wait):
        before = usage(root)
        gone = [one for one in survey(root).held if doomed(one)]
        for path in (path for one in gone for path in one.paths):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        left = survey(root).unused
        for one in left:
            one.path.unlink(missing_ok=True)
        _remove_empty_folders(root)
        return gone, Cleared(Counter(one.why for one in left), before - usage(root))


def usage(root: Path) -> int:
    """Bytes on the disk, as `du` counts them: whole blocks, folders too, a file with two names once."""
    return _Scale(root).weigh([root, *_all(root)])


# --- one host ---------------------------------------------------------------------------------------------------------


class _Revision:
    """A folder `<commit>`, a listing `<commit>.json`, or both."""

    def __init__(self, host: Path, place: Path, commit: str) -> None:
        self.commit = commit
        self.place = place
        self.folder = place / commit
        self.listing = place / f"{commit}.json"
        self.files = [path for path in _all(self.folder) if path.is_file() and not _NEW.fullmatch(path.name)]
        self.heads = [path for key in _keys(self.listing) if (path := host / "blobs" / f"{key}.head").is_file()]

    @property
    def name(self) -> str:
        """`namespace/name`, in lower case."""
        namespace = self.place.parent.name
        return self.place.name if namespace == NO_NAMESPACE else f"{namespace}/{self.place.name}"

    @property
    def is_used(self) -> bool:
        return bool(self.files or self.heads)


class _Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = [place for namespace in _folders(folder) for place in _folders(namespace)]
        self.revisions = [_Revision(folder, place, commit) for place in places for commit in _commits(place)]

    def held(self, scale: "_Scale") -> Iterator[Held]:
        for one in self.revisions:
            if one.is_used:
                around = (self.folder / "blobs", *_all(one.place / "names"))
                disk = scale.weigh([*_all(one.folder), one.listing, *one.heads, *around])
                size = sum(map(_size, one.files or one.heads))
                yield Held(self.folder.name, one.name, one.commit, (one.folder, one.listing), size, disk)
        for path in self._bases():
            kept = read_json(path) or {}
            name = "@".join(filter(None, (kept.get("name"), kept.get("revision"))))
            yield Held(self.folder.name, name, None, (path,), _size(path), scale.weigh([path]))

    def unused(self) -> Iterator[tuple[Path, str]]:
        used = [one for one in self.revisions if one.is_used]
        heads = {path for one in used for path in one.heads}
        linked = {_file(path) for one in used for path in one.files}
        for path in _files(self.folder / "blobs"):
            is_ours = _BLOB.fullmatch(path.name) is not None
            if is_ours and path not in heads and _file(path) not in linked:
                yield path, {".part": "unfinished", ".lock": "locks"}.get(path.suffix, "unused")
        commits = {(one.place, one.commit) for one in used}
        for path in sorted(self.folder.glob("*/*/names/*")):
            if (path.parent.parent, _text(path)) not in commits and not _NEW.fullmatch(path.name):
                yield path, "unused"
        yield from ((one.listing, "unused") for one in self.revisions if not one.is_used and one.listing.is_file())
        yield from ((path, "unused") for path in _files(self.folder) if _OLD_BASE.fullmatch(path.name))
        yield from ((path, "unfinished") for path in _all(self.folder) if _NEW.fullmatch(path.name) and path.is_file())

    def _bases(self) -> list[Path]:
        return sorted((self.folder / "bases").glob("*.json"))


# --- files ------------------------------------------------------------------------------------------------------------


class _Scale:
    """Weighs files with the folders that they are in, below `root`, in bytes of the disk's blocks; each once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._weighed: set[File] = set()

    def weigh(self, paths: Iterable[Path]) -> int:
        total = 0
        ways = (place for path in paths for place in (path, *path.parents) if place.is_relative_to(self._root))
        for path in dict.fromkeys(ways):
            with suppress(OSError):  # somebody may have moved it by now
                status = path.lstat()
                if (file := (status.st_dev, status.st_ino)) not in self._weighed:
                    self._weighed.add(file)
                    total += getattr(status, "st_blocks", -(-status.st_size // _BLOCK_BYTES)) * _BLOCK_BYTES
        return total


def _entries(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except OSError:  # it isn't there, or no longer
        return []


def _folders(place: Path) -> list[Path]:
    return [path for path in _entries(place) if path.is_dir()]


def _files(place: Path) -> list[Path]:
    return [path for path in _entries(place) if path.is_file()]


def _all(place: Path) -> list[Path]:
    """The folder, and all that is in it."""
    return sorted({Path(top, name) for top, _, names in os.walk(place) for name in (".", *names)})


def _commits(place: Path) -> list[str]:
    return sorted({path.stem for path in _entries(place) if path.suffix in ("", ".json") and is_commit_id(path.stem)})


def _keys(listing: Path) -> list[str]:
    answer = read_json(listing)
    try:
        return [] if answer is None else [file.key for file in contents_of(answer, "").files]
    except RegistryFailed:
        return []


def _file(path: Path) -> File | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _remove_empty_folders(root: Path) -> None:
    for folder in reversed(_all(root)):
        if folder != root and folder.is_dir():
            with suppress(OSError):  # it isn't empty
                folder.rmdir()
