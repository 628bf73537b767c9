"""Rows of upstreams: their answers, the files that they listed, and transfers under way."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lorahub.protocol.digests import CommitId, Sha256
from lorahub.protocol.names import RepositoryName, similarity_key
from sqlalchemy import Select, delete, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.clock import clock
from lorahub_registry.infrastructure.database.paging import pages
from lorahub_registry.infrastructure.database.tables import (
    Account,
    AdapterFacts,
    Blob,
    CatalogEntry,
    Commit,
    CommitFacts,
    CommitFile,
    Repository,
    RetiredName,
    UpstreamAnswer,
    UpstreamFile,
)
from lorahub_registry.infrastructure.database.tables import Upstream as UpstreamRow
from lorahub_registry.infrastructure.database.tables import UpstreamTransfer as TransferRow

__all__ = ["IntegrityError"]


# --- which there are --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """Of an upstream. `definition` None: it is one of the settings'."""

    name: str
    definition: dict[str, Any] | None
    sealed_token: bytes | None
    quiet_until: datetime | None
    fault: str | None


def all_rows(session: Session) -> dict[str, Row]:
    return {
        row.name: Row(row.name, row.definition, row.sealed_token, row.quiet_until, row.fault)
        for row in session.scalars(select(UpstreamRow).order_by(UpstreamRow.name))
    }


def row_named(session: Session, name: str) -> Row | None:
    row = session.get(UpstreamRow, name)
    return None if row is None else Row(row.name, row.definition, row.sealed_token, row.quiet_until, row.fault)


def write_row(session: Session, name: str, **values: object) -> None:
    """Made where it is missing."""
    changed = update(UpstreamRow).where(UpstreamRow.name == name).values(**values).returning(UpstreamRow.name)
    if session.execute(changed).first() is None:
        session.execute(insert(UpstreamRow).values(name=name, created_at=now(), **values))


def delete_row(session: Session, name: str) -> None:
    session.execute(delete(UpstreamRow).where(UpstreamRow.name == name))


# --- what is known of a name ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownName:
    """What is here under a name."""

    repository_id: int | None
    name: str | None
    """As it is spelled here."""
    is_private: bool
    upstream: str | None
    """Whose the repository is; None: this registry's, or nobody's."""
    is_taken: bool
    """Whether the namespace, or the name before it was given up, is this registry's own."""
    commit_id: str | None
    """What the revision was when the upstream was last asked."""
    etag: str | None
    checked_at: datetime | None


def place_of(session: Session, name: RepositoryName, key: str, revision: str) -> KnownName:
    """In one statement."""
    of_revision = (
        (UpstreamAnswer.repository_id == Repository.id)
        & (UpstreamAnswer.kind == "revision")
        & (UpstreamAnswer.revision == revision)
    )
    namespace = select(Account.id).where(Account.name_key == similarity_key(name.namespace), Account.upstream.is_(None))
    is_taken = or_(exists(namespace), exists().where(RetiredName.name_key == key))
    statement = (
        select(Repository, UpstreamAnswer, is_taken)
        .select_from(select(func.count()).subquery())  # one row, whatever is here
        .outerjoin(Repository, Repository.name_key == key)
        .outerjoin(UpstreamAnswer, of_revision)
    )
    row = session.execute(statement).one()
    repository: Repository | None = row[0]
    answer: UpstreamAnswer | None = row[1]
    return KnownName(
        repository_id=None if repository is None else repository.id,
        name=None if repository is None else f"{repository.namespace}/{repository.name}",
        is_private=repository is not None and repository.is_private,
        upstream=None if repository is None else repository.upstream,
        is_taken=bool(row[2]),
        commit_id=None if answer is None else answer.commit_id,
        etag=None if answer is None else answer.etag,
        checked_at=None if answer is None else answer.checked_at,
    )


def has_commit(session: Session, repository_id: int, commit_id: str) -> bool:
    which = Commit.id == commit_id, Commit.repository_id == repository_id
    return session.scalar(select(Commit.id).where(*which)) is not None


def checked_at(session: Session, repository_id: int, revision: str) -> datetime | None:
    """When an upstream was last asked what this revision is."""
    return session.scalar(
        select(UpstreamAnswer.checked_at).where(
            UpstreamAnswer.repository_id == repository_id,
            UpstreamAnswer.kind == "revision",
            UpstreamAnswer.revision == revision,
        )
    )


# --- what it said -----------------------------------------------------------------------------------------------------


def insert_namespace(session: Session, name: str, *, upstream: str) -> int:
    """Without limits of its own: what upstreams bring is bounded in sum."""
    row = Account(
        name=name,
        name_key=similarity_key(name),
        kind="organisation",
        fullname=name,
        is_admin=False,
        created_at=now(),
        upstream=upstream,
        byte_quota=0,
        repository_quota=0,
    )
    session.add(row)
    session.flush()
    return row.id


def namespace_id(session: Session, name: str) -> tuple[int, str] | None:
    """Its id and how it is spelled."""
    row = session.scalar(select(Account).where(Account.name_key == similarity_key(name)))
    return None if row is None else (row.id, row.name)


def insert_listing(session: Session, commit_id: CommitId, files: Iterable[tuple[str, int, str]]) -> None:
    """`files`: path, size and digest of each."""
    rows = [
        {"commit_id": commit_id, "path": path, "size": size, "digest": digest, "read_at": None}
        for path, size, digest in files
    ]
    if rows:
        session.execute(insert(UpstreamFile), rows)


def insert_what_is_here(session: Session, repository_id: int, commit_id: CommitId) -> None:
    """Files of the commit whose bytes an earlier commit of the repository brought."""
    earlier = (
        select(UpstreamFile.digest, func.min(CommitFile.blob_sha256).label("sha256"))
        .join(CommitFile, (CommitFile.commit_id == UpstreamFile.commit_id) & (CommitFile.path == UpstreamFile.path))
        .join(Commit, Commit.id == UpstreamFile.commit_id)
        .where(Commit.repository_id == repository_id)
        .group_by(UpstreamFile.digest)
        .subquery()
    )
    _insert_files(session, UpstreamFile.commit_id == commit_id, brought=earlier)


def insert_files(session: Session, repository_id: int, digest: str, sha256: Sha256) -> None:
    """Bytes came: wherever a commit of the repository has them, its file is a file like any other."""
    brought = select(Blob.sha256.label("sha256")).where(Blob.sha256 == sha256).subquery()
    which = UpstreamFile.digest == digest, Commit.repository_id == repository_id
    _insert_files(session, *which, brought=brought)


def _insert_files(session: Session, *which: Any, brought: Any) -> None:
    is_here = exists().where(CommitFile.commit_id == UpstreamFile.commit_id, CommitFile.path == UpstreamFile.path)
    same = brought.c.digest == UpstreamFile.digest if "digest" in brought.c else brought.c.sha256.is_not(None)
    new = (
        select(
            UpstreamFile.commit_id,
            UpstreamFile.path,
            brought.c.sha256,
            func.length(UpstreamFile.digest) == 64,
            UpstreamFile.commit_id,
        )
        .join(Commit, Commit.id == UpstreamFile.commit_id)
        .join(brought, same)
        .where(*which, ~is_here)
    )
    columns = ["commit_id", "path", "blob_sha256", "is_lfs", "changed_in"]
    session.execute(insert(CommitFile).from_select(columns, new))


def write_answer(
    session: Session,
    repository_id: int,
    kind: str,
    revision: str,
    *,
    commit_id: str | None = None,
    etag: str | None = None,
    said: dict[str, Any] | None = None,
) -> None:
    values = {"commit_id": commit_id, "etag": etag, "said": said, "checked_at": now()}
    if not _change_answer(session, repository_id, kind, revision, **values):
        session.execute(
            insert(UpstreamAnswer).values(repository_id=repository_id, kind=kind, revision=revision, **values)
        )


def touch_answer(session: Session, repository_id: int, kind: str, revision: str) -> None:
    """It says the same as before."""
    _change_answer(session, repository_id, kind, revision, checked_at=now())


def _change_answer(session: Session, repository_id: int, kind: str, revision: str, **values: object) -> bool:
    changed = (
        update(UpstreamAnswer)
        .where(
            UpstreamAnswer.repository_id == repository_id,
            UpstreamAnswer.kind == kind,
            UpstreamAnswer.revision == revision,
        )
        .values(**values)
        .returning(UpstreamAnswer.kind)
    )
    return session.execute(changed).first() is not None


def delete_answer(session: Session, repository_id: int, kind: str, revision: str) -> None:
    session.execute(
        delete(UpstreamAnswer).where(
            UpstreamAnswer.repository_id == repository_id,
            UpstreamAnswer.kind == kind,
            UpstreamAnswer.revision == revision,
        )
    )


def answer(session: Session, repository_id: int, kind: str, revision: str) -> tuple[dict[str, Any], datetime] | None:
    """What it said, and when."""
    row = session.get(UpstreamAnswer, (repository_id, kind, revision))
    return None if row is None or row.said is None else (row.said, row.checked_at)


def describe(
    session: Session, repository_id: int, commit_id: CommitId, facts: dict[str, Any], *, is_main: bool
) -> None:
    """Facts of the commit, and of the repository's main what a search goes by."""
    session.add(CommitFacts(commit_id=commit_id, **facts))
    if is_main:
        terms = [f"tag:{tag}" for tag in facts["tags"]]
        total = (facts["safetensors"] or {}).get("total")
        session.execute(
            update(CatalogEntry)
            .where(CatalogEntry.repository_id == repository_id)
            .values(terms=terms, parameters=total if isinstance(total, int) and 0 <= total < 1 << 62 else None)
        )


def change_repository(session: Session, repository_id: int, **columns: object) -> None:
    session.execute(update(Repository).where(Repository.id == repository_id).values(**columns))


# --- transfers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transfer:
    """Of one content to one repository."""

    repository_id: int
    digest: str
    holder: str | None
    is_held: bool
    """Somebody's lease on it isn't over."""
    upload_id: str | None
    part_bytes: int
    done: int
    fault: dict[str, Any] | None
    retry_at: datetime | None


def transfer_of(session: Session, repository_id: int, digest: str) -> Transfer | None:
    row = session.get(TransferRow, (repository_id, digest), populate_existing=True)
    return None if row is None else _transfer(session, row)


def _transfer(session: Session, row: TransferRow) -> Transfer:
    is_held = row.holder is not None and row.lease_until is not None and row.lease_until > clock(session)
    return Transfer(
        repository_id=row.repository_id,
        digest=row.digest,
        holder=row.holder,
        is_held=is_held,
        upload_id=row.upload_id,
        part_bytes=row.part_bytes,
        done=row.done,
        fault=row.fault,
        retry_at=row.retry_at,
    )


def claim(session: Session, repository_id: int, digest: str, *, holder: str, lease: timedelta, part_bytes: int) -> bool:
    """Whether the transfer is the holder's from now on. Raises `IntegrityError` where another was first to begin it."""
    at = clock(session)
    is_free = or_(TransferRow.holder.is_(None), TransferRow.lease_until <= at)
    is_time = or_(TransferRow.retry_at.is_(None), TransferRow.retry_at <= at)
    taken = (
        update(TransferRow)
        .where(TransferRow.repository_id == repository_id, TransferRow.digest == digest, is_free, is_time)
        .values(holder=holder, lease_until=at + lease, fault=None, retry_at=None)
        .returning(TransferRow.digest)
    )
    if session.execute(taken).first() is not None:
        return True
    known = exists().where(TransferRow.repository_id == repository_id, TransferRow.digest == digest)
    if session.scalar(select(known)):
        return False
    session.execute(
        insert(TransferRow).values(
            repository_id=repository_id,
            digest=digest,
            holder=holder,
            lease_until=at + lease,
            part_bytes=part_bytes,
            done=0,
        )
    )
    return True


def change_transfer(
    session: Session, repository_id: int, digest: str, *, holder: str, lease: timedelta | None, **values: Any
) -> bool:
    """Goes on holding it, or lets it go with `lease` None. False where it is somebody else's."""
    if lease is None:
        values |= {"holder": None, "lease_until": None}
    else:
        values["lease_until"] = clock(session) + lease
    changed = (
        update(TransferRow)
        .where(TransferRow.repository_id == repository_id, TransferRow.digest == digest, TransferRow.holder == holder)
        .values(**values)
        .returning(TransferRow.digest)
    )
    return session.execute(changed).first() is not None


def delete_transfer(session: Session, repository_id: int, digest: str) -> None:
    session.execute(delete(TransferRow).where(TransferRow.repository_id == repository_id, TransferRow.digest == digest))


def blob_brought(session: Session, repository_id: int, digest: str) -> Sha256 | None:
    """The blob with these bytes, where a commit of the repository has it."""
    statement = (
        select(CommitFile.blob_sha256)
        .join(UpstreamFile, (UpstreamFile.commit_id == CommitFile.commit_id) & (UpstreamFile.path == CommitFile.path))
        .join(Commit, Commit.id == CommitFile.commit_id)
        .where(UpstreamFile.digest == digest, Commit.repository_id == repository_id)
    )
    found = session.scalar(statement.limit(1))
    return None if found is None else Sha256(found)


# --- what is kept -----------------------------------------------------------------------------------------------------


def mark_read(session: Session, commit_id: str, path: str) -> None:
    session.execute(
        update(UpstreamFile).where(UpstreamFile.commit_id == commit_id, UpstreamFile.path == path).values(read_at=now())
    )


def last_read(session: Session, commit_id: str, path: str) -> datetime | None:
    row = session.get(UpstreamFile, (commit_id, path))
    return None if row is None else row.read_at


def _bytes_by(*columns: Any) -> Select[Any]:
    """Of repositories, their blobs' digests and sizes, behind these columns."""
    return (
        select(*columns, CommitFile.blob_sha256, Blob.size)
        .select_from(Repository)
        .join(Commit, Commit.repository_id == Repository.id)
        .join(CommitFile, CommitFile.commit_id == Commit.id)
        .join(Blob, Blob.sha256 == CommitFile.blob_sha256)
    )


def bytes_here(session: Session) -> int:
    """Of all upstreams' files, once for each namespace and content."""
    held = _bytes_by(Repository.namespace_id).where(Repository.upstream.is_not(None)).distinct().subquery()
    return int(session.scalar(select(func.coalesce(func.sum(held.c.size), 0))) or 0)


@dataclass(frozen=True, slots=True)
class MayGo:
    """Bytes of an upstream's repository that may go."""

    repository_id: int
    namespace_id: int
    sha256: Sha256
    size: int


def least_read(session: Session, *, limit: int) -> list[MayGo]:
    """Those that were read longest ago; not of repositories that are kept, nor of bases that an adapter here names."""
    is_named = exists().where(AdapterFacts.base_key == func.lower(Repository.namespace + "/" + Repository.name))
    statement = (
        _bytes_by(Repository.id, Repository.namespace_id)
        .join(UpstreamFile, (UpstreamFile.commit_id == CommitFile.commit_id) & (UpstreamFile.path == CommitFile.path))
        .where(Repository.upstream.is_not(None), Repository.kept_at.is_(None), ~is_named)
        .group_by(Repository.id, Repository.namespace_id, CommitFile.blob_sha256, Blob.size)
        .order_by(func.max(func.coalesce(UpstreamFile.read_at, Blob.created_at)), CommitFile.blob_sha256)
        .limit(limit)
    )
    return [MayGo(row[0], row[1], Sha256(row[2]), row[3]) for row in session.execute(statement)]


def drop_files(session: Session, repository_id: int, sha256: Sha256) -> None:
    """The upstream's commits know of them still, and have their bytes no more."""
    of_repository = select(Commit.id).where(Commit.repository_id == repository_id).scalar_subquery()
    session.execute(
        delete(CommitFile)
        .where(CommitFile.blob_sha256 == sha256, CommitFile.commit_id.in_(of_repository))
        .execution_options(synchronize_session=False)
    )


def kept_of(session: Session, names: Collection[str]) -> list[tuple[str, int, int]]:
    """Of each upstream: its name, how many repositories are here, how many bytes of them."""
    found = []
    for page in pages(names):
        held = _bytes_by(Repository.upstream).where(Repository.upstream.in_(page)).distinct().subquery()
        sizes = dict(
            tuple(row) for row in session.execute(select(held.c.upstream, func.sum(held.c.size)).group_by(held.c[0]))
        )
        counts = (
            select(Repository.upstream, func.count()).where(Repository.upstream.in_(page)).group_by(Repository.upstream)
        )
        found += [(str(name), count, int(sizes.get(name, 0))) for name, count in session.execute(counts)]
    return found
