"""Commits and the names that lead to them. Every function works inside its caller's transaction.

A commit is an immutable set of files. Its id is the first 40 hex digits of a sha256 over everything it says, so no two
commits share one, and none can be forged. References move by compare-and-swap, and every move is logged.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lorahub.errors import ParentMoved, RevisionNotFound, VersionYanked
from lorahub.protocol.digests import CommitId, FileEntry, Sha256, commit_id, is_commit_id, revision_digest

from lorahub_registry.core.events.service import happened, name_moved
from lorahub_registry.core.revisions import queries
from lorahub_registry.core.revisions.queries import (
    Commit,
    FileRow,
    IntegrityError,
    Move,
    Origin,
    Reference,
    RevisionFile,
    space_of,
)
from lorahub_registry.infrastructure.database import Session, now

__all__ = ["Commit", "IntegrityError", "Move", "Origin", "Reference", "RevisionFile", "space_of"]

_HEX_PREFIX = re.compile(r"[0-9a-f]{7,39}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a revision stands for, and the reference it was named by (None for a commit or a digest)."""

    commit: Commit
    reference: Reference | None

    @property
    def alias(self) -> Reference | None:
        return self.reference if self.reference is not None and self.reference.kind == "alias" else None


@dataclass(frozen=True, slots=True)
class NewCommit:
    """`parent` is None for the first commit of a repository and for a squashed one."""

    repository_id: int
    repository_public_id: str
    parent: Commit | None
    files: Mapping[str, "NewFile"]
    title: str
    message: str
    author_id: int
    author: str
    request_key: str | None = None
    request_digest: str | None = None
    created_at: datetime | None = None
    """Now, unless it was made elsewhere and keeps its id."""
    before: Mapping[str, RevisionFile] | None = None
    """The parent's files, where they are known; they are looked up otherwise."""


@dataclass(frozen=True, slots=True)
class NewFile:
    sha256: Sha256
    size: int
    is_lfs: bool


# --- names ------------------------------------------------------------------------------------------------------------


def resolve(session: Session, repository_id: int, revision: str) -> Resolved:
    """Raises as `look_up` and `refuse_yanked`."""
    found = look_up(session, repository_id, revision)
    if found.alias is not None:
        refuse_yanked(found.alias, version_of(session, repository_id, found.commit.id))
    return found


def look_up(session: Session, repository_id: int, revision: str) -> Resolved:
    """A branch, tag, version, alias, commit (whole or at least 7 digits), `refs/heads/…`, `refs/tags/…`, `sha256:…`.

    Raises `RevisionNotFound`.
    """
    if is_commit_id(revision):
        return Resolved(_commit(session, repository_id, revision, revision), None)
    if digest := _DIGEST.fullmatch(revision):
        commit = queries.newest_commit_by_digest(session, repository_id, digest[1])
        if commit is not None:
            return Resolved(commit, None)
    elif (named := _named(session, repository_id, revision)) is not None:
        reference, commit = named
        return Resolved(commit, reference)
    elif _HEX_PREFIX.fullmatch(revision):
        candidates = queries.commits_by_prefix(session, repository_id, revision)
        if len(candidates) == 1:
            return Resolved(candidates[0], None)
    if (answered := queries.commit_answered(session, repository_id, revision)) is not None:
        return Resolved(answered, None)
    raise _not_found(session, repository_id, revision)


def refuse_yanked(alias: Reference, version: Reference | None) -> None:
    """A yanked version is served only when it is named exactly. Raises `VersionYanked` for an alias of one."""
    if version is not None and version.yanked_at is not None:
        raise VersionYanked(
            f"the alias {alias.name} leads to {version.name}, which was yanked: {version.yank_reason}",
            hint=f"name {version.name} exactly if you must have it, or choose another version",
        )


def _named(session: Session, repository_id: int, revision: str) -> tuple[Reference, Commit] | None:
    """A branch, or else what is called so among tags, versions and aliases."""
    for space in ("heads", "tags"):
        prefix = f"refs/{space}/"
        if revision.startswith(prefix):
            return queries.commits_named(session, repository_id, revision.removeprefix(prefix)).get(space)
    found = queries.commits_named(session, repository_id, revision)
    return found.get("heads") or found.get("tags")


def _commit(session: Session, repository_id: int, commit_id: str, revision: str) -> Commit:
    commit = queries.commit_by_id(session, repository_id, commit_id)
    if commit is None:
        raise _not_found(session, repository_id, revision)
    return commit


def _not_found(session: Session, repository_id: int, revision: str) -> RevisionNotFound:
    names = [reference.name for reference in queries.references_of(session, repository_id)]
    near = difflib.get_close_matches(revision, names, n=3) or names[-8:]
    return RevisionNotFound(
        f"Invalid rev id: {revision[:200]}",
        hint=f"there are: {', '.join(near)}" if near else None,
        revisions=near,
    )


def version_of(session: Session, repository_id: int, commit_id: str) -> Reference | None:
    """The version that names this commit; the newest if several do."""
    found = [ref for ref in references_to(session, repository_id, commit_id) if ref.kind == "version"]
    return found[-1] if found else None


def references_to(session: Session, repository_id: int, commit_id: str) -> list[Reference]:
    """All names of a commit, oldest first."""
    return queries.references_to(session, repository_id, commit_id)


def aliases_of(session: Session, repository_id: int, commit_id: str) -> list[str]:
    return [ref.name for ref in queries.references_to(session, repository_id, commit_id) if ref.kind == "alias"]


def references_of(session: Session, repository_id: int) -> list[Reference]:
    """All of them, oldest first."""
    return queries.references_of(session, repository_id)


def versions_of(session: Session, repository_id: int, *, limit: int | None = None) -> list[tuple[Reference, Commit]]:
    """Newest first."""
    return queries.versions_of(session, repository_id, limit=limit)


def branch_named(session: Session, repository_id: int, name: str) -> tuple[Reference, Commit] | None:
    """A branch, and its head."""
    return queries.commits_named(session, repository_id, name).get("heads")


def newest_version(session: Session, repository_id: int) -> tuple[str | None, int]:
    """Its name, None where there is none, and how many versions there are."""
    return queries.newest_version(session, repository_id)


def aliases_and_versions(session: Session, repository_id: int) -> list[tuple[Reference, str | None]]:
    """Each alias, oldest first, and the newest version of the commit that it leads to."""
    return queries.aliases_and_versions(session, repository_id)


def aliases_by_commit(session: Session, repository_id: int) -> dict[CommitId, list[str]]:
    found: dict[CommitId, list[str]] = {}
    for alias in queries.references_of(session, repository_id, kind="alias"):
        found.setdefault(alias.commit_id, []).append(alias.name)
    return found


def reference_named(session: Session, repository_id: int, *, kind: str, name: str) -> Reference | None:
    """The reference of exactly this kind and name; locked until the transaction ends."""
    found = queries.reference_named(session, repository_id, space=space_of(kind), name=name, lock=True)
    return found if found is not None and found.kind == kind else None


def name_in_use(session: Session, repository_id: int, *, kind: str, name: str) -> bool:
    """Whether any reference has the name in the name space of `kind`."""
    return queries.reference_named(session, repository_id, space=space_of(kind), name=name) is not None


def main_heads(session: Session, repository_ids: Sequence[int]) -> Mapping[int, CommitId]:
    return queries.main_heads(session, repository_ids)


# --- moving names -----------------------------------------------------------------------------------------------------


def create_reference(
    session: Session,
    *,
    repository_id: int,
    kind: str,
    name: str,
    commit_id: str,
    by: str,
    message: str = "",
    is_protected: bool = False,
    is_made: bool = False,
) -> Reference:
    """The caller has checked that the name is free. `is_made` as in `move_reference`."""
    reference = queries.insert_reference(
        session,
        repository_id=repository_id,
        kind=kind,
        name=name,
        commit_id=commit_id,
        message=message,
        is_protected=is_protected,
    )
    if not is_made:
        _require_kept(session, commit_id)
    _log_move(session, reference, before=None, after=commit_id, by=by)
    _tell_the_catalog(session, reference)
    return reference


def move_reference(session: Session, reference: Reference, *, to: str, by: str, is_made: bool = False) -> None:
    """`is_made`: the commit was made in this very transaction. Raises `ParentMoved` if somebody else moved it since it
    was read.
    """
    if reference.commit_id == to:
        return
    if not queries.move_reference(session, reference.id, expected=reference.commit_id, to=to):
        raise branch_moved()
    if not is_made:
        _require_kept(session, to)
    _log_move(session, reference, before=reference.commit_id, after=to, by=by)


def _log_move(session: Session, reference: Reference, *, before: str | None, after: str | None, by: str) -> None:
    queries.insert_move(session, reference, from_commit=before, to_commit=after, by=by)
    name_moved(session, reference.repository_id, reference.kind, reference.name, before=before, after=after, by=by)


def _require_kept(session: Session, commit_id: str) -> None:
    """Asked when the name leads there already: who drops commits holds them meanwhile, and looks at names after."""
    if queries.is_dropped(session, commit_id):
        raise RevisionNotFound(f"the commit {commit_id} was dropped by the retention of its repository")


def delete_reference(session: Session, reference: Reference, *, by: str) -> None:
    queries.delete_reference(session, reference.id)
    _log_move(session, reference, before=reference.commit_id, after=None, by=by)
    _tell_the_catalog(session, reference)


def _tell_the_catalog(session: Session, changed: Reference) -> None:
    """A search finds a repository by its aliases, and knows whether any of its versions is good."""
    if changed.kind in ("alias", "version"):
        queries.rewrite_terms_of_names(session, changed.repository_id)


def terms_of_names(session: Session, repository_ids: Sequence[int]) -> dict[int, list[str]]:
    return queries.terms_of_names(session, repository_ids)


def set_protected(session: Session, reference: Reference, *, is_protected: bool) -> None:
    queries.set_protected(session, reference.id, is_protected=is_protected)


def set_yanked(session: Session, version: Reference, *, by: str, reason: str | None) -> None:
    """`by` None undoes it."""
    queries.set_yanked(session, version.id, by=None if reason is None else by, reason=reason)
    act, why = ("version.unyanked", {}) if reason is None else ("version.yanked", {"reason": reason})
    happened(session, act, version.repository_id, {"version": version.name, "commit": version.commit_id, **why}, by=by)


def newest_moves(session: Session, repository_id: int, *, limit: int) -> list[Move]:
    return queries.newest_moves(session, repository_id, limit=limit)


def branch_moved() -> ParentMoved:
    return ParentMoved(
        "The branch was updated since you opened this page. Please refresh and try again.",
        hint="fetch the newest revision, make the change on it, and try again",
    )


# --- commits ----------------------------------------------------------------------------------------------------------


def insert_commit(session: Session, new: NewCommit) -> Commit:
    """Raises `IntegrityError` where a blob was collected meanwhile, or the same request made the same commit."""
    at = new.created_at or now()
    digest = digest_of(new.files)
    made_id = _commit_id(new, digest, at)
    commit = Commit(
        id=made_id,
        repository_id=new.repository_id,
        parent_id=None if new.parent is None else new.parent.id,
        depth=0 if new.parent is None else new.parent.depth + 1,
        digest=digest,
        title=new.title,
        message=new.message,
        author_id=new.author_id,
        author=new.author,
        created_at=at,
        request_key=new.request_key,
        request_digest=new.request_digest,
        size=sum(file.size for file in new.files.values()),
    )
    before = _before(session, new)
    queries.insert_commit(session, commit, [_row(path, file, before, made_id) for path, file in new.files.items()])
    return commit


def insert_listed(
    session: Session,
    *,
    repository_id: int,
    commit_id: CommitId,
    digest: Sha256,
    title: str,
    author_id: int,
    author: str,
    created_at: datetime,
    size: int,
) -> None:
    """A commit of an upstream, under the id that it has there; its files come one by one. Raises `IntegrityError`."""
    commit = Commit(
        id=commit_id,
        repository_id=repository_id,
        parent_id=None,
        depth=0,
        digest=digest,
        title=title,
        message="",
        author_id=author_id,
        author=author,
        created_at=created_at,
        request_key=None,
        request_digest=None,
        size=size,
    )
    queries.insert_commit(session, commit, [])


def _before(session: Session, new: NewCommit) -> Mapping[str, RevisionFile]:
    if new.before is not None:
        return new.before
    return {} if new.parent is None else queries.files_of(session, new.parent.id)


def _row(path: str, file: NewFile, before: Mapping[str, RevisionFile], commit_id: CommitId) -> FileRow:
    """An unchanged file keeps the commit that last changed it."""
    old = before.get(path)
    changed_in = commit_id if old is None or old.sha256 != file.sha256 else old.changed_in
    return FileRow(path, file.sha256, file.is_lfs, changed_in)


def digest_of(files: Mapping[str, NewFile]) -> Sha256:
    return revision_digest(FileEntry(path, file.size, file.sha256) for path, file in files.items())


def _commit_id(new: NewCommit, digest: Sha256, at: datetime) -> CommitId:
    return commit_id(
        repository=new.repository_public_id,
        parent=None if new.parent is None else new.parent.id,
        digest=digest,
        title=new.title,
        message=new.message,
        author=new.author,
        created_at=at.isoformat(),
        request_key=new.request_key,
    )


def is_published(session: Session, repository_id: int) -> bool:
    """Whether there was ever a commit behind the one that a repository is made with."""
    return queries.count_commits(session, repository_id, limit=2) > 1


def commits_by_request(session: Session, repository_id: int, request_keys: Iterable[str]) -> dict[str, Commit]:
    """The commits that these very requests made before, by their keys."""
    return queries.commits_by_request(session, repository_id, request_keys)


def commit_by_id(session: Session, repository_id: int, commit_id: str) -> Commit | None:
    return queries.commit_by_id(session, repository_id, commit_id)


def history(session: Session, head: Commit, *, limit: int) -> list[Commit]:
    """`head` and its ancestors, newest first."""
    return queries.history(session, head, limit=limit)


def sizes_of(session: Session, commits: Sequence[Commit]) -> dict[CommitId, int]:
    """Bytes of the files of each."""
    unknown = queries.sizes_of(session, [commit.id for commit in commits if commit.size is None])
    return {commit.id: unknown.get(commit.id, 0) if commit.size is None else commit.size for commit in commits}


def commits_by_id(session: Session, ids: Sequence[str]) -> dict[str, Commit]:
    return queries.commits_by_id(session, ids)


def files_of(session: Session, commit_id: CommitId) -> dict[str, RevisionFile]:
    """Every file of the revision by path, in order of path."""
    return queries.files_of(session, commit_id)


def file_at(session: Session, commit_id: CommitId, path: str) -> RevisionFile | None:
    return queries.file_at(session, commit_id, path)


def files_at(session: Session, commit_id: CommitId, paths: Iterable[str]) -> dict[str, RevisionFile]:
    """Those of these files that the revision has, by path."""
    return queries.files_at(session, commit_id, paths)


def repositories_with_blob(session: Session, sha256: Sha256, *, limit: int) -> list[int]:
    """Ids of repositories with a commit that has this blob."""
    return queries.repositories_with_blob(session, sha256, limit=limit)


def digests_in(session: Session, repository_id: int, digests: Iterable[Sha256]) -> set[Sha256]:
    """Those of these blobs that any commit of the repository has."""
    return queries.digests_in(session, repository_id, digests)


def lfs_files(session: Session, repository_id: int) -> list[tuple[RevisionFile, Commit]]:
    return queries.lfs_files(session, repository_id)


# --- where they are from ----------------------------------------------------------------------------------------------


def origin_of(session: Session, commit_id: str) -> Origin | None:
    """Of a commit that a mirror brought."""
    return queries.origin_of(session, commit_id)


def record_origin(session: Session, commit_id: str, *, endpoint: str, repository: str, commit: str) -> None:
    """The first one stays: two commits there may hold the same files."""
    queries.insert_origin(session, commit_id, Origin(endpoint, repository, commit))
