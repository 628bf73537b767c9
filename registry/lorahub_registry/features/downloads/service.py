"""Reading a revision: one file, or its tree.

A read is answered in this order: is the token good, is the repository visible, is the gate open, is there such a
revision, is there such a file.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from lorahub.errors import EntryNotFound
from lorahub.protocol.digests import Sha256, git_blob_sha1, lfs_pointer
from lorahub.protocol.messages.revisions import Yank
from lorahub.protocol.paths import FilePath

from lorahub_registry.core.access import OpenedRepository
from lorahub_registry.core.accounts.permissions import Action
from lorahub_registry.core.blobs.service import Blob, known_blobs, open_blob, require_servable
from lorahub_registry.core.repositories.service import Repository
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit, RevisionFile
from lorahub_registry.core.upstreams import service as upstreams
from lorahub_registry.core.upstreams import transfers
from lorahub_registry.core.upstreams.service import WantedFile
from lorahub_registry.features.downloads import queries
from lorahub_registry.features.merged import service as merges
from lorahub_registry.features.merged.service import MergedModel
from lorahub_registry.features.references.service import yank_of
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.threads import STORAGE

logger = logging.getLogger("lorahub")

DAYS = 30
"""Shown of a repository's downloads."""

_WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One file of one revision, ready to be read."""

    repository: Repository
    commit: Commit
    file: RevisionFile
    blob: Blob | None
    """None where the bytes are computed: a file of a merged revision that no worker has stored."""
    yanked: tuple[str, Yank] | None
    """Name and reason of the version, where the revision is a yanked one."""
    merged: MergedModel | None = None
    wanted: WantedFile | None = None
    """Of an upstream's file whose bytes may not be here yet."""
    age: int | None = None
    """Seconds since the upstream, which can't be asked, said what the revision is."""

    @property
    def etag(self) -> str:
        """sha256 of a large file, git's sha1 of a small one: clients tell them apart by length and check both."""
        return self.file.digest

    @property
    def sha256(self) -> Sha256 | None:
        """Of its bytes; None where they were never computed as a whole."""
        return self.blob.sha256 if self.blob is not None else None

    def address(self, backend: Backend) -> str | None:
        """Where the storage itself hands the bytes out; None where they pass through the registry."""
        storage = backend.blobs.addresses
        if storage is None or self.blob is None or not self.file.is_lfs:
            return None
        name = self.file.path.rpartition("/")[2]
        return storage.to_read(self.blob.storage_key, filename=name, lifetime=backend.settings.download_lifetime)

    @property
    def is_computed(self) -> bool:
        """Whether its bytes come from arithmetic, and not from a storage or from memory."""
        return self.blob is None and self.merged is not None and self.file.path in self.merged.plan.weights

    def read(self, backend: Backend, start: int, stop: int) -> Iterator[bytes]:
        """Of a file that isn't computed."""
        if self.wanted is not None:
            return iter([transfers.read(backend, self.wanted, start, stop)])
        if self.blob is not None:
            return open_blob(backend, self.blob, start, stop, path=self.file.path)
        assert self.merged is not None  # an ordinary revision's files are stored
        assert not self.is_computed
        return self.merged.plan.stream(self.file.path, start, stop)

    async def pieces(self, backend: Backend, start: int, stop: int) -> AsyncIterator[bytes]:
        """Of any file, in the threads of whoever makes them. Raises what the first of them does, and `Busy`."""
        if self.is_computed:
            assert self.merged is not None
            return await _begun(merges.read(backend, self.merged, self.file.path, start, stop))
        if self.wanted is not None:
            return await _begun(transfers.pieces(backend, self.wanted, start, stop))
        return await _begun(STORAGE.each(await STORAGE.begin(self.read, backend, start, stop)))


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, with the first piece at hand: what goes wrong with it can still be an answer."""
    first = await anext(pieces, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return whole()


@dataclass(frozen=True, slots=True)
class Folder:
    path: str
    oid: str
    files: tuple[RevisionFile, ...]


Entry = RevisionFile | Folder


@dataclass(frozen=True, slots=True)
class Listing:
    commit: Commit
    entries: list[Entry]
    last_commits: dict[str, Commit]
    """By path: the commit that last changed the entry; filled when the caller wants to know."""
    following: str | None = None
    """The path behind which the next page starts."""


def open_file(opened: OpenedRepository, revision: str, path: FilePath) -> OpenFile:
    """Raises as `readable_at`, `merged.find` and `require_servable`, and `EntryNotFound`."""
    merged = merges.find(opened, revision)
    if merged is not None:
        if path not in merged.files:
            raise entry_not_found(path, merged.commit)
        return OpenFile(merged.repository, merged.commit, merged.files[path], merged.stored.get(path), None, merged)
    at = opened.readable_at(revision)
    file = at.file(path)
    if file is None:
        raise entry_not_found(path, at.commit)
    age = upstreams.age_of(opened.backend, opened.session, opened.repository, revision)
    if not file.is_here:
        wanted = upstreams.wanted(opened.repository, at.commit.id, file)
        return OpenFile(opened.repository, at.commit, file, blob=None, yanked=None, wanted=wanted, age=age)
    blob = known_blobs(opened.session, [file.sha256])[file.sha256]
    require_servable(blob, path)
    yank = at.version and yank_of(at.version)
    return OpenFile(
        repository=opened.repository,
        commit=at.commit,
        file=file,
        blob=blob,
        yanked=(at.version.name, yank) if at.version and yank else None,
        age=age,
    )


def require_made(backend: Backend, file: OpenFile, start: int, stop: int) -> None:
    """Of a merged revision: raises `BeingMade` where a worker has to make these bytes first."""
    if file.merged is not None:
        merges.require_made(backend, file.merged, file.file.path, start, stop)


def entry_not_found(path: str, commit: Commit) -> EntryNotFound:
    return EntryNotFound(f"Entry not found: {path} is not in revision {commit.id}", commit=commit.id)


def count_download(backend: Backend, file: OpenFile) -> None:
    """Reads of weights count, each once. A count that can't be written never fails a download."""
    if not file.file.path.endswith(_WEIGHTS):
        return
    metrics.PULLS.inc()
    if file.merged is not None:
        merges.count_read(backend, file.merged, file.file.path)
    try:
        with backend.database.write() as session:
            queries.count_download(session, file.repository.id)
    except queries.UNAVAILABLE as error:
        logger.warning("a download was not counted", exc_info=error)


def mark_read(backend: Backend, file: OpenFile) -> None:
    """Of an upstream's file: those that were read longest ago make room for others."""
    try:
        upstreams.mark_read(backend, file.repository, file.commit.id, file.file.path)
    except queries.UNAVAILABLE as error:
        logger.warning("that a file was read was not written down", exc_info=error)


def large_files(opened: OpenedRepository) -> list[tuple[RevisionFile, Commit]]:
    """Every large file that any commit has, once for each path and content, with the newest commit that has it."""
    opened.require(Action.WRITE)
    return revisions.lfs_files(opened.session, opened.id)


# --- trees ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TreePage:
    """Which entries are asked for: those below `folder` ("" for the top), behind the path `after`."""

    folder: str
    is_recursive: bool
    is_expanded: bool
    after: str | None
    limit: int


def list_tree(opened: OpenedRepository, revision: str, page: TreePage) -> Listing:
    """Entries sorted by path; when not recursive, folders before files.

    Raises as `readable_at`, and `EntryNotFound` where nothing is called so.
    """
    commit, files = _files_at(opened, revision)
    entries = _below(files, page.folder, is_recursive=page.is_recursive)
    if page.folder and not entries:
        raise entry_not_found(page.folder, commit)
    start = _position_behind(entries, page.after)
    shown = entries[start : start + page.limit]
    is_last = start + page.limit >= len(entries)
    last_commits = _last_commits(opened, shown, commit) if page.is_expanded else {}
    return Listing(commit, shown, last_commits, None if is_last else shown[-1].path)


def _files_at(opened: OpenedRepository, revision: str) -> tuple[Commit, list[RevisionFile]]:
    merged = merges.find(opened, revision)
    if merged is not None:
        return merged.commit, list(merged.files.values())
    at = opened.readable_at(revision)
    return at.commit, list(at.files.values())


def paths_info(opened: OpenedRepository, revision: str, paths: Sequence[str], *, is_expanded: bool) -> Listing:
    """The entries among `paths` that exist, files and folders; unknown ones are left out."""
    commit, files = _files_at(opened, revision)
    by_path = {entry.path: entry for entry in _below(files, "", is_recursive=True)}
    found = [by_path[path] for path in dict.fromkeys(path.strip("/") for path in paths) if path in by_path]
    return Listing(commit, found, _last_commits(opened, found, commit) if is_expanded else {})


def _last_commits(opened: OpenedRepository, entries: Sequence[Entry], at: Commit) -> dict[str, Commit]:
    """`at` is the commit whose entries they are, which need not be stored."""
    changed_in = {
        entry.path: [file.changed_in for file in (entry.files if isinstance(entry, Folder) else (entry,))]
        for entry in entries
    }
    ids = {commit_id for ids in changed_in.values() for commit_id in ids} - {at.id}
    commits = {**revisions.commits_by_id(opened.session, list(ids)), at.id: at}
    return {
        path: max((commits[i] for i in ids), key=lambda commit: commit.created_at) for path, ids in changed_in.items()
    }


def _below(files: Sequence[RevisionFile], folder: str, *, is_recursive: bool) -> list[Entry]:
    prefix = f"{folder}/" if folder else ""
    inside = [file for file in files if file.path.startswith(prefix)]
    folders = _folders(inside, prefix)
    if is_recursive:
        return sorted([*folders, *inside], key=lambda entry: entry.path)
    shown_folders = [entry for entry in folders if "/" not in entry.path[len(prefix) :]]
    shown_files = [file for file in inside if "/" not in file.path[len(prefix) :]]
    return [*shown_folders, *shown_files]


def _folders(files: Sequence[RevisionFile], prefix: str) -> list[Folder]:
    """Each folder's oid is derived from what it holds: equal content, equal oid."""
    members: dict[str, list[RevisionFile]] = {}
    for file in files:
        parent = file.path
        while "/" in parent[len(prefix) :]:
            parent = parent.rpartition("/")[0]
            members.setdefault(parent, []).append(file)
    return [_folder(path, members[path]) for path in sorted(members)]


def _folder(path: str, files: Sequence[RevisionFile]) -> Folder:
    lines = "".join(f"{file.path[len(path) :]}\0{file.digest}\n" for file in files)
    return Folder(path, git_blob_sha1(b"tree\n" + lines.encode()), tuple(files))


def _position_behind(entries: Sequence[Entry], path: str | None) -> int:
    if path is None:
        return 0
    return next((index + 1 for index, entry in enumerate(entries) if entry.path == path), 0)


def pointer_of(file: RevisionFile) -> tuple[str, int]:
    """Git's sha1 of the pointer text that stands for a large file in a git tree, and that text's length in bytes."""
    pointer = lfs_pointer(file.sha256, file.size)
    return git_blob_sha1(pointer), len(pointer)


def daily(opened: OpenedRepository) -> dict[str, int]:
    """Downloads on each of the last `DAYS` days, today's last."""
    days = [(now() - timedelta(days=ago)).date().isoformat() for ago in reversed(range(DAYS))]
    counts = queries.counts_since(opened.session, opened.id, days[0])
    return {day: counts.get(day, 0) for day in days}
