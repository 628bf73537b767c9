"""Taking a repository out as a record, and taking in a bundle of them:

prove the manifest → keep every content, verified → inspect and judge every new commit → record

All of it becomes visible in one transaction, or none. A commit keeps its id, because it keeps everything that the id is
made of; a name that is here already is moved forward or left alone, never taken back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lorahub.errors import AlreadyExists, NotSupported, PayloadTooLarge
from lorahub.protocol.bundles import Reader
from lorahub.protocol.digests import CommitId, Sha256
from lorahub.protocol.names import is_version
from lorahub.protocol.records import (
    MOST_COMMITS,
    Record,
    RecordedCommit,
    RecordedFile,
    RecordedReference,
)

from lorahub_registry.core.access import OpenedRepository
from lorahub_registry.core.accounts.permissions import Principal, require_site_admin
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.blobs import service as blobs
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.repositories import service as repositories
from lorahub_registry.core.repositories.service import Repository
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit, NewCommit, NewFile, Reference
from lorahub_registry.features.catalog.service import Facts, derive_facts, record_entry, record_facts
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.checks.service import Judged
from lorahub_registry.features.publishing.gate import check_new_files
from lorahub_registry.features.statistics.service import want as want_statistics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

_SMALL_BYTES = 1 << 20  # a file of a bundle that is kept together with others

# --- out --------------------------------------------------------------------------------------------------------------


def record_of(opened: OpenedRepository, revision: str | None) -> Record:
    """The whole repository, or as it was at a revision: its ancestors, and the names that lead to them.

    Raises `RepositoryNotFound`, `GatedRepository`, `Quarantined`, `RevisionNotFound`, `VersionYanked`;
    `PayloadTooLarge` for more commits than a record has.
    """
    opened.require_readable()
    session, repository = opened.session, opened.repository
    if repository.upstream is not None:
        raise NotSupported(
            f"{repository.full_name} is of the upstream {repository.upstream}: its ids can't be proved",
            hint="pull it, and push it under a name of your own",
        )
    names = revisions.references_of(session, repository.id)
    if revision is None:
        heads = {reference.commit_id for reference in names}
        commits = _with_ancestors(session, repository, heads)
    else:
        head = opened.at(revision).commit
        commits = _with_ancestors(session, repository, {head.id})
        names = [one for one in names if one.kind != "branch" and one.commit_id in commits]
    if any(commit.parent_id not in (None, *commits) for commit in commits.values()):
        raise NotSupported(
            f"the history of {repository.full_name} was cut by its retention, so its ids can't be proved",
            hint="pull the versions that you need, and push them there",
        )
    recorded = [_recorded(one) for one in names]
    if revision is not None:
        recorded.append(RecordedReference("branch", "main", head.id, "", is_protected=False, yank_reason=None))
    ordered = sorted(commits.values(), key=lambda commit: (commit.depth, commit.created_at, commit.id))
    return Record(
        name=opened.name,
        public_id=repository.public_id,
        is_private=repository.is_private,
        commits=tuple(_recorded_commit(session, commit) for commit in ordered),
        references=tuple(recorded),
    )


def _with_ancestors(session: Session, repository: Repository, heads: set[CommitId]) -> dict[CommitId, Commit]:
    found: dict[CommitId, Commit] = {}
    for head in heads:
        commit = revisions.commit_by_id(session, repository.id, head)
        assert commit is not None  # a reference's commit is there: a foreign key
        found.update((one.id, one) for one in revisions.history(session, commit, limit=MOST_COMMITS + 1))
        if len(found) > MOST_COMMITS:
            raise PayloadTooLarge(f"{repository.full_name} has more than {MOST_COMMITS} commits; name a revision")
    return found


def _recorded_commit(session: Session, commit: Commit) -> RecordedCommit:
    files = revisions.files_of(session, commit.id).values()
    return RecordedCommit(
        id=commit.id,
        parent=commit.parent_id,
        title=commit.title,
        message=commit.message,
        author=commit.author,
        created_at=commit.created_at,
        request_key=commit.request_key,
        files=tuple(RecordedFile(file.path, file.size, file.sha256, file.is_lfs) for file in files),
    )


def _recorded(reference: Reference) -> RecordedReference:
    return RecordedReference(
        kind=reference.kind,
        name=reference.name,
        commit=reference.commit_id,
        message=reference.message,
        is_protected=reference.is_protected,
        yank_reason=reference.yank_reason if reference.yanked_at else None,
    )


# --- in ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportedRepository:
    """How much of it was new."""

    name: str
    commits: int
    references: int


@dataclass(frozen=True, slots=True)
class ImportedBundle:
    digest: str
    is_signed: bool
    repositories: list[ImportedRepository]


@dataclass(frozen=True, slots=True)
class DerivedVersion:
    facts: Facts
    judged: Judged | None


def take_in(backend: Backend, principal: Principal, file: BinaryIO) -> ImportedBundle:
    """Raises `NotPermitted`, `InvalidBundle`, `ContentBlocked`, `InvalidAdapter`, `AlreadyExists`, `NameRetired`."""
    require_site_admin(principal)
    reader = Reader(file, key=backend.settings.bundle_key)
    small = _keep_large(backend, principal, reader)
    blobs.store_all(backend, small, account_id=principal.require_account(), repository_id=None)
    derived = {
        commit.id: _derive(backend, principal, record, commit)
        for record in reader.manifest.repositories
        for commit in record.commits
    }
    with backend.database.write() as session:
        taken = [
            _record(session, principal, record, derived, bundle=reader.digest)
            for record in reader.manifest.repositories
        ]
        blobs.release_leases(
            session,
            account_id=principal.require_account(),
            repository_id=None,
            digests=[digest for digest, _ in reader.manifest.blobs],
        )
    return ImportedBundle(reader.digest, reader.is_signed, taken)


def _keep_large(backend: Backend, principal: Principal, reader: Reader) -> Iterator[tuple[Sha256, bytes]]:
    """The small ones on the way, to be kept together."""
    for digest, size, pieces in reader.blobs():
        if size > _SMALL_BYTES:
            _keep(backend, principal, digest, size, pieces)
        else:
            yield digest, b"".join(pieces)


def _keep(backend: Backend, principal: Principal, digest: Sha256, size: int, pieces: Iterator[bytes]) -> None:
    """By the steps of any upload. What is here is read to its end all the same: the bundle is true or refused."""
    account_id = principal.require_account()
    with backend.database.write() as session:
        known = blobs.known_blobs(session, [digest]).get(digest)
        if known is not None and not known.is_damaged:
            blobs.lease_known(backend, session, account_id=account_id, repository_id=None, blob=known)
    if known is not None and not known.is_damaged:
        for _ in pieces:
            pass
        return
    upload = blobs.open_upload(backend, account_id=account_id, repository_id=None, sha256=digest, size=size)
    try:
        with blobs.receiving(backend, upload) as staged:
            staged.writelines(pieces)
    except BaseException:
        blobs.forget_upload(backend, upload)
        raise
    blobs.finish_upload(backend, upload)


def _derive(backend: Backend, principal: Principal, record: Record, commit: RecordedCommit) -> DerivedVersion:
    """What publishing would find. Whether it fits its base was decided where it was published."""
    files = _new_files(commit)
    before = next((set(one.files) for one in record.commits if one.id == commit.parent), set[RecordedFile]())
    with backend.database.read() as session:
        found = blobs.known_blobs(session, [file.sha256 for file in commit.files])
    check_new_files(
        {file.path: found[file.sha256] for file in commit.files if file not in before},
        is_adapter="adapter_config.json" in files,
        read=lambda blob, start, stop: blobs.read_range(backend, blob, start, stop),
        taken=backend.settings.ordinary_files,
    )
    judged = checks.judge(backend, principal, files, found)
    return DerivedVersion(
        derive_facts(backend, files, found, measured=checks.tags_of(judged) if judged else ()), judged
    )


def _new_files(commit: RecordedCommit) -> dict[str, NewFile]:
    return {file.path: NewFile(file.sha256, file.size, file.is_lfs) for file in commit.files}


def _record(
    session: Session, principal: Principal, record: Record, derived: dict[CommitId, DerivedVersion], *, bundle: str
) -> ImportedRepository:
    repository = repositories.take_in(
        session, principal, record.name, public_id=record.public_id, is_private=record.is_private
    )
    quotas.hold(session, repository.namespace_id)  # counted, and not limited: an administrator does this
    new = [commit for commit in record.commits if _insert(session, principal, repository, record, commit, bundle)]
    quotas.occupy_all(session, repository.namespace_id, repository.id)
    moved = [one for one in record.references if _point(session, principal, repository, record, one)]
    main = revisions.reference_named(session, repository.id, kind="branch", name="main")
    for commit in new:
        _record_derived(session, commit.id, derived[commit.id])
    if main is not None and main.commit_id in derived:
        found = derived[main.commit_id]
        record_entry(
            session,
            repository_id=repository.id,
            facts=found.facts,
            judged=found.judged,
            paths=revisions.files_of(session, main.commit_id),
        )
    record_act(
        session,
        principal,
        "repository.import",
        repository.full_name,
        bundle=bundle,
        commits=len(new),
    )
    return ImportedRepository(repository.full_name, len(new), len(moved))


def _insert(
    session: Session,
    principal: Principal,
    repository: Repository,
    record: Record,
    commit: RecordedCommit,
    bundle: str,
) -> bool:
    """False if it is here. The record was proved, so the id that is made of it is the one that it had."""
    if revisions.commit_by_id(session, repository.id, commit.id) is not None:
        return False
    parent = None if commit.parent is None else revisions.commit_by_id(session, repository.id, commit.parent)
    made = revisions.insert_commit(
        session,
        NewCommit(
            repository_id=repository.id,
            repository_public_id=repository.public_id,
            parent=parent,
            files=_new_files(commit),
            title=commit.title,
            message=commit.message,
            author_id=principal.require_account(),
            author=commit.author,
            request_key=commit.request_key,
            created_at=commit.created_at,
        ),
    )
    assert made.id == commit.id
    record_act(
        session,
        principal,
        "revision.publish",
        repository.full_name,
        commit=made.id,
        digest=made.digest,
        version=next(iter(_names_of(record, commit, "version")), None),
        aliases=_names_of(record, commit, "alias"),
        bundle=bundle,
    )
    repositories.touch(session, repository.id, commit.created_at)
    return True


def _names_of(record: Record, commit: RecordedCommit, kind: str) -> list[str]:
    return [one.name for one in record.references if one.kind == kind and one.commit == commit.id]


def _record_derived(session: Session, commit_id: CommitId, found: DerivedVersion) -> None:
    record_facts(session, commit_id, found.facts)
    if found.judged is not None:
        checks.record(session, commit_id, found.judged)
        want_statistics(session, found.judged.digest, commit_id)


# --- names ------------------------------------------------------------------------------------------------------------


def _point(
    session: Session, principal: Principal, repository: Repository, record: Record, wanted: RecordedReference
) -> bool:
    """Whether the name leads somewhere else now. Raises `AlreadyExists` for one that went another way here."""
    known = revisions.reference_named(session, repository.id, kind=wanted.kind, name=wanted.name)
    if known is None:
        _create(session, principal, repository, wanted)
        return True
    if known.commit_id == wanted.commit or _is_ahead(session, repository, known, wanted):
        return False
    may_move = wanted.kind == "alias" or (
        wanted.kind == "branch" and known.commit_id in record.ancestors(wanted.commit)
    )
    if not may_move or known.is_protected:
        raise AlreadyExists(
            f"{wanted.kind} {wanted.name} of {repository.full_name} went another way here than in the bundle",
            hint="nothing was imported; what is here is never overwritten",
        )
    revisions.move_reference(session, known, to=wanted.commit, by=principal.name)
    return True


def _create(session: Session, principal: Principal, repository: Repository, wanted: RecordedReference) -> None:
    if revisions.name_in_use(session, repository.id, kind=wanted.kind, name=wanted.name):
        raise AlreadyExists(f"another kind of name of {repository.full_name} is {wanted.name} here")
    made = revisions.create_reference(
        session,
        repository_id=repository.id,
        kind=wanted.kind,
        name=wanted.name,
        commit_id=wanted.commit,
        by=principal.name,
        message=wanted.message,
        is_protected=wanted.is_protected,
    )
    if wanted.yank_reason is not None:
        revisions.set_yanked(session, made, by=principal.name, reason=wanted.yank_reason)
    if wanted.kind == "version" and is_version(wanted.name):
        repositories.spend_version_number(session, repository.id, int(wanted.name[1:]))


def _is_ahead(session: Session, repository: Repository, known: Reference, wanted: RecordedReference) -> bool:
    """Whether the branch is here where the bundle has it, and further: an older bundle came later."""
    at = revisions.commit_by_id(session, repository.id, known.commit_id)
    if wanted.kind != "branch" or at is None:
        return False
    return any(one.id == wanted.commit for one in revisions.history(session, at, limit=MOST_COMMITS))
