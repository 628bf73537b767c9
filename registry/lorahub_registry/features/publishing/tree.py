"""The tree that a publication makes out of its branch's head, all of whose bytes its author may use."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lorahub.errors import BlobNotFound, EntryNotFound, InvalidInput, RevisionNotFound, SizeMismatch
from lorahub.protocol.digests import Sha256
from lorahub.protocol.paths import FilePath, check_tree

from lorahub_registry.core.blobs.service import Blob, known_blobs, leased
from lorahub_registry.core.repositories.service import Repository, may_read_any
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit, NewFile, RevisionFile
from lorahub_registry.features.publishing.commit_body import DeletedFile, DeletedFolder
from lorahub_registry.features.publishing.request import Addition, Operation, Publication
from lorahub_registry.infrastructure.database import Session

_SHARERS = 200  # repositories asked about before "you may not read this blob anywhere"

File = TypeVar("File")


@dataclass(frozen=True, slots=True)
class Plan:
    """The tree that the request makes out of `head`."""

    head: Commit
    before: Mapping[str, RevisionFile]
    """The head's files."""
    files: Mapping[str, NewFile]
    added: Mapping[str, Sha256]
    blobs: Mapping[Sha256, Blob]
    """Of all these bytes, as far as they are here."""
    missing: Collection[Sha256]
    """Inline contents that the repository doesn't have, and that the author hasn't brought into it."""
    request_key: str | None = None
    """Of the commit to be made; None where a commit has it that no branch leads to any more."""


def head_of(session: Session, repository: Repository, branch: str) -> Commit:
    """Of a branch, also by its whole name. Raises `RevisionNotFound`."""
    found = revisions.branch_named(session, repository.id, branch.removeprefix("refs/heads/"))
    if found is None:
        raise no_branch(repository, branch)
    return found[1]


def no_branch(repository: Repository, branch: str) -> RevisionNotFound:
    return RevisionNotFound(f"Invalid rev id: {branch[:200]} is no branch of {repository.full_name}")


def lay_tree(session: Session, publication: Publication, head: Commit) -> Plan:
    """Applies the operations, in order, to the head's files.

    Raises `ParentMoved`, `EntryNotFound`, `BlobNotFound`, `SizeMismatch`, `InvalidPath`, `InvalidInput`.
    """
    request = publication.request
    if request.header.parent is not None and not head.id.startswith(request.header.parent):
        raise revisions.branch_moved()
    before = revisions.files_of(session, head.id)
    files, added = _apply(request.operations, before, head)
    _refuse_too_many(files, publication.backend.settings.revision_files)
    check_tree(FilePath(path) for path in files)
    blobs = known_blobs(session, [file.sha256 for file in (*files.values(), *request.additions)])
    own = {file.sha256: file.size for file in before.values()} | request.contents.sizes
    inline = {files[path].sha256 for path in added if files[path].sha256 in request.contents}
    sound = {sha256 for sha256 in inline & blobs.keys() if not blobs[sha256].is_damaged}
    others = {addition.sha256 for addition in request.additions} & blobs.keys() - own.keys()
    brought = _brought(session, publication, sound | others)
    usable = {sha256 for sha256 in others if sha256 in brought or _may_read(session, publication, sha256)}
    sizes = own | {sha256: blobs[sha256].size for sha256 in usable}
    _require_bytes(request.additions, sizes)
    return Plan(
        head=head,
        before=before,
        files={path: NewFile(file.sha256, sizes[file.sha256], file.is_lfs) for path, file in files.items()},
        added={path: files[path].sha256 for path in added},
        blobs=blobs,
        missing=inline - (sound & brought),
    )


def _apply(
    operations: Iterable[Operation], before: Mapping[str, RevisionFile], head: Commit
) -> tuple[dict[str, RevisionFile | Addition], set[str]]:
    """The files after the operations, and the paths of those that they add. Raises `EntryNotFound`."""
    tree, added = Tree[RevisionFile | Addition](before), set[str]()
    for operation in operations:
        match operation:
            case Addition(path):
                tree.put(path, operation)
                added.add(path)
                continue
            case DeletedFile(path):
                gone = tree.delete(path)
            case DeletedFolder(path):
                gone = tree.delete_folder(path)
        if not gone and operation.path is not None:
            raise EntryNotFound(f"A file with this name doesn't exist: {operation.path}", commit=head.id)
        added.difference_update(gone)
    return tree.files, added


def _refuse_too_many(paths: Iterable[str], limit: int) -> None:
    """`.gitattributes`, which every repository begins with, is beside what a folder of so many files brings."""
    count = sum(path != ".gitattributes" for path in paths)
    if count > limit:
        raise InvalidInput(f"the revision would have {count} files; at most {limit}")


# --- whose bytes they are ---------------------------------------------------------------------------------------------


def _require_bytes(additions: Sequence[Addition], sizes: Mapping[Sha256, int]) -> None:
    """`sizes`: of all that the author may use: sent with the request, in the tree, brought, or readable."""
    for addition in additions:
        size = sizes.get(addition.sha256)
        if size is None:
            raise BlobNotFound(
                f"the bytes of {addition.path} (sha256 {addition.sha256}) are not here",
                hint="upload the file before the commit names it",
                path=addition.path,
            )
        if addition.size not in (None, size):
            raise SizeMismatch(f"{addition.path} has {size} bytes, the commit says {addition.size}")


def _brought(session: Session, publication: Publication, digests: set[Sha256]) -> set[Sha256]:
    """Those that the author has brought into the repository, or that it has."""
    here = publication.repository.id
    found = leased(session, account_id=publication.account_id, repository_id=here, digests=digests)
    return found | revisions.digests_in(session, here, digests - found)


def _may_read(session: Session, publication: Publication, sha256: Sha256) -> bool:
    sharers = revisions.repositories_with_blob(session, sha256, limit=_SHARERS)
    return may_read_any(session, publication.author, sharers)


# --- operations -------------------------------------------------------------------------------------------------------


class Tree(Generic[File]):
    """The files of a revision while the operations of a commit change them, one after the other.

    Each costs about the same, however many files there are: 10,000 deletions among 10,000 files are no more than that.
    """

    def __init__(self, files: Mapping[str, File]) -> None:
        self.files = dict(files)
        self._paths = sorted(self.files)
        """In order; also some that were deleted."""

    def put(self, path: str, file: File) -> None:
        if path not in self.files:
            place = bisect_left(self._paths, path)
            if self._paths[place : place + 1] != [path]:
                self._paths.insert(place, path)
        self.files[path] = file

    def delete(self, path: str) -> list[str]:
        """The file, or else the folder, of this path. What went; nothing if there was neither."""
        return [path] if self.files.pop(path, None) is not None else self.delete_folder(path)

    def delete_folder(self, path: str | None) -> list[str]:
        """What went. `path` None is everything."""
        if path is None:
            gone = list(self.files)
            self.files.clear()
            return gone
        start = bisect_left(self._paths, f"{path}/")
        stop = bisect_left(self._paths, f"{path}0", lo=start)  # the character behind the slash
        gone = [each for each in self._paths[start:stop] if each in self.files]
        del self._paths[start:stop]
        for each in gone:
            del self.files[each]
        return gone
