"""A repository as a record: everything that its commits' ids are made of, so that whoever has it can prove them.

Commits come parents first. A record that parses is whole: every id is the one of what it says, every parent and every
target of a reference is in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorahub.errors import InvalidBundle, Refusal
from lorahub.protocol.digests import CommitId, FileEntry, Sha256, commit_id, is_commit_id, parse_sha256, revision_digest
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import check_tree, parse_path

KINDS = ("branch", "tag", "version", "alias")
MOST_COMMITS = 10_000


@dataclass(frozen=True, slots=True)
class RecordedFile:
    path: str
    size: int
    sha256: Sha256
    is_lfs: bool


@dataclass(frozen=True, slots=True)
class RecordedCommit:
    id: CommitId
    parent: CommitId | None
    title: str
    message: str
    author: str
    created_at: datetime
    request_key: str | None
    files: tuple[RecordedFile, ...]

    @property
    def digest(self) -> Sha256:
        return revision_digest(FileEntry(file.path, file.size, file.sha256) for file in self.files)


@dataclass(frozen=True, slots=True)
class RecordedReference:
    kind: str
    name: str
    commit: CommitId
    message: str
    is_protected: bool
    yank_reason: str | None


@dataclass(frozen=True, slots=True)
class Record:
    name: RepositoryName
    public_id: str
    is_private: bool
    commits: tuple[RecordedCommit, ...]
    references: tuple[RecordedReference, ...]

    def blobs(self) -> dict[Sha256, int]:
        """Size of each distinct content."""
        return {file.sha256: file.size for commit in self.commits for file in commit.files}

    def ancestors(self, commit: CommitId) -> set[CommitId]:
        """The commit itself among them."""
        parents, found = {one.id: one.parent for one in self.commits}, set()
        at: CommitId | None = commit
        while at is not None and at not in found:
            found.add(at)
            at = parents.get(at)
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "name": str(self.name),
            "public_id": self.public_id,
            "private": self.is_private,
            "commits": [_commit_as_json(commit) for commit in self.commits],
            "references": [_reference_as_json(reference) for reference in self.references],
        }


def _commit_as_json(commit: RecordedCommit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "parent": commit.parent,
        "title": commit.title,
        "message": commit.message,
        "author": commit.author,
        "created_at": commit.created_at.isoformat(),
        "request_key": commit.request_key,
        "files": [[file.path, file.size, file.sha256, file.is_lfs] for file in commit.files],
    }


def _reference_as_json(reference: RecordedReference) -> dict[str, Any]:
    return {
        "kind": reference.kind,
        "name": reference.name,
        "commit": reference.commit,
        "message": reference.message,
        "protected": reference.is_protected,
        "yanked": reference.yank_reason,
    }


# --- reading ----------------------------------------------------------------------------------------------------------


def parse_record(body: Any) -> Record:
    """Raises `InvalidBundle` for anything that isn't a whole and true record."""
    try:
        record = Record(
            name=RepositoryName.parse(body["name"]),
            public_id=_text(body["public_id"], 24),
            is_private=_flag(body["private"]),
            commits=tuple(_commit(commit) for commit in body["commits"]),
            references=tuple(_reference(reference) for reference in body["references"]),
        )
    except (Refusal, KeyError, TypeError, ValueError) as error:
        raise InvalidBundle(f"not the record of a repository: {error}") from None
    _require_whole(record)
    return record


def _commit(body: Mapping[str, Any]) -> RecordedCommit:
    parent = body["parent"]
    return RecordedCommit(
        id=_id(body["id"]),
        parent=None if parent is None else _id(parent),
        title=_text(body["title"], 1 << 20),
        message=_text(body["message"], 1 << 24),
        author=_text(body["author"], 96),
        created_at=datetime.fromisoformat(_text(body["created_at"], 40)),
        request_key=None if body["request_key"] is None else _text(body["request_key"], 64),
        files=_files(body["files"]),
    )


def _files(rows: Sequence[Any]) -> tuple[RecordedFile, ...]:
    files = tuple(
        RecordedFile(parse_path(path), _size(size), parse_sha256(sha256), _flag(is_lfs))
        for path, size, sha256, is_lfs in rows
    )
    check_tree(parse_path(file.path) for file in files)
    return files


def _reference(body: Mapping[str, Any]) -> RecordedReference:
    if body["kind"] not in KINDS:
        raise ValueError(f"no reference is a {body['kind']!r}")
    return RecordedReference(
        kind=body["kind"],
        name=_text(body["name"], 128),
        commit=_id(body["commit"]),
        message=_text(body["message"], 1 << 20),
        is_protected=_flag(body["protected"]),
        yank_reason=None if body["yanked"] is None else _text(body["yanked"], 1 << 20),
    )


def _require_whole(record: Record) -> None:
    if not record.commits or len(record.commits) > MOST_COMMITS:
        raise InvalidBundle(f"{record.name} has {len(record.commits)} commits; 1 to {MOST_COMMITS} are taken")
    seen: set[CommitId] = set()
    for commit in record.commits:
        if commit.id in seen or (commit.parent is not None and commit.parent not in seen):
            raise InvalidBundle(f"{record.name}: commit {commit.id} comes twice, or before its parent")
        if _id_of(record, commit) != commit.id:
            raise InvalidBundle(f"{record.name}: commit {commit.id} is not what its id says")
        seen.add(commit.id)
    names = [(reference.kind == "branch", reference.name) for reference in record.references]
    if len(set(names)) != len(names) or (True, "main") not in names:
        raise InvalidBundle(f"{record.name}: a name comes twice, or there is no branch main")
    if any(reference.commit not in seen for reference in record.references):
        raise InvalidBundle(f"{record.name}: a name leads to a commit that isn't there")


def _id_of(record: Record, commit: RecordedCommit) -> CommitId:
    return commit_id(
        repository=record.public_id,
        parent=commit.parent,
        digest=commit.digest,
        title=commit.title,
        message=commit.message,
        author=commit.author,
        created_at=commit.created_at.isoformat(),
        request_key=commit.request_key,
    )


def _id(value: Any) -> CommitId:
    if not isinstance(value, str) or not is_commit_id(value):
        raise ValueError(f"no commit id: {value!r:.80}")
    return CommitId(value)


def _text(value: Any, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        raise ValueError(f"no text of at most {most} characters: {value!r:.80}")
    return value


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1 << 50:
        return value
    raise ValueError(f"no size: {value!r:.80}")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"neither true nor false: {value!r:.80}")
