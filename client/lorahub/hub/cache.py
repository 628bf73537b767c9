"""What was read from hubs, kept by host and digest:

    <cache>/<host>/blobs/<key>                            the bytes of a file, verified before they got this name
    <cache>/<host>/blobs/<key>.part                       what has arrived of them so far
    <cache>/<host>/blobs/<key>.head                       their beginning, where only headers were asked for
    <cache>/<host>/<namespace>/<name>/<commit>/<path>     one revision: hard links to blobs, or copies
    <cache>/<host>/<namespace>/<name>/<commit>.json       which files it consists of, as the host said
    <cache>/<host>/<namespace>/<name>/names/<name>        the commit that a name stood for when it was last asked for
    <cache>/<host>/bases/<sha256 of a name>.json          what the registry knows of a base

Hosts are apart, because two hubs may have a repository of one name, and what one may read another may not.
Who fills the cache holds its lock together with others who do; who clears it up, alone.
"""

import json
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from lorahub.errors import InvalidPath, RegistryFailed, Unavailable
from lorahub.hub.contents import Contents, ListedFile, contents_of
from lorahub.protocol.names import RepositoryName

NO_NAMESPACE = "_"
"""Stands for the namespace of repositories that have none, which only the Hub has."""

LOCK = ".lock"
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{7,40}")
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Recalled:
    """`as_of` is when the name was last asked for; None for one that stands for the same for ever."""

    contents: Contents
    as_of: datetime | None


class Cache:
    """Of one host. `root` may be missing until something is kept."""

    def __init__(self, root: Path, endpoint: str) -> None:
        self.root = root
        self.folder = root / _host_folder(endpoint)

    def blob(self, key: str) -> Path:
        return self.folder / "blobs" / key

    def snapshot(self, repository: RepositoryName, commit: str) -> Path:
        return self._repository(repository) / commit

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Nothing is cleared away meanwhile. What can't be written is read without a lock."""
        with ExitStack() as opened:
            with suppress(OSError):
                self.root.mkdir(parents=True, exist_ok=True)
                _flock(opened.enter_context((self.root / LOCK).open("a")), "LOCK_SH")
            yield

    @contextmanager
    def bringing(self, key: str) -> Iterator[None]:
        """One process at a time brings a blob."""
        path = self.blob(key).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with path.open("a") as file:
                _flock(file, "LOCK_EX")
                if not _leads_to(path, file):
                    continue  # whoever had it before has removed it
                try:
                    yield
                finally:
                    with suppress(OSError):
                        path.unlink()
                return

    # --- files --------------------------------------------------------------------------------------------------------

    def has_blob(self, file: ListedFile) -> bool:
        return has(self.blob(file.key), file.size)

    def held(self, snapshot: Path, file: ListedFile) -> Path | None:
        """Where the whole file is, if it is here."""
        return next((place for place in (self.blob(file.key), snapshot / file.path) if has(place, file.size)), None)

    def is_placed(self, files: Iterable[ListedFile], snapshot: Path) -> bool:
        """Whether the revision's folder has them all."""
        return all(has(snapshot / file.path, file.size) for file in files)

    def place(self, files: Iterable[ListedFile], snapshot: Path, folder: Path) -> None:
        """The files, all held, under their names in `folder`; what else is there stays.

        Raises `InvalidPath` for a symbolic link in the way.
        """
        folder.mkdir(parents=True, exist_ok=True)
        is_ours = folder == snapshot
        for file in files:
            target, source = folder / file.path, self.held(snapshot, file)
            _refuse_links(folder, target)
            assert source is not None  # the caller has brought it
            if not (is_ours and has(target, file.size)):
                put(source, target, may_link=is_ours)

    def head(self, key: str) -> bytes:
        try:
            return self.blob(key).with_suffix(".head").read_bytes()
        except OSError:
            return b""

    def keep_head(self, key: str, content: bytes) -> None:
        self._keep(self.blob(key).with_suffix(".head"), content)

    # --- what names stood for -----------------------------------------------------------------------------------------

    def remember(self, repository: RepositoryName, revision: str, contents: Contents) -> None:
        """That the name `revision` stands for this now, and what it consists of."""
        place = self._repository(repository)
        if contents.revision is not None or self.contents(repository, contents.commit) is None:
            self._keep(place / f"{contents.commit}.json", json.dumps(contents.answer).encode())
        if not contents.commit.startswith(revision):
            self._keep(place / "names" / quote(revision, safe=""), contents.commit.encode())

    def known(self) -> dict[str, list[str]]:
        """Repositories that were asked for, each with the names of revisions that it was asked for by."""
        found: dict[str, list[str]] = {}
        for place in sorted(self.folder.glob("*/*/names")):
            namespace, name = place.parts[-3:-1]
            repository = name if namespace == NO_NAMESPACE else f"{namespace}/{name}"
            found[repository] = sorted(unquote(path.name) for path in place.iterdir())
        return found

    def recall(self, repository: RepositoryName, revision: str) -> Recalled | None:
        place = self._repository(repository)
        known = [self.contents(repository, path.stem) for path in place.glob("*.json")]
        fixed = [one for one in known if one is not None and _is_for_ever(revision, one)]
        if len(fixed) == 1:
            return Recalled(fixed[0], None)
        name = place / "names" / quote(revision, safe="")
        try:
            found, asked_at = self.contents(repository, name.read_text("utf-8")), name.stat().st_mtime
        except OSError:
            return None
        return None if found is None else Recalled(found, datetime.fromtimestamp(asked_at, UTC))

    def contents(self, repository: RepositoryName, commit: str) -> Contents | None:
        answer = read_json(self._repository(repository) / f"{commit}.json")
        try:
            return None if answer is None else contents_of(answer, str(repository))
        except RegistryFailed:
            return None

    def remember_base(self, name: str, revision: str, document: Any) -> None:
        kept = {"name": name, "revision": revision, "base": document}
        self._keep(self._base(f"{name}@{revision}"), json.dumps(kept).encode())

    def recall_base(self, name: str, revision: str) -> tuple[Any, datetime] | None:
        """What the registry said, and when; of a commit too, where it was asked for by another name."""
        for path in (self._base(f"{name}@{revision}"), *sorted(self._base("").parent.glob("*.json"))):
            kept = read_json(path)
            if isinstance(kept, dict) and kept.get("name") == name and _is_at(kept, revision):
                return kept["base"], datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return None

    def _base(self, name: str) -> Path:
        return self.folder / "bases" / f"{sha256(name.encode()).hexdigest()}.json"

    def _keep(self, path: Path, content: bytes) -> None:
        """Where the cache can't be written, nothing is kept."""
        with self.filling(), suppress(OSError), _renamed_to(path) as new:
            new.write_bytes(content)

    def _repository(self, repository: RepositoryName) -> Path:
        return self.folder / (repository.namespace.lower() or NO_NAMESPACE) / repository.name.lower()


def _is_for_ever(revision: str, contents: Contents) -> bool:
    """Whether the name stands for this revision, and never for another: a commit, a version, a digest."""
    if _COMMIT_PREFIX.fullmatch(revision):
        return contents.commit.startswith(revision)
    said = contents.revision
    return said is not None and revision in (said.version, f"sha256:{said.digest}")


def _is_at(kept: Mapping[str, Any], revision: str) -> bool:
    base = kept.get("base")
    if kept.get("revision") == revision:
        return isinstance(base, dict | list)
    is_commit = _COMMIT_PREFIX.fullmatch(revision) is not None
    return is_commit and isinstance(base, dict) and str(base.get("revision")).startswith(revision)


def _host_folder(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    prefix = parts.path.strip("/").replace("/", "_")
    return "_".join(part for part in (parts.hostname or "", str(parts.port or ""), prefix) if part)


# --- locks ------------------------------------------------------------------------------------------------------------


@contextmanager
def clearing(root: Path, patience: float, on_wait: Callable[[], object]) -> Iterator[None]:
    """Nobody fills the cache meanwhile. Raises `Unavailable` where somebody still does after `patience` seconds."""
    with (root / LOCK).open("a") as file:
        end, is_first = time.monotonic() + patience, True
        while not _flock(file, "LOCK_EX", "LOCK_NB"):
            if is_first:
                on_wait()
            if time.monotonic() > end:
                raise Unavailable("another lorahub is filling the cache", hint="run it again when that is done")
            is_first = False
            time.sleep(_POLL_SECONDS)
        yield


def _flock(file: IO[str], *how: str) -> bool:
    """Whether the lock is ours until the file is closed. Always on Windows: two pulls may bring one file there."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file.fileno(), sum(getattr(fcntl, one) for one in how))
    except BlockingIOError:
        return False
    return True


def _leads_to(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


# --- files ------------------------------------------------------------------------------------------------------------


def has(place: Path, size: int) -> bool:
    try:
        status = place.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def put(source: Path, target: Path, *, may_link: bool) -> None:
    """The bytes under `target`, at once or not at all; as a hard link inside the cache, as a copy elsewhere."""
    with _renamed_to(target) as new:
        if may_link:
            with suppress(OSError):  # a file system without hard links
                new.hardlink_to(source)
                return
        shutil.copyfile(source, new)


@contextmanager
def _renamed_to(target: Path) -> Iterator[Path]:
    """A name beside `target`, which takes its place at the end of the block and not before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name[:200]}.{os.getpid()}-{threading.get_ident()}.new")
    new.unlink(missing_ok=True)
    try:
        yield new
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)  # still there where it failed, and where both names were the same file


def _refuse_links(folder: Path, target: Path) -> None:
    """Nothing is written through a symbolic link that somebody put into the folder."""
    for parent in (target, *target.parents):
        if parent == folder:
            return
        if parent.is_symlink():
            raise InvalidPath(f"{parent} is a symbolic link; files are not written through it", hint="remove the link")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
