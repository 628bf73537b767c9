"""The last step: one short transaction makes it all visible, and nothing of it is seen before."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lorahub.errors import BlobVanished, InvalidAdapter, Unavailable
from lorahub.protocol.digests import Sha256
from lorahub.protocol.paths import FilePath

from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.blobs.service import Blob, Stored, adopt, known_blobs, release_leases
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.quotas.service import Room
from lorahub_registry.core.repositories.service import Repository, touch
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit, NewCommit, Reference
from lorahub_registry.features.catalog.service import Facts, derive_facts, record_entry, record_facts
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.checks.service import Judged
from lorahub_registry.features.publishing.commit_body import VersionWish
from lorahub_registry.features.publishing.request import Publication
from lorahub_registry.features.publishing.tree import Plan, no_branch
from lorahub_registry.features.publishing.versions import (
    existing_version,
    implied_version,
    make_version,
    point_aliases,
)
from lorahub_registry.features.statistics.service import want as want_statistics
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.database import Session
from lorahub_registry.infrastructure.failpoints import reach


@dataclass(frozen=True, slots=True)
class Draft:
    """All that is known of a publication before it is recorded."""

    plan: Plan
    stored: Sequence[Stored]
    """The inline files that the repository doesn't have yet."""
    blobs: Mapping[Sha256, Blob]
    """Of the whole tree, stored or to be."""
    judged: Judged | None
    """None for what is no adapter, or none yet."""
    refusal: InvalidAdapter | None
    """Why it can't be published."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the caller is told. `version` is None where the commit is none; `is_new` False where it was one before."""

    repository: Repository
    commit: Commit
    version: str | None
    aliases: list[str]
    is_new: bool
    left: Sequence[FilePath] = ()
    """Files of the request that were left out of the commit: by-products of training."""


def record(publication: Publication, draft: Draft) -> Published | None:
    """Commit, files, branch, version, aliases, facts and audit.

    None if the branch has moved since the tree was laid, or bytes that were here then are gone: lay it again.
    """
    backend, plan = publication.backend, draft.plan
    measured = checks.tags_of(draft.judged) if draft.judged else ()
    facts = derive_facts(backend, plan.files, draft.blobs, measured=measured)
    needless: list[str] = []
    try:
        with _transaction(publication) as (session, room):
            reach("transaction-begun")
            branch = _branch_at(session, publication, plan.head)
            if branch is None:
                return None
            needless += adopt(session, draft.stored, known=plan.blobs)
            room.occupy(plan.added.values(), uploads=[one.upload.id for one in draft.stored])
            reach("files-recorded")
            wish = publication.request.version or implied_version(publication, plan, draft.judged)
            existing = wish and existing_version(session, publication, wish, revisions.digest_of(plan.files))
            if wish and existing and not wish.is_implied:
                return _point_at_existing(session, publication, wish, existing)
            # what is a version already, and wasn't asked to be one, is a commit all the same
            published = _make_commit(session, publication, draft, facts, branch, None if existing else wish)
            reach("transaction-ready")
    except revisions.IntegrityError as error:
        _require_blobs(publication, draft, error)
        return None
    reach("transaction-committed")
    metrics.PUSHES.inc()
    metrics.UPLOADS.labels("kept").inc(sum(len(one.blobs) for one in draft.stored))
    if needless:
        with suppress(Unavailable):  # then the collector does it
            backend.blobs.delete_all(needless)
    return published


@contextmanager
def _transaction(publication: Publication) -> Iterator[tuple[Session, Room]]:
    backend, repository = publication.backend, publication.repository
    with (
        backend.database.write() as session,
        quotas.growth(
            session, backend.settings, account_id=publication.account_id, repository_id=repository.id
        ) as room,
    ):
        yield session, room


def _branch_at(session: Session, publication: Publication, head: Commit) -> Reference | None:
    """The branch, held; None where it has moved. Raises `RevisionNotFound`."""
    name = publication.branch_name
    branch = revisions.reference_named(session, publication.repository.id, kind="branch", name=name)
    if branch is None:
        raise no_branch(publication.repository, publication.branch)
    return branch if branch.commit_id == head.id else None


def _make_commit(
    session: Session,
    publication: Publication,
    draft: Draft,
    facts: Facts,
    branch: Reference,
    wish: VersionWish | None,
) -> Published:
    author, repository = publication.author, publication.repository
    commit = revisions.insert_commit(session, _new_commit(publication, draft))
    reach("commit-inserted")
    revisions.move_reference(session, branch, to=commit.id, by=author.name, is_made=True)
    reach("reference-moved")
    _record_findings(session, commit, facts, draft)
    version = wish and make_version(session, publication, wish, commit)
    aliases = point_aliases(session, publication, wish, commit.id) if wish else []
    if branch.name == "main":
        record_entry(session, repository_id=repository.id, facts=facts, judged=draft.judged, paths=draft.plan.files)
    _settle(session, publication, draft, commit)
    record_act(
        session,
        author,
        "revision.publish",
        repository.full_name,
        commit=commit.id,
        digest=commit.digest,
        version=version,
        aliases=aliases,
    )
    if wish is None:
        return Published(repository, commit, None, [], is_new=True)
    return published_as(session, repository, commit, is_new=True)


def published_as(session: Session, repository: Repository, commit: Commit, *, is_new: bool) -> Published:
    """A commit with the names that it has now."""
    names = revisions.references_to(session, repository.id, commit.id)
    version = next((name.name for name in reversed(names) if name.kind == "version"), None)
    aliases = [name.name for name in names if name.kind == "alias"]
    return Published(repository, commit, version, aliases, is_new)


def _point_at_existing(session: Session, publication: Publication, wish: VersionWish, commit: Commit) -> Published:
    author, repository = publication.author, publication.repository
    moved = point_aliases(session, publication, wish, commit.id)
    if moved:
        record_act(session, author, "alias.move", repository.full_name, commit=commit.id, aliases=moved)
    return published_as(session, repository, commit, is_new=False)


def _new_commit(publication: Publication, draft: Draft) -> NewCommit:
    request, repository = publication.request, publication.repository
    return NewCommit(
        repository_id=repository.id,
        repository_public_id=repository.public_id,
        parent=draft.plan.head,
        files=draft.plan.files,
        title=request.header.title,
        message=request.header.message,
        author_id=publication.account_id,
        author=publication.author.name,
        request_key=draft.plan.request_key,
        request_digest=request.digest,
        before=draft.plan.before,
    )


def _record_findings(session: Session, commit: Commit, facts: Facts, draft: Draft) -> None:
    record_facts(session, commit.id, facts)
    if draft.judged is not None:
        checks.record(session, commit.id, draft.judged)
        want_statistics(session, draft.judged.digest, commit.id)


def _settle(session: Session, publication: Publication, draft: Draft, commit: Commit) -> None:
    """The leases are spent: the commit refers to the blobs now."""
    stored = {blob.sha256 for one in draft.stored for blob in one.blobs}
    release_leases(
        session,
        account_id=publication.account_id,
        repository_id=publication.repository.id,
        digests=sorted(set(draft.plan.added.values()) - stored),
    )
    touch(session, publication.repository.id, commit.created_at)


def _require_blobs(publication: Publication, draft: Draft, error: Exception) -> None:
    """A foreign key refused: a blob was collected. A unique key refused: the same request, or the same bytes, won
    elsewhere; look again.
    """
    added = draft.plan.added
    with publication.backend.database.read() as session:
        here = known_blobs(session, list(added.values()))
    contents = publication.request.contents
    missing = sorted(path for path, sha256 in added.items() if sha256 not in here and sha256 not in contents)
    if missing:
        raise BlobVanished(
            f"the bytes of {missing[0]} were collected before the commit named them",
            hint="send them again",
            paths=missing,
        ) from error
