"""What a revision consists of, as its hub says. The cache keeps it beside the files, and can tell what is missing."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lorahub.errors import RegistryFailed
from lorahub.hub.revisions import Revision, parse_revision
from lorahub.protocol.digests import FileEntry, git_blob_hash, is_commit_id
from lorahub.protocol.records import RecordedFile

_MOST_FILES = 100_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class ListedFile:
    path: str
    size: int
    key: str
    """The sha256 of its bytes, or git's sha1 of them; where nobody says one, a name for this file of this commit."""

    @property
    def sha256(self) -> str | None:
        return self.key if _SHA256.fullmatch(self.key) else None

    @property
    def _is_git(self) -> bool:
        return _GIT_SHA1.fullmatch(self.key) is not None

    def hash(self) -> "hashlib._Hash":
        """To be fed with the file's bytes."""
        return git_blob_hash(self.size) if self._is_git else hashlib.sha256()

    def is_right(self, digest: str) -> bool:
        """Whether the bytes with this digest are the file's, as far as anybody can tell."""
        return digest == self.key if self._is_git or self.sha256 else True


@dataclass(frozen=True, slots=True)
class Contents:
    """One revision. `answer` is what the hub said of it; `contents_of` reads it again."""

    repository: str
    commit: str
    files: tuple[ListedFile, ...]
    answer: Mapping[str, Any]
    revision: Revision | None = None
    """What a registry says beside; None of the Hub's, and of merged ones."""


def contents_of(answer: Any, repository: str) -> Contents:
    """Of a registry's revision, or of the Hub's information on a model. Raises `RegistryFailed`."""
    if isinstance(answer, Mapping) and "siblings" in answer:
        return _of_model_information(answer, repository)
    revision = parse_revision(answer)
    return Contents(revision.id, revision.commit, listed(revision.files), answer, revision)


def listed(files: Iterable[FileEntry | RecordedFile]) -> tuple[ListedFile, ...]:
    return tuple(ListedFile(file.path, file.size, file.sha256) for file in files)


def _of_model_information(answer: Mapping[str, Any], repository: str) -> Contents:
    commit, siblings = answer.get("sha"), answer["siblings"]
    if not isinstance(siblings, list) or len(siblings) > _MOST_FILES or not is_commit_id(str(commit)):
        raise RegistryFailed(f"the answer about {repository} lists no files", hint="is this a model repository?")
    files = tuple(file for entry in siblings if (file := _sibling(entry, str(commit))) is not None)
    return Contents(repository, str(commit), files, {"sha": commit, "siblings": siblings})


def _sibling(entry: Any, commit: str) -> ListedFile | None:
    """Large files have a sha256, small ones git's sha1; computed ones neither."""
    known = entry if isinstance(entry, Mapping) else {}
    path, size, large, small = (known.get(key) for key in ("rfilename", "size", "lfs", "blobId"))
    if not isinstance(path, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return None
    sha256 = str(large.get("sha256")) if isinstance(large, Mapping) else ""
    if _SHA256.fullmatch(sha256):
        return ListedFile(path, size, sha256)
    if not isinstance(large, Mapping) and _GIT_SHA1.fullmatch(str(small)):
        return ListedFile(path, size, str(small))
    own = hashlib.sha256(f"{commit}/{path}".encode("utf-8", "surrogatepass")).hexdigest()
    return ListedFile(path, size, f"at-{own}")
