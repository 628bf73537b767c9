"""Keeps the newest versions of a repository, and everything that a branch, a tag or an alias leads to. What is older is
dropped by the garbage collection: its version is no name any more, its files are gone, its bytes are collected later.
"""

from dataclasses import dataclass

from lorahub.errors import InvalidInput
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.access import OpenedRepository
from lorahub_registry.core.accounts.permissions import OPERATOR, Action, Principal
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.repositories.service import permitted
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Reference
from lorahub_registry.features.retention import queries
from lorahub_registry.features.retention.queries import Kept
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

MOST_VERSIONS = 100_000


@dataclass(frozen=True, slots=True)
class Retention:
    """`keeps` None is everything; `drops` is what the next collection lets go of."""

    keeps: int | None
    drops: list[str]


@dataclass(frozen=True, slots=True)
class Dropping:
    versions: list[Reference]
    commits: list[str]


def retention_of(opened: OpenedRepository) -> Retention:
    """Raises as `require` for who doesn't manage it."""
    opened.require(Action.MANAGE)
    return _shown(opened.session, opened.id, queries.policy_of(opened.session, opened.id))


def set_retention(backend: Backend, principal: Principal, name: RepositoryName, versions: int | None) -> Retention:
    """None keeps everything. Raises `InvalidInput`, and as `permitted`."""
    if versions is not None and not 1 <= versions <= MOST_VERSIONS:
        raise InvalidInput(f"a repository keeps 1 to {MOST_VERSIONS} versions, or all of them")
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.MANAGE)
        queries.set_policy(session, repository.id, versions)
        record_act(session, principal, "retention.set", repository.full_name, versions=versions)
        return _shown(session, repository.id, versions)


def _shown(session: Session, repository_id: int, versions: int | None) -> Retention:
    if versions is None:
        return Retention(None, [])
    return Retention(versions, [one.name for one in _dropping(session, repository_id, versions).versions])


def _dropping(session: Session, repository_id: int, versions: int) -> Dropping:
    names = revisions.references_of(session, repository_id)
    numbered = sorted((one for one in names if one.kind == "version"), key=lambda one: int(one.name[1:]))
    old, kept = numbered[:-versions], numbered[-versions:]
    if not old:
        return Dropping([], [])
    protected = {one.commit_id for one in names if one not in old}
    dropped = [one for one in old if one.commit_id not in protected]
    commits = queries.unnamed_before(session, repository_id, kept[0].commit_id, [one.id for one in dropped])
    return Dropping(dropped, commits)


# --- the collection ---------------------------------------------------------------------------------------------------


def drop_old(backend: Backend, *, is_dry_run: bool) -> int:
    """What every repository's policy lets go of, one transaction and one audit row for each; how many versions."""
    with backend.database.read() as session:
        kept = queries.policies(session)
    return sum(_drop_in(backend, one, is_dry_run=is_dry_run) for one in kept)


def _drop_in(backend: Backend, kept: Kept, *, is_dry_run: bool) -> int:
    with backend.database.read() as session:
        found = _dropping(session, kept.repository_id, kept.versions)
    if is_dry_run or not found.commits:
        return len(found.versions)
    with backend.database.write() as session:
        namespace_id = quotas.hold_namespace_of(session, kept.repository_id)
        queries.hold_commits(session, kept.repository_id)
        versions = queries.policy_of(session, kept.repository_id, lock=True)  # it may have been changed since
        found = Dropping([], []) if versions is None else _dropping(session, kept.repository_id, versions)
        if not found.commits:
            return 0
        for version in found.versions:
            revisions.delete_reference(session, version, by=OPERATOR.name)
        digests = queries.drop_files(session, found.commits)
        quotas.let_go(session, namespace_id, digests)
        record_act(
            session,
            OPERATOR,
            "retention.drop",
            kept.full_name,
            versions=[version.name for version in found.versions],
            commits=len(found.commits),
            keeps=versions,
        )
    return len(found.versions)
