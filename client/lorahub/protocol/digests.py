"""The digests that the wire carries: sha256 (identity), git blob sha1 (a label that git-shaped clients need)."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from lorahub.errors import InvalidDigest

Sha256 = NewType("Sha256", str)
"""64 lower-case hex digits."""

GitSha1 = NewType("GitSha1", str)
"""40 lower-case hex digits: sha1 of `blob <size>\\0` + content."""

CommitId = NewType("CommitId", str)
"""40 lower-case hex digits."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def parse_sha256(text: object) -> Sha256:
    """Raises `InvalidDigest` unless `text` is exactly 64 lower-case hex digits."""
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise InvalidDigest(f"not a sha256: {str(text)[:80]!r}; expected 64 lower-case hex digits")
    return Sha256(text)


def is_commit_id(text: str) -> bool:
    return _COMMIT.fullmatch(text) is not None


def sha256_of(content: bytes) -> Sha256:
    return Sha256(hashlib.sha256(content).hexdigest())


def git_blob_sha1(content: bytes) -> GitSha1:
    """The object id git gives a blob of this content."""
    digest = git_blob_hash(len(content))
    digest.update(content)
    return GitSha1(digest.hexdigest())


def git_blob_hash(size: int) -> "hashlib._Hash":
    """That of a blob of so many bytes, which are still to come."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def lfs_pointer(sha256: Sha256, size: int) -> bytes:
    """The text that stands for a large file in a git tree (git-lfs specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """One file of a revision."""

    path: str
    size: int
    sha256: Sha256


def revision_digest(files: Iterable[FileEntry]) -> Sha256:
    """The digest of a whole revision: the same files give the same digest in every repository.

    sha256 over the line `lorahub-revision-v1` and, for each file sorted by path (as UTF-8 bytes),
    the line `path<TAB>size<TAB>sha256`.
    """
    ordered = sorted(files, key=lambda file: file.path.encode())
    lines = [f"{file.path}\t{file.size}\t{file.sha256}\n".encode() for file in ordered]
    return sha256_of(b"lorahub-revision-v1\n" + b"".join(lines))


def commit_id(
    *,
    repository: str,
    parent: CommitId | None,
    digest: Sha256,
    title: str,
    message: str,
    author: str,
    created_at: str,
    request_key: str | None,
) -> CommitId:
    """The first 40 hex digits of a sha256 over everything that a commit says; `repository` is its public id.

    Domain-separated, one length-prefixed field after another: no two records have the same bytes.
    """
    fields = [repository, parent or "", digest, title, message, author, created_at, request_key or ""]
    record = b"".join(b"%d:%s\n" % (len(field.encode()), field.encode()) for field in fields)
    return CommitId(hashlib.sha256(b"lorahub-commit-v1\n" + record).hexdigest()[:40])
