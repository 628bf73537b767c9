"""Acts on branches, tags, versions and aliases: authorise, check the name, change it in one transaction, log the move.

Versions and aliases, and the Hub's tags, share one name space. A version never moves and is never deleted, only yanked;
an alias moves unless it is protected.
"""

from dataclasses import dataclass, replace

from lorahub.errors import (
    AlreadyExists,
    InvalidInput,
    NotPermitted,
    ProtectedReference,
    RevisionNotFound,
    VersionYanked,
)
from lorahub.protocol.digests import CommitId, FileEntry, revision_digest
from lorahub.protocol.messages.revisions import Alias, Yank
from lorahub.protocol.names import RepositoryName, is_version, parse_alias, parse_reference_name

from lorahub_registry.core.access import OpenedCommit, OpenedRepository
from lorahub_registry.core.accounts.permissions import Action, Principal, may, require
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.repositories.service import Repository, permitted
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import (
    Commit,
    Move,
    NewCommit,
    NewFile,
    Origin,
    Reference,
    RevisionFile,
)
from lorahub_registry.core.upstreams import service as upstreams
from lorahub_registry.core.upstreams.service import WantedFile
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

__all__ = ["Commit", "Move", "Origin", "Reference", "RevisionFile"]

LATEST = "latest"
MAX_REFERENCES = 10_000


@dataclass(frozen=True, slots=True)
class Version:
    name: str
    commit: Commit
    size: int
    aliases: list[str]
    yanked: Yank | None


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, whole: what a client needs to fetch and verify it."""

    repository: Repository
    asked: str
    commit: Commit
    version: str | None
    aliases: list[str]
    yanked: Yank | None
    files: list[RevisionFile]
    origin: Origin | None
    """Of a mirror's: which commit of which hub it is."""


# --- reading ----------------------------------------------------------------------------------------------------------


def references_of(opened: OpenedRepository) -> list[Reference]:
    """Oldest first."""
    known = revisions.references_of(opened.session, opened.id)
    names = upstreams.names_of(opened.session, opened.repository)
    if names is None:
        return known
    return [replace(known[0], kind=one.kind, name=one.name, commit_id=one.commit, message="") for one in names]


def commits_page(opened: OpenedRepository, revision: str, *, limit: int) -> tuple[list[Commit], Commit | None]:
    """The newest commits of the revision, and the one that the next page starts with."""
    head = opened.at(revision).commit
    said = upstreams.commits_of(opened.session, opened.repository, revision)
    if said is not None:
        commits = (
            replace(head, id=one.id, title=one.title, message=one.message, author=one.author, created_at=one.at)
            for one in said
        )
        return list(commits)[:limit], None
    found = revisions.history(opened.session, head, limit=limit + 1)
    return found[:limit], found[limit] if len(found) > limit else None


def revision_of(opened: OpenedRepository, revision: str) -> Revision:
    """Raises as `readable_at`."""
    at = opened.readable_at(revision)
    commit = at.commit
    if opened.repository.upstream is not None:  # when it was listed, not all that makes the digest was known
        entries = [FileEntry(file.path, file.size, file.sha256) for file in at.files.values()]
        commit = replace(commit, digest=revision_digest(entries))
    return Revision(
        repository=opened.repository,
        asked=revision,
        commit=commit,
        version=None if at.version is None else at.version.name,
        aliases=[alias.name for alias in at.aliases],
        yanked=None if at.version is None else yank_of(at.version),
        files=list(at.files.values()),
        origin=revisions.origin_of(opened.session, at.commit.id),
    )


def unread_of(opened: OpenedRepository, found: Revision) -> list[WantedFile]:
    """Small files of an upstream's revision that nobody has read: their sha256 is known when they are."""
    unread = [file for file in found.files if not file.is_here and not file.is_lfs and file.size]
    return [upstreams.wanted(opened.repository, found.commit.id, file) for file in unread]


def versions_of(opened: OpenedRepository) -> list[Version]:
    """Newest first."""
    found = revisions.versions_of(opened.session, opened.id)
    sizes = revisions.sizes_of(opened.session, [commit for _, commit in found])
    aliases = revisions.aliases_by_commit(opened.session, opened.id)
    return [
        Version(reference.name, commit, sizes[commit.id], aliases.get(commit.id, []), yank_of(reference))
        for reference, commit in found
    ]


def newest_version(opened: OpenedRepository) -> tuple[str | None, int]:
    """Its name, None where there is none, and how many versions there are."""
    return revisions.newest_version(opened.session, opened.id)


def aliases_of(opened: OpenedRepository) -> list[Alias]:
    """Oldest first."""
    found = revisions.aliases_and_versions(opened.session, opened.id)
    return [_alias(reference, version) for reference, version in found]


def aliases_at(at: OpenedCommit) -> list[Alias]:
    """Oldest first."""
    version = None if at.version is None else at.version.name
    return [_alias(alias, version) for alias in at.aliases]


def reference_log(opened: OpenedRepository, *, limit: int) -> list[Move]:
    """Newest first."""
    return revisions.newest_moves(opened.session, opened.id, limit=limit)


def yank_of(version: Reference) -> Yank | None:
    if version.yanked_at is None:
        return None
    return Yank(version.yank_reason or "", version.yanked_at, version.yanked_by or "")


def _version(session: Session, reference: Reference) -> Version:
    commit = revisions.resolve(session, reference.repository_id, reference.commit_id).commit
    return Version(
        name=reference.name,
        commit=commit,
        size=revisions.sizes_of(session, [commit])[commit.id],
        aliases=revisions.aliases_of(session, reference.repository_id, commit.id),
        yanked=yank_of(reference),
    )


def _alias(reference: Reference, version: str | None) -> Alias:
    return Alias(reference.name, version, reference.commit_id, reference.is_protected, reference.updated_at)


# --- branches and tags ------------------------------------------------------------------------------------------------


def create_branch(
    backend: Backend, principal: Principal, name: RepositoryName, branch: str, *, start: str | None
) -> None:
    """At `start`, or at the head of `main`. Raises `InvalidName`, `AlreadyExists`, `RevisionNotFound`."""
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        parse_reference_name(branch, what="branch")
        commit = revisions.resolve(session, repository.id, start or "main").commit
        _create(session, principal, repository, kind="branch", name=branch, commit_id=commit.id)
        record_act(session, principal, "branch.create", repository.full_name, name=branch, commit=commit.id)


def delete_branch(backend: Backend, principal: Principal, name: RepositoryName, branch: str) -> None:
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        if branch == "main":
            raise NotPermitted("Cannot delete refs/heads/main")
        _delete(session, principal, repository, kind="branch", name=branch)


def create_tag(
    backend: Backend, principal: Principal, name: RepositoryName, tag: str, *, revision: str, message: str
) -> None:
    """Raises `RevisionNotFound`, `InvalidName`, `AlreadyExists`."""
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        commit = revisions.resolve(session, repository.id, revision).commit
        parse_reference_name(tag, what="tag")
        _create(session, principal, repository, kind="tag", name=tag, commit_id=commit.id, message=message)
        record_act(session, principal, "tag.create", repository.full_name, name=tag, commit=commit.id)


def delete_tag(backend: Backend, principal: Principal, name: RepositoryName, tag: str) -> None:
    """Raises `ProtectedReference` for a version: those are yanked, not deleted."""
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        if revisions.reference_named(session, repository.id, kind="version", name=tag) is not None:
            raise ProtectedReference(f"{tag} is a version and stays", hint=f"yank it: lorahub yank {name}@{tag}")
        kind = "alias" if revisions.reference_named(session, repository.id, kind="alias", name=tag) else "tag"
        _delete(session, principal, repository, kind=kind, name=tag)


def _create(
    session: Session,
    principal: Principal,
    repository: Repository,
    *,
    kind: str,
    name: str,
    commit_id: str,
    message: str = "",
) -> Reference:
    if revisions.name_in_use(session, repository.id, kind=kind, name=name):
        raise AlreadyExists(f"Reference refs/{revisions.space_of(kind)}/{name} already exists")
    if len(revisions.references_of(session, repository.id)) >= MAX_REFERENCES:
        raise InvalidInput(f"{repository.full_name} has {MAX_REFERENCES} references, the most there can be")
    return revisions.create_reference(
        session,
        repository_id=repository.id,
        kind=kind,
        name=name,
        commit_id=commit_id,
        by=principal.name,
        message=message,
    )


def _delete(session: Session, principal: Principal, repository: Repository, *, kind: str, name: str) -> None:
    reference = revisions.reference_named(session, repository.id, kind=kind, name=name)
    if reference is None:
        raise RevisionNotFound(f"Invalid rev id: {name[:200]}")
    if reference.is_protected:
        require(principal, Action.MANAGE, repository.namespace, repository.id)
    revisions.delete_reference(session, reference, by=principal.name)
    record_act(session, principal, f"{kind}.delete", repository.full_name, name=name, commit=reference.commit_id)


def squash(backend: Backend, principal: Principal, name: RepositoryName, branch: str, message: str) -> None:
    """The branch becomes one commit without a parent. Versions, tags and aliases keep theirs."""
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        author_id = principal.require_account()
        reference = revisions.reference_named(session, repository.id, kind="branch", name=branch)
        if reference is None:
            raise RevisionNotFound(f"Invalid rev id: {branch[:200]}")
        files = revisions.files_of(session, reference.commit_id)
        title, _, rest = message.partition("\n")
        commit = revisions.insert_commit(
            session,
            NewCommit(
                repository_id=repository.id,
                repository_public_id=repository.public_id,
                parent=None,
                files={path: NewFile(file.sha256, file.size, file.is_lfs) for path, file in files.items()},
                title=title or "Super-squash",
                message=rest.strip(),
                author_id=author_id,
                author=principal.name,
            ),
        )
        revisions.move_reference(session, reference, to=commit.id, by=principal.name)
        record_act(session, principal, "branch.squash", repository.full_name, name=branch, commit=commit.id)


# --- versions and aliases ---------------------------------------------------------------------------------------------


def set_alias(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    alias: str,
    *,
    revision: str,
    is_protected: bool | None,
) -> Alias:
    """Makes or moves an alias. Moving, protecting and unprotecting a protected one takes the right to manage.

    Raises `InvalidName`, `AlreadyExists` where a tag has the name, `RevisionNotFound`, `VersionYanked`, `NotPermitted`.
    """
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        parse_alias(alias)
        commit = revisions.resolve(session, repository.id, revision).commit
        _refuse_yanked(session, repository, commit.id)
        if is_protected is not None:
            require(principal, Action.MANAGE, repository.namespace, repository.id)
        act = point_alias(session, principal, repository, alias, commit.id)
        found = revisions.reference_named(session, repository.id, kind="alias", name=alias)
        assert found is not None
        if is_protected is not None and is_protected != found.is_protected:
            revisions.set_protected(session, found, is_protected=is_protected)
            act = act or "protect"
        if act is not None:
            protected = found.is_protected if is_protected is None else is_protected
            record_act(
                session,
                principal,
                f"alias.{act}",
                repository.full_name,
                name=alias,
                commit=commit.id,
                protected=protected,
            )
        made = revisions.reference_named(session, repository.id, kind="alias", name=alias) or found
        version = revisions.version_of(session, repository.id, commit.id)
        return _alias(made, None if version is None else version.name)


def point_alias(
    session: Session,
    principal: Principal,
    repository: Repository,
    alias: str,
    commit_id: str,
    *,
    leaves_protected: bool = False,
) -> str | None:
    """Inside a transaction whose principal may write, and which records what is done: `create`, `move` or nothing.

    Raises `AlreadyExists`, and `ProtectedReference` unless such an alias is to be left where it is.
    """
    reference = revisions.reference_named(session, repository.id, kind="alias", name=alias)
    if reference is None:
        _create(session, principal, repository, kind="alias", name=alias, commit_id=commit_id)
        return "create"
    if reference.commit_id == commit_id:
        return None
    if reference.is_protected and not may(principal, Action.MANAGE, repository.namespace, repository.id):
        if leaves_protected:
            return None
        raise ProtectedReference(
            f"the alias {alias} of {repository.full_name} is protected; only its owners move it",
            hint="ask an owner, or use another alias",
        )
    revisions.move_reference(session, reference, to=commit_id, by=principal.name)
    return "move"


def delete_alias(backend: Backend, principal: Principal, name: RepositoryName, alias: str) -> None:
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        _delete(session, principal, repository, kind="alias", name=alias)


def yank(backend: Backend, principal: Principal, name: RepositoryName, version: str, *, reason: str | None) -> Version:
    """Withdraws a version, or with `reason` None takes that back. `latest` follows to the newest one left.

    Raises `RevisionNotFound`, `InvalidInput` for an empty reason.
    """
    if reason is not None and not reason.strip():
        raise InvalidInput("a yank needs a reason", hint="say what is wrong with the version: --reason '…'")
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        reference = is_version(version) and revisions.reference_named(
            session, repository.id, kind="version", name=version
        )
        if not reference:
            raise RevisionNotFound(f"Invalid rev id: {version[:200]} is no version of {repository.full_name}")
        revisions.set_yanked(session, reference, by=principal.name, reason=reason)
        latest = _follow_latest(session, principal, repository, reference)
        action = "version.unyank" if reason is None else "version.yank"
        record_act(session, principal, action, repository.full_name, name=version, reason=reason, latest=latest)
        return _version(
            session,
            revisions.reference_named(session, repository.id, kind="version", name=version) or reference,
        )


def _follow_latest(
    session: Session, principal: Principal, repository: Repository, changed: Reference
) -> CommitId | None:
    """The commit that `latest` leads to afterwards.

    Where `latest` led to a version that was just yanked, it goes back to the newest good one, or away.

    Where it went away with the only version, it comes back with it.
    """
    references = revisions.references_of(session, repository.id)
    latest = next((ref for ref in references if ref.kind == "alias" and ref.name == LATEST), None)
    good = [ref for ref in references if ref.kind == "version" and ref.yanked_at is None]
    if latest is not None and latest.commit_id == changed.commit_id and good:
        point_alias(session, principal, repository, LATEST, good[-1].commit_id)
        return CommitId(good[-1].commit_id)
    if latest is not None and latest.commit_id == changed.commit_id:
        revisions.delete_reference(session, latest, by=principal.name)
        return None
    if latest is None and [ref.id for ref in good] == [changed.id]:
        point_alias(session, principal, repository, LATEST, changed.commit_id)
        return CommitId(changed.commit_id)
    return None if latest is None else CommitId(latest.commit_id)


def _refuse_yanked(session: Session, repository: Repository, commit_id: str) -> None:
    version = revisions.version_of(session, repository.id, commit_id)
    if version is not None and version.yanked_at is not None:
        raise VersionYanked(f"{version.name} was yanked ({version.yank_reason}); no alias may lead to it")
