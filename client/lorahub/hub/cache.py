"""Pulled files, kept by host and digest:

    <cache>/<host>/blobs/<sha256>                          the bytes, verified before they got this name
    <cache>/<host>/blobs/<sha256>.part                     what has arrived of them so far
    <cache>/<host>/<namespace>/<name>/<commit>/<path>      one revision: hard links to blobs, or copies

Hosts are apart, because two registries may have a repository of one name, and what one may read another may not.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lorahub.protocol.digests import Sha256


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One pulled revision."""

    host: str
    repository: str
    commit: str
    path: Path
    size: int
    """Bytes of its files; files that revisions share are counted in each."""


class Cache:
    """`root` may be missing until something is pulled."""

    def __init__(self, root: Path, endpoint: str) -> None:
        self.root = root
        self.folder = root / _host_folder(endpoint)

    def blob(self, sha256: Sha256) -> Path:
        return self.folder / "blobs" / sha256

    def snapshot(self, repository: str, commit: str) -> Path:
        return self.folder / repository.lower() / commit

    @contextmanager
    def lock(self, sha256: Sha256) -> Iterator[None]:
        """One process at a time brings a blob."""
        path = self.blob(sha256).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file, _locked(file.fileno()):
            yield


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: two pulls at once may bring the same bytes twice, and that is all
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _host_folder(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    prefix = parts.path.strip("/").replace("/", "_")
    return "_".join(part for part in (parts.hostname or "", str(parts.port or ""), prefix) if part)


def snapshots(root: Path) -> list[Snapshot]:
    """Every pulled revision; none on a new machine."""
    found = []
    for host in sorted(root.iterdir()) if root.is_dir() else ():
        for commit in sorted(host.glob("*/*/*")):
            if commit.is_dir() and commit.parent.parent.name != "blobs":
                size = sum(path.stat().st_size for path in commit.rglob("*") if path.is_file())
                name = f"{commit.parent.parent.name}/{commit.parent.name}"
                found.append(Snapshot(host.name, name, commit.name, commit, size))
    return found


def remove(snapshot: Snapshot) -> None:
    shutil.rmtree(snapshot.path, ignore_errors=True)


def prune(root: Path) -> tuple[int, int]:
    """Removes blobs that no pulled revision links to, and what is left of broken pulls: (files, bytes)."""
    count = total = 0
    for path in root.glob("*/blobs/*") if root.is_dir() else ():
        status = path.stat()
        if path.suffix == ".lock":
            path.unlink()
        elif status.st_nlink == 1:
            count, total = count + 1, total + status.st_size
            path.unlink()
    return count, total


def place(blob: Path, target: Path, *, may_link: bool) -> None:
    """The blob's bytes under `target`, at once or not at all; as a hard link inside the cache, as a copy elsewhere."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    try:
        if may_link:
            temporary.hardlink_to(blob)
        else:
            shutil.copyfile(blob, temporary)
    except OSError:
        if not may_link:
            temporary.unlink(missing_ok=True)
            raise
        shutil.copyfile(blob, temporary)
    temporary.replace(target)
