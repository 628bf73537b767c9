"""Rows of commits, their files, references and reference moves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorahub.protocol.digests import CommitId, GitSha1, Sha256, sha256_of
from lorahub.protocol.references import LATEST
from sqlalchemy import delete, exists, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.paging import pages
from lorahub_registry.infrastructure.database.tables import Blob as BlobRow
from lorahub_registry.infrastructure.database.tables import (
    CatalogEntry,
    CommitFile,
    RefMove,
    RevisionOrigin,
    UpstreamAnswer,
    UpstreamFile,
)
from lorahub_registry.infrastructure.database.tables import Commit as CommitRow
from lorahub_registry.infrastructure.database.tables import Reference as ReferenceRow

__all__ = ["Commit", "IntegrityError", "Move", "Reference", "RevisionFile"]

_Other = aliased(ReferenceRow)
_UNKNOWN = "0" * 64
_EMPTY = sha256_of(b"")
_MOST_ALIASES = 50
"""Of a repository, that a search finds it by."""


@dataclass(frozen=True, slots=True)
class Commit:
    id: CommitId
    repository_id: int
    parent_id: CommitId | None
    depth: int
    digest: Sha256
    title: str
    message: str
    author_id: int
    author: str
    created_at: datetime
    request_key: str | None
    request_digest: str | None
    size: int | None
    """Bytes of its files. None where an earlier version of the registry wrote it while this one was being installed."""


@dataclass(frozen=True, slots=True)
class RevisionFile:
    path: str
    sha256: Sha256
    size: int
    git_sha1: GitSha1
    is_lfs: bool
    changed_in: CommitId
    is_here: bool = True
    """Whether its bytes are; those of an upstream's file come when they are first read. Until then one of the digests
    is known: sha256 of a large file, git's sha1 of a small one.
    """

    @property
    def digest(self) -> str:
        """What is known of the content in any case: clients tell the two apart by length, and check both."""
        return self.sha256 if self.is_lfs else self.git_sha1


@dataclass(frozen=True, slots=True)
class Origin:
    """The commit of another hub that a commit here is."""

    endpoint: str
    repository: str
    commit: str


@dataclass(frozen=True, slots=True)
class FileRow:
    """What a commit stores of one file; size and git sha1 are the blob's."""

    path: str
    sha256: Sha256
    is_lfs: bool
    changed_in: CommitId


@dataclass(frozen=True, slots=True)
class Reference:
    """`kind` is branch, tag, version or alias. Branches live in the name space `heads`, all others in `tags`."""

    id: int
    repository_id: int
    kind: str
    name: str
    commit_id: CommitId
    message: str
    is_protected: bool
    created_at: datetime
    updated_at: datetime
    yanked_at: datetime | None
    yanked_by: str | None
    yank_reason: str | None


@dataclass(frozen=True, slots=True)
class Move:
    kind: str
    name: str
    from_commit: str | None
    to_commit: str | None
    by: str
    at: datetime


def space_of(kind: str) -> str:
    return "heads" if kind == "branch" else "tags"


# --- commits ----------------------------------------------------------------------------------------------------------


_IS_KEPT = CommitRow.dropped_at.is_(None)
"""A commit that retention has dropped isn't there, but for who asks what a commit's parent was, and for a retry."""


def commit_by_id(session: Session, repository_id: int, commit_id: str) -> Commit | None:
    statement = select(CommitRow).where(CommitRow.repository_id == repository_id, CommitRow.id == commit_id, _IS_KEPT)
    row = session.scalar(statement)
    return None if row is None else _commit(row)


def commit_answered(session: Session, repository_id: int, revision: str) -> Commit | None:
    """What an upstream last said that a revision of its repository is."""
    statement = (
        select(CommitRow)
        .join(UpstreamAnswer, UpstreamAnswer.commit_id == CommitRow.id)
        .where(
            UpstreamAnswer.repository_id == repository_id,
            UpstreamAnswer.kind == "revision",
            UpstreamAnswer.revision == revision,
        )
    )
    row = session.scalar(statement)
    return None if row is None else _commit(row)


def commits_by_prefix(session: Session, repository_id: int, prefix: str) -> list[Commit]:
    """At most two: enough to tell a unique one from an ambiguous one."""
    statement = (
        select(CommitRow)
        .where(CommitRow.repository_id == repository_id, CommitRow.id >= prefix, CommitRow.id < prefix + "g", _IS_KEPT)
        .limit(2)
    )
    return [_commit(row) for row in session.scalars(statement)]


def newest_commit_by_digest(session: Session, repository_id: int, digest: str) -> Commit | None:
    statement = (
        select(CommitRow)
        .where(CommitRow.repository_id == repository_id, CommitRow.digest == digest, _IS_KEPT)
        .order_by(CommitRow.created_at.desc())
    )
    row = session.scalar(statement.limit(1))
    return None if row is None else _commit(row)


def commits_by_request(session: Session, repository_id: int, request_keys: Iterable[str]) -> dict[str, Commit]:
    """By request key; those that retention has dropped among them."""
    which = CommitRow.repository_id == repository_id, CommitRow.request_key.in_(set(request_keys))
    return {row.request_key or "": _commit(row) for row in session.scalars(select(CommitRow).where(*which))}


def count_commits(session: Session, repository_id: int, *, limit: int) -> int:
    """At most `limit`; those whose files retention has dropped among them."""
    found = select(CommitRow.id).where(CommitRow.repository_id == repository_id).limit(limit)
    return session.scalar(select(func.count()).select_from(found.subquery())) or 0


def is_dropped(session: Session, commit_id: str) -> bool:
    return session.scalar(select(CommitRow.id).where(CommitRow.id == commit_id, ~_IS_KEPT)) is not None


def insert_commit(session: Session, commit: Commit, files: Iterable[FileRow]) -> None:
    session.add(
        CommitRow(
            id=commit.id,
            repository_id=commit.repository_id,
            parent_id=commit.parent_id,
            depth=commit.depth,
            digest=commit.digest,
            title=commit.title,
            message=commit.message,
            author_id=commit.author_id,
            author=commit.author,
            created_at=commit.created_at,
            request_key=commit.request_key,
            request_digest=commit.request_digest,
            size=commit.size,
        )
    )
    session.flush()
    rows = [
        {
            "commit_id": commit.id,
            "path": file.path,
            "blob_sha256": file.sha256,
            "is_lfs": file.is_lfs,
            "changed_in": file.changed_in,
        }
        for file in files
    ]
    if rows:
        session.execute(insert(CommitFile), rows)


def history(session: Session, head: Commit, *, limit: int) -> list[Commit]:
    """`head` and its ancestors, newest first, at most `limit`."""
    first = select(CommitRow.id, CommitRow.parent_id, literal(1).label("place")).where(CommitRow.id == head.id)
    known = first.cte("line", recursive=True)
    parents = (
        select(CommitRow.id, CommitRow.parent_id, known.c.place + 1)
        .join(known, CommitRow.id == known.c.parent_id)
        .where(CommitRow.repository_id == head.repository_id, _IS_KEPT, known.c.place < limit)
    )
    line = known.union_all(parents)
    statement = select(CommitRow).join(line, line.c.id == CommitRow.id).order_by(line.c.place)
    return [_commit(row) for row in session.scalars(statement)]


def commits_by_id(session: Session, ids: Iterable[str]) -> dict[str, Commit]:
    found: dict[str, Commit] = {}
    for page in pages(ids):
        rows = session.scalars(select(CommitRow).where(CommitRow.id.in_(page)))
        found.update((row.id, _commit(row)) for row in rows)
    return found


def sizes_of(session: Session, ids: Iterable[str]) -> dict[str, int]:
    """Bytes of the files of each, added up."""
    found: dict[str, int] = {}
    for page in pages(ids):
        statement = (
            select(CommitFile.commit_id, func.sum(BlobRow.size))
            .join(BlobRow, BlobRow.sha256 == CommitFile.blob_sha256)
            .where(CommitFile.commit_id.in_(page))
            .group_by(CommitFile.commit_id)
        )
        found.update((commit_id, int(size)) for commit_id, size in session.execute(statement))
    return found


# --- files ------------------------------------------------------------------------------------------------------------


def _files_statement(commit_id: str, *paths: str) -> Any:
    """Files whose bytes are here, and those of an upstream's commit whose aren't."""
    here = (
        select(
            CommitFile.path,
            CommitFile.blob_sha256.label("digest"),
            BlobRow.size,
            BlobRow.git_sha1,
            CommitFile.is_lfs,
            CommitFile.changed_in,
            literal(True).label("is_here"),
        )
        .join(BlobRow, BlobRow.sha256 == CommitFile.blob_sha256)
        .where(CommitFile.commit_id == commit_id)
    )
    has_bytes = exists().where(CommitFile.commit_id == UpstreamFile.commit_id, CommitFile.path == UpstreamFile.path)
    known = UpstreamFile.digest
    elsewhere = select(
        UpstreamFile.path,
        known,
        UpstreamFile.size,
        known,
        func.length(known) == 64,
        UpstreamFile.commit_id,
        literal(False),
    ).where(UpstreamFile.commit_id == commit_id, ~has_bytes)
    if paths:
        here, elsewhere = here.where(CommitFile.path.in_(paths)), elsewhere.where(UpstreamFile.path.in_(paths))
    return here.union_all(elsewhere)


def files_of(session: Session, commit_id: CommitId) -> dict[str, RevisionFile]:
    """Every file of the revision by path, in order of path."""
    found = session.execute(_files_statement(commit_id)).all()
    ordered = sorted(found, key=lambda row: row.path)  # here: databases sort text by rules of their own
    return {row.path: _file(row) for row in ordered}


def file_at(session: Session, commit_id: CommitId, path: str) -> RevisionFile | None:
    found = session.execute(_files_statement(commit_id, path)).first()
    return None if found is None else _file(found)


def files_at(session: Session, commit_id: CommitId, paths: Iterable[str]) -> dict[str, RevisionFile]:
    found: dict[str, RevisionFile] = {}
    for page in pages(paths):
        found.update((row.path, _file(row)) for row in session.execute(_files_statement(commit_id, *page)))
    return found


def digests_in(session: Session, repository_id: int, digests: Iterable[Sha256]) -> set[Sha256]:
    found: set[Sha256] = set()
    for page in pages(digests):
        is_in = exists().where(
            CommitFile.blob_sha256 == BlobRow.sha256,
            CommitRow.id == CommitFile.commit_id,
            CommitRow.repository_id == repository_id,
        )
        statement = select(BlobRow.sha256).where(BlobRow.sha256.in_(page), is_in)
        found.update(map(Sha256, session.scalars(statement)))
    return found


def repositories_with_blob(session: Session, sha256: Sha256, *, limit: int) -> list[int]:
    statement = (
        select(CommitRow.repository_id)
        .join(CommitFile, CommitFile.commit_id == CommitRow.id)
        .where(CommitFile.blob_sha256 == sha256)
        .distinct()
        .limit(limit)
    )
    return list(session.scalars(statement))


def lfs_files(session: Session, repository_id: int) -> list[tuple[RevisionFile, Commit]]:
    """Each large file that any commit of the repository has, once for each path and content, with its newest commit."""
    statement = (
        select(CommitFile, BlobRow.size, BlobRow.git_sha1, CommitRow)
        .join(BlobRow, BlobRow.sha256 == CommitFile.blob_sha256)
        .join(CommitRow, CommitRow.id == CommitFile.commit_id)
        .where(CommitRow.repository_id == repository_id, CommitFile.is_lfs)
        .order_by(CommitRow.created_at.desc(), CommitFile.path)
    )
    found: dict[tuple[str, str], tuple[RevisionFile, Commit]] = {}
    for row, size, git_sha1, commit in session.execute(statement):
        sha256, changed_in = Sha256(row.blob_sha256), CommitId(row.changed_in)
        file = RevisionFile(row.path, sha256, size, GitSha1(git_sha1), row.is_lfs, changed_in)
        found.setdefault((row.path, row.blob_sha256), (file, _commit(commit)))
    return list(found.values())


# --- references -------------------------------------------------------------------------------------------------------


def references_of(session: Session, repository_id: int, *, kind: str | None = None) -> list[Reference]:
    """Oldest first, all or those of a kind."""
    statement = select(ReferenceRow).where(ReferenceRow.repository_id == repository_id)
    if kind is not None:
        statement = statement.where(ReferenceRow.kind == kind)
    return [_reference(row) for row in session.scalars(statement.order_by(ReferenceRow.id))]


def references_to(session: Session, repository_id: int, commit_id: str) -> list[Reference]:
    statement = select(ReferenceRow).where(
        ReferenceRow.repository_id == repository_id, ReferenceRow.commit_id == commit_id
    )
    return [_reference(row) for row in session.scalars(statement.order_by(ReferenceRow.id))]


def reference_named(
    session: Session, repository_id: int, *, space: str, name: str, lock: bool = False
) -> Reference | None:
    statement = select(ReferenceRow).where(
        ReferenceRow.repository_id == repository_id, ReferenceRow.space == space, ReferenceRow.name == name
    )
    row = session.scalar(statement.with_for_update() if lock else statement)
    return None if row is None else _reference(row)


def commits_named(session: Session, repository_id: int, name: str) -> dict[str, tuple[Reference, Commit]]:
    """By name space: the reference that is called so, and the commit that it leads to."""
    statement = (
        select(ReferenceRow, CommitRow)
        .join(CommitRow, CommitRow.id == ReferenceRow.commit_id)
        .where(ReferenceRow.repository_id == repository_id, ReferenceRow.name == name, _IS_KEPT)
    )
    return {row.space: (_reference(row), _commit(commit)) for row, commit in session.execute(statement)}


def versions_of(session: Session, repository_id: int, *, limit: int | None = None) -> list[tuple[Reference, Commit]]:
    """Newest first."""
    statement = (
        select(ReferenceRow, CommitRow)
        .join(CommitRow, CommitRow.id == ReferenceRow.commit_id)
        .where(ReferenceRow.repository_id == repository_id, ReferenceRow.kind == "version")
        .order_by(ReferenceRow.id.desc())
        .limit(limit)
    )
    return [(_reference(row), _commit(commit)) for row, commit in session.execute(statement)]


def newest_version(session: Session, repository_id: int) -> tuple[str | None, int]:
    """Its name, and how many versions there are."""
    statement = (
        select(ReferenceRow.name, func.count().over())
        .where(ReferenceRow.repository_id == repository_id, ReferenceRow.kind == "version")
        .order_by(ReferenceRow.id.desc())
        .limit(1)
    )
    found = session.execute(statement).first()
    return (None, 0) if found is None else (found[0], found[1])


def aliases_and_versions(session: Session, repository_id: int) -> list[tuple[Reference, str | None]]:
    """Each alias, oldest first, and the newest version of the commit that it leads to."""
    version = (
        select(func.max(_Other.id))
        .where(
            _Other.repository_id == repository_id,
            _Other.kind == "version",
            _Other.commit_id == ReferenceRow.commit_id,
        )
        .scalar_subquery()
    )
    named = aliased(ReferenceRow)
    statement = (
        select(ReferenceRow, named.name)
        .outerjoin(named, named.id == version)
        .where(ReferenceRow.repository_id == repository_id, ReferenceRow.kind == "alias")
        .order_by(ReferenceRow.id)
    )
    return [(_reference(row), name) for row, name in session.execute(statement)]


def main_heads(session: Session, repository_ids: Sequence[int]) -> Mapping[int, CommitId]:
    statement = select(ReferenceRow.repository_id, ReferenceRow.commit_id).where(
        ReferenceRow.repository_id.in_(repository_ids),
        ReferenceRow.space == "heads",
        ReferenceRow.name == "main",
    )
    return {repository_id: CommitId(commit_id) for repository_id, commit_id in session.execute(statement)}


def terms_of_names(session: Session, repository_ids: Sequence[int]) -> dict[int, list[str]]:
    """What a search can ask of repositories' names: `alias:…`, and `yanked:1` where every version is withdrawn."""
    columns = (ReferenceRow.repository_id, ReferenceRow.kind, ReferenceRow.name, ReferenceRow.yanked_at)
    statement = select(*columns).where(
        ReferenceRow.repository_id.in_(repository_ids), ReferenceRow.kind.in_(("alias", "version"))
    )
    found: dict[int, list[str]] = {repository_id: [] for repository_id in repository_ids}
    are_withdrawn: dict[int, bool] = {}
    for repository_id, kind, name, yanked_at in session.execute(statement.order_by(ReferenceRow.id)):
        if kind == "version":
            are_withdrawn[repository_id] = are_withdrawn.get(repository_id, True) and yanked_at is not None
        elif name != LATEST and len(found[repository_id]) < _MOST_ALIASES:
            found[repository_id].append(f"alias:{name}")
    for repository_id in (number for number, is_so in are_withdrawn.items() if is_so):
        found[repository_id].append("yanked:1")
    return found


def rewrite_terms_of_names(session: Session, repository_id: int) -> None:
    """In the catalog's entry of the repository; the others stay as they are."""
    entry = session.get(CatalogEntry, repository_id, with_for_update=True, populate_existing=True)
    if entry is None:
        return  # made by an earlier version; `reindex` writes it
    others = [term for term in entry.terms if not term.startswith(("alias:", "yanked:"))]
    terms = [*others, *terms_of_names(session, [repository_id])[repository_id]]
    if terms != entry.terms:
        entry.terms = terms
        session.flush()


def insert_reference(
    session: Session,
    *,
    repository_id: int,
    kind: str,
    name: str,
    commit_id: str,
    message: str = "",
    is_protected: bool = False,
) -> Reference:
    at = now()
    row = ReferenceRow(
        repository_id=repository_id,
        space=space_of(kind),
        kind=kind,
        name=name,
        commit_id=commit_id,
        message=message,
        is_protected=is_protected,
        created_at=at,
        updated_at=at,
    )
    session.add(row)
    session.flush()
    return _reference(row)


def move_reference(session: Session, reference_id: int, *, expected: str, to: str) -> bool:
    """Compare-and-swap: False if the reference is no longer at `expected`."""
    changed = session.execute(
        update(ReferenceRow)
        .where(ReferenceRow.id == reference_id, ReferenceRow.commit_id == expected)
        .values(commit_id=to, updated_at=now())
        .returning(ReferenceRow.id)
    )
    return changed.first() is not None


def set_protected(session: Session, reference_id: int, *, is_protected: bool) -> None:
    session.execute(update(ReferenceRow).where(ReferenceRow.id == reference_id).values(is_protected=is_protected))


def set_yanked(session: Session, reference_id: int, *, by: str | None, reason: str | None) -> None:
    session.execute(
        update(ReferenceRow)
        .where(ReferenceRow.id == reference_id)
        .values(yanked_at=None if by is None else now(), yanked_by=by, yank_reason=reason)
    )


def delete_reference(session: Session, reference_id: int) -> None:
    session.execute(delete(ReferenceRow).where(ReferenceRow.id == reference_id))


def insert_move(
    session: Session, reference: Reference, *, from_commit: str | None, to_commit: str | None, by: str
) -> None:
    session.add(
        RefMove(
            repository_id=reference.repository_id,
            kind=reference.kind,
            name=reference.name,
            from_commit=from_commit,
            to_commit=to_commit,
            by=by,
            at=now(),
        )
    )


def newest_moves(session: Session, repository_id: int, *, limit: int) -> list[Move]:
    statement = select(RefMove).where(RefMove.repository_id == repository_id).order_by(RefMove.id.desc()).limit(limit)
    return [
        Move(row.kind, row.name, row.from_commit, row.to_commit, row.by, row.at) for row in session.scalars(statement)
    ]


def _commit(row: CommitRow) -> Commit:
    return Commit(
        id=CommitId(row.id),
        repository_id=row.repository_id,
        parent_id=None if row.parent_id is None else CommitId(row.parent_id),
        depth=row.depth,
        digest=Sha256(row.digest),
        title=row.title,
        message=row.message,
        author_id=row.author_id,
        author=row.author,
        created_at=row.created_at,
        request_key=row.request_key,
        request_digest=row.request_digest,
        size=row.size,
    )


def origin_of(session: Session, commit_id: str) -> Origin | None:
    row = session.get(RevisionOrigin, commit_id)
    return None if row is None else Origin(row.endpoint, row.repository, row.remote_commit)


def insert_origin(session: Session, commit_id: str, origin: Origin) -> None:
    """Where there is none."""
    if session.get(RevisionOrigin, commit_id) is None:
        session.add(
            RevisionOrigin(
                commit_id=commit_id,
                endpoint=origin.endpoint,
                repository=origin.repository,
                remote_commit=origin.commit,
            )
        )
        session.flush()


def _file(row: Any) -> RevisionFile:
    """An upstream says one of the digests; the other one is known with the bytes."""
    return RevisionFile(
        path=row.path,
        sha256=Sha256(row.digest if row.is_here or row.is_lfs else _UNKNOWN if row.size else _EMPTY),
        size=row.size,
        git_sha1=GitSha1(row.git_sha1 if row.is_here or not row.is_lfs else ""),
        is_lfs=row.is_lfs,
        changed_in=CommitId(row.changed_in),
        is_here=row.is_here,
    )


def _reference(row: ReferenceRow) -> Reference:
    return Reference(
        id=row.id,
        repository_id=row.repository_id,
        kind=row.kind,
        name=row.name,
        commit_id=CommitId(row.commit_id),
        message=row.message,
        is_protected=row.is_protected,
        created_at=row.created_at,
        updated_at=row.updated_at,
        yanked_at=row.yanked_at,
        yanked_by=row.yanked_by,
        yank_reason=row.yank_reason,
    )
