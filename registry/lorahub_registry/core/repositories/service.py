"""Repositories: who may see them, what they are called, and what their owners decided about access.

A private repository of somebody else and one that isn't there give the same answer, from the same lines.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lorahub.errors import (
    AlreadyExists,
    GatedRepository,
    InvalidInput,
    NameRetired,
    NotFound,
    NotPermitted,
    Quarantined,
    RepositoryMoved,
    RepositoryNotFound,
)
from lorahub.protocol.names import RepositoryName, similarity_key

from lorahub_registry.core.accounts.permissions import (
    Action,
    Principal,
    is_site_admin,
    may,
    require,
    require_site_admin,
)
from lorahub_registry.core.accounts.service import Account, ensure_namespace, known_accounts, require_known
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.blobs.service import Blob, release_leases, store_bytes
from lorahub_registry.core.events.service import happened
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.repositories import queries
from lorahub_registry.core.repositories.queries import AccessRequest, Liker, Repository
from lorahub_registry.core.revisions.service import (
    IntegrityError,
    NewCommit,
    NewFile,
    create_reference,
    insert_commit,
    is_published,
)
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now

__all__ = ["AccessRequest", "Liker", "Repository"]

GIT_ATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n"
    for pattern in ("*.safetensors", "*.gguf", "*.png", "*.jpg", "*.jpeg", "*.webp", "tokenizer.json")
).encode()
"""Every repository's first file, for clients that read it; what goes where is decided by `/preupload`."""

MAX_REASON = 2000

Status = Literal["pending", "accepted", "rejected"]


@dataclass(frozen=True, slots=True)
class Usage:
    repository: Repository
    bytes: int


# --- finding ----------------------------------------------------------------------------------------------------------


def name_key(name: RepositoryName) -> str:
    return f"{similarity_key(name.namespace)}/{similarity_key(name.name)}"


def is_visible(principal: Principal, repository: Repository) -> bool:
    """A private one of an upstream is for everybody who has an account here."""
    is_for_accounts = repository.upstream is not None and not principal.is_anonymous
    is_open = (not repository.is_private or is_for_accounts) and repository.quarantine is None
    return is_open or may(principal, Action.READ, repository.namespace, repository.id)


def visible(session: Session, principal: Principal, name: RepositoryName) -> Repository:
    """Raises `RepositoryNotFound`, the same for missing and private, `RepositoryMoved` for a former name, and
    `Quarantined` for a public repository in quarantine; its members see it, and may do nothing with it.
    """
    repository = queries.repository_by_key(session, name_key(name))
    if repository is None and (retired := queries.retired_name(session, name_key(name))) is not None:
        moved = retired.repository_id and queries.repository_by_id(session, retired.repository_id)
        if moved and is_visible(principal, moved):
            raise RepositoryMoved(f"{name} is now called {moved.full_name}", old=str(name), new=moved.full_name)
    if repository is not None and repository.quarantine and not repository.is_private:
        _require_seen(principal, repository)
    if repository is None or not is_visible(principal, repository) or not _is_spelled(repository, name):
        raise RepositoryNotFound(
            f"Repository not found: {name}, or not visible to {principal.name}",
            hint="check the name; for a private repository log in with a token that may read it",
        )
    return repository


def _require_seen(principal: Principal, repository: Repository) -> None:
    if not is_visible(principal, repository):
        raise Quarantined(
            f"{repository.full_name} is in quarantine: an administrator took it out of circulation",
            hint="ask the registry's administrators",
        )


def is_locked(principal: Principal, repository: Repository) -> bool:
    """In quarantine, and the principal is none of those who may look inside."""
    return repository.quarantine is not None and not is_site_admin(principal)


def require_unlocked(principal: Principal, repository: Repository) -> None:
    """Raises `Quarantined`."""
    if repository.quarantine is not None and is_locked(principal, repository):
        reason = repository.quarantine.reason
        raise Quarantined(
            f"{repository.full_name} is in quarantine and can't be read or changed: {reason}",
            hint="ask the registry's administrators",
            reason=reason,
        )


def _is_spelled(repository: Repository, name: RepositoryName) -> bool:
    """`-`, `_` and `.` keep confusable names apart at creation; they are not spellings of one another."""
    return repository.full_name.lower() == name.key


def permitted(session: Session, principal: Principal, name: RepositoryName, action: Action) -> Repository:
    """The repository, if the principal may do this to it.

    Raises as `visible` and `permissions.require`, and `Quarantined` for a change.
    """
    repository = visible(session, principal, name)
    require_permitted(principal, repository, action)
    return repository


def require_permitted(principal: Principal, repository: Repository, action: Action) -> None:
    """Of a repository that the principal may see. Raises as `permissions.require`, and `Quarantined` for a change."""
    if action is not Action.READ:
        require(principal, action, repository.namespace, repository.id)
        require_unlocked(principal, repository)
    if action is Action.WRITE and repository.upstream is not None:
        raise NotPermitted(
            f"{repository.full_name} is of the upstream {repository.upstream}: what it holds is decided there",
            hint="push to a name of your own",
        )


def readable(session: Session, principal: Principal, name: RepositoryName) -> Repository:
    """The repository, if the principal may read its files. Raises as `visible`, `Quarantined`, `GatedRepository`."""
    repository = visible(session, principal, name)
    require_readable(session, principal, repository)
    return repository


def require_readable(session: Session, principal: Principal, repository: Repository) -> None:
    """Of a repository that the principal may see. Raises `Quarantined` and `GatedRepository`."""
    require_unlocked(principal, repository)
    if not has_access(session, principal, repository):
        raise GatedRepository(
            f"Access to model {repository.full_name} is restricted and you are not in the authorized list.",
            hint="ask its owners for access",
        )


def has_access(session: Session, principal: Principal, repository: Repository) -> bool:
    if repository.gated is None or may(principal, Action.READ, repository.namespace, repository.id):
        return True
    if principal.account_id is None:
        return False
    return queries.access_status(session, repository.id, principal.account_id) == "accepted"


def find(backend: Backend, principal: Principal, name: RepositoryName, action: Action = Action.READ) -> Repository:
    with backend.database.read() as session:
        return permitted(session, principal, name, action)


def check_readable(backend: Backend, principal: Principal, name: RepositoryName) -> Repository:
    with backend.database.read() as session:
        return readable(session, principal, name)


def repositories_by_id(session: Session, ids: Sequence[int]) -> dict[int, Repository]:
    """Whoever asks has decided that the caller may see them."""
    return {repository.id: repository for repository in queries.repositories_by_id(session, ids)}


def may_read_any(session: Session, principal: Principal, repository_ids: Sequence[int]) -> bool:
    """Whether the principal may read the files of at least one of these repositories."""
    found = queries.repositories_by_id(session, repository_ids)
    return any(
        is_visible(principal, repo) and not is_locked(principal, repo) and has_access(session, principal, repo)
        for repo in found
    )


# --- life -------------------------------------------------------------------------------------------------------------


def create(backend: Backend, principal: Principal, name: RepositoryName, *, is_private: bool) -> Repository:
    """Raises as `creating`."""
    with creating(backend, principal, name, is_private=is_private) as (_, repository):
        return repository


@contextmanager
def creating(
    backend: Backend, principal: Principal, name: RepositoryName, *, is_private: bool
) -> Iterator[tuple[Session, Repository]]:
    """A repository with the branch `main` and one commit on it, and the transaction that makes it: where the block
    raises, there is none.

    Raises `AlreadyExists`, `NameRetired`, `NotPermitted`, `QuotaExceeded`.
    """
    author_id = principal.require_account()
    require(principal, Action.WRITE, name.namespace)
    with backend.database.read() as session:
        _require_free(session, principal, name)
    first = store_bytes(backend, GIT_ATTRIBUTES, account_id=author_id, repository_id=None)
    try:
        with backend.database.write() as session, _growing(backend, session, name.namespace) as namespace:
            _require_free(session, principal, name)
            repository = _insert(
                session, principal, RepositoryName(namespace.name, name.name), namespace, first, is_private=is_private
            )
            release_leases(session, account_id=author_id, repository_id=None, digests=[first.sha256])
            yield session, repository
    except IntegrityError:
        with backend.database.read() as session:
            _require_free(session, principal, name)  # somebody took the name since we looked
        raise


def _insert(
    session: Session, principal: Principal, name: RepositoryName, namespace: Account, first: Blob, *, is_private: bool
) -> Repository:
    repository = queries.insert_repository(
        session, name, key=name_key(name), namespace_id=namespace.id, is_private=is_private
    )
    commit = insert_commit(
        session,
        NewCommit(
            repository_id=repository.id,
            repository_public_id=repository.public_id,
            parent=None,
            files={".gitattributes": NewFile(first.sha256, first.size, is_lfs=False)},
            title="initial commit",
            message="",
            author_id=principal.require_account(),
            author=principal.name,
        ),
    )
    quotas.occupy(session, namespace.id, [first.sha256])
    happened(session, "repository.created", repository.id, {"private": is_private}, by=principal.name)
    create_reference(
        session,
        repository_id=repository.id,
        kind="branch",
        name="main",
        commit_id=commit.id,
        by=principal.name,
    )
    record_act(session, principal, "repository.create", repository.full_name, private=is_private)
    return repository


@contextmanager
def _growing(backend: Backend, session: Session, name: str) -> Iterator[Account]:
    """The namespace, which may grow as far as its quota goes. Raises `AccountNotFound`, `QuotaExceeded`."""
    namespace = require_known(session, name)
    with quotas.arrival(session, backend.settings, namespace.id):
        yield namespace


def take_in(
    session: Session, principal: Principal, name: RepositoryName, *, public_id: str, is_private: bool
) -> Repository:
    """The repository that was made elsewhere with this public id, where it is missing without a commit yet.

    Raises `AlreadyExists` where another one has the name, or another name its id; `NameRetired`.
    """
    existing = queries.repository_by_key(session, name_key(name))
    if existing is not None and existing.public_id == public_id:
        return existing
    if existing is not None or queries.repository_by_public_id(session, public_id) is not None:
        raise AlreadyExists(
            f"{name} is another repository here than in the bundle, or has another name here",
            hint="nothing was imported; what is here is never overwritten",
        )
    _require_free(session, principal, name)
    namespace = ensure_namespace(session, principal, name.namespace)
    named = RepositoryName(namespace.name, name.name)
    repository = queries.insert_repository(
        session, named, key=name_key(named), namespace_id=namespace.id, is_private=is_private, public_id=public_id
    )
    happened(session, "repository.created", repository.id, {"private": is_private}, by=principal.name)
    return repository


def insert_of_upstream(
    session: Session, name: RepositoryName, *, namespace_id: int, upstream: str, is_private: bool, by: str
) -> Repository:
    """One of another hub, without a commit yet. Whoever asks has made sure that the name is nobody's."""
    repository = queries.insert_repository(
        session, name, key=name_key(name), namespace_id=namespace_id, is_private=is_private, upstream=upstream
    )
    happened(session, "repository.created", repository.id, {"private": is_private}, by=by)
    return repository


def _require_free(session: Session, principal: Principal, name: RepositoryName) -> None:
    """Raises `AlreadyExists` with the existing repository's name, or `NameRetired`."""
    key = name_key(name)
    existing = queries.repository_by_key(session, key)
    if existing is not None:
        shown = existing.full_name if is_visible(principal, existing) else str(name)
        raise AlreadyExists(f"You already created this model repo: {shown}", existing=shown)
    if queries.retired_name(session, key) is not None:
        raise NameRetired(
            f"the name {name} belonged to a repository that was deleted or renamed; names are never given out again",
            hint="choose another name",
        )


def delete(backend: Backend, principal: Principal, name: RepositoryName) -> None:
    """The name stays retired for ever, unless nothing was ever published under it; bytes that nothing else refers to
    are collected later.
    """
    with backend.database.write() as session:
        repository = _held(session, principal, name)
        if repository.upstream is None and is_published(session, repository.id):
            queries.retire_name(session, name_key(name), repository.full_name, repository_id=None)
        _remove(session, principal, repository, "repository.delete")


def withdraw(backend: Backend, principal: Principal, name: RepositoryName) -> bool:
    """Whoever may make a repository may take it back, as long as nothing was published in it; whether it was.

    Raises as `permitted`.
    """
    with backend.database.write() as session:
        repository = _held(session, principal, name, action=Action.WRITE)
        if is_published(session, repository.id):
            return False
        _remove(session, principal, repository, "repository.withdraw")
        return True


def _remove(session: Session, principal: Principal, repository: Repository, act: str) -> None:
    happened(session, "repository.deleted", repository.id, {}, by=principal.name)
    with quotas.leaving(session, repository.namespace_id, repository.id):
        queries.delete_repository(session, repository.id)
    record_act(session, principal, act, repository.full_name)


def _held(
    session: Session,
    principal: Principal,
    name: RepositoryName,
    *namespace_ids: int,
    action: Action = Action.MANAGE,
) -> Repository:
    """The repository to be changed, its namespace and others held. Raises as `permitted`."""
    quotas.hold(session, permitted(session, principal, name, action).namespace_id, *namespace_ids)
    return permitted(session, principal, name, action)  # it may have been moved while we waited


def move(backend: Backend, principal: Principal, name: RepositoryName, to: RepositoryName) -> Repository:
    """The old name leads to the new one from now on.

    Raises `AlreadyExists`, `NameRetired`, `NotPermitted`, `QuotaExceeded`.
    """
    with backend.database.write() as session:
        require_permitted(principal, permitted(session, principal, name, Action.MANAGE), Action.WRITE)
        require(principal, Action.WRITE, to.namespace)
        namespace = require_known(session, to.namespace)
        repository = _held(session, principal, name, namespace.id)
        target = RepositoryName(namespace.name, to.name)
        _free_for_move(session, repository, target)
        queries.retire_name(session, name_key(name), repository.full_name, repository_id=repository.id)
        with (
            quotas.arrival(session, backend.settings, namespace.id),
            quotas.leaving(session, repository.namespace_id, repository.id, to=namespace.id),
        ):
            queries.rename_repository(session, repository.id, target, key=name_key(target), namespace_id=namespace.id)
            quotas.occupy_all(session, namespace.id, repository.id)
        record_act(session, principal, "repository.move", repository.full_name, to=str(target))
        happened(session, "repository.renamed", repository.id, {"from": repository.full_name}, by=principal.name)
        return queries.repository_by_id(session, repository.id) or repository


def _free_for_move(session: Session, repository: Repository, target: RepositoryName) -> None:
    """A repository may take back a name that was its own."""
    key = name_key(target)
    if queries.repository_by_key(session, key) is not None:
        raise AlreadyExists(f"A model repository called `{target}` already exists")
    retired = queries.retired_name(session, key)
    if retired is not None and retired.repository_id != repository.id:
        raise NameRetired(f"the name {target} was used before; names are never given out again")
    if retired is not None:
        queries.give_name_back(session, key)


def change_settings(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    *,
    is_private: bool | None = None,
    gated: str | Literal[False] | None = None,
) -> Repository:
    """None leaves a setting as it is; `gated` False opens the repository."""
    changes: dict[str, object] = {}
    if is_private is not None:
        changes["is_private"] = is_private
    if gated is not None:
        changes["gated"] = gated or None
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.MANAGE)
        if changes:
            queries.change_repository(session, repository.id, **changes)
            record_act(session, principal, "repository.settings", repository.full_name, **changes)
            shown = {"private" if name == "is_private" else name: value for name, value in changes.items()}
            happened(session, "repository.changed", repository.id, shown, by=principal.name)
        return queries.repository_by_id(session, repository.id) or repository


def quarantine(backend: Backend, principal: Principal, name: RepositoryName, reason: str) -> Repository:
    """Takes the repository out of circulation: no list shows it, nobody but administrators reads or changes it.

    Raises `NotPermitted`, `InvalidInput` without a reason.
    """
    require_site_admin(principal)
    if not reason.strip() or len(reason) > MAX_REASON:
        raise InvalidInput(f"a quarantine needs a reason of 1 to {MAX_REASON} characters")
    return _set_quarantine(backend, principal, name, reason=reason, by=principal.name, at=now())


def release(backend: Backend, principal: Principal, name: RepositoryName) -> Repository:
    """Ends a quarantine; everything is as it was before. Raises `NotPermitted`."""
    require_site_admin(principal)
    return _set_quarantine(backend, principal, name, reason=None, by=None, at=None)


def _set_quarantine(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    *,
    reason: str | None,
    by: str | None,
    at: datetime | None,
) -> Repository:
    with backend.database.write() as session:
        repository = visible(session, principal, name)
        queries.change_repository(
            session, repository.id, quarantine_reason=reason, quarantined_by=by, quarantined_at=at
        )
        if reason is not None:
            record_act(session, principal, "repository.quarantine", repository.full_name, reason=reason)
        else:
            record_act(session, principal, "repository.release", repository.full_name)
        is_in = {"quarantined": reason is not None}
        happened(session, "repository.changed", repository.id, is_in, by=principal.name)
        return queries.repository_by_id(session, repository.id) or repository


def quarantined(backend: Backend, principal: Principal) -> list[Repository]:
    """Oldest quarantine first. Raises `NotPermitted`."""
    require_site_admin(principal)
    with backend.database.read() as session:
        return queries.quarantined(session)


def touch(session: Session, repository_id: int, at: datetime) -> None:
    """Its content changed."""
    queries.change_repository(session, repository_id, updated_at=at)


def take_version_number(session: Session, repository_id: int, *, at_least: int = 0) -> int:
    """The number of a new version; no number is given out twice, and none below one that was."""
    return queries.take_version_number(session, repository_id, at_least=at_least)


def spend_version_number(session: Session, repository_id: int, number: int) -> None:
    """Of a version that was made elsewhere: the next one is higher."""
    queries.spend_version_number(session, repository_id, number)


def usage_page(backend: Backend, principal: Principal, namespace: str, *, after: int, limit: int) -> list[Usage]:
    """The namespace's repositories that the principal may see, with the bytes they hold."""
    with backend.database.read() as session:
        account = require_known(session, namespace)
        found = queries.repositories_in(session, account.id, after=after, limit=limit)
        return [
            Usage(repository, queries.stored_bytes(session, repository.id))
            for repository in found
            if is_visible(principal, repository)
        ]


def stored_bytes(session: Session, repository_id: int) -> int:
    return queries.stored_bytes(session, repository_id)


# --- gated access -----------------------------------------------------------------------------------------------------


def ask_for_access(backend: Backend, principal: Principal, name: RepositoryName) -> str:
    """The caller's status afterwards: `auto` repositories accept at once."""
    user_id = principal.require_account()
    with backend.database.write() as session:
        repository = visible(session, principal, name)
        require(principal, Action.WRITE, principal.name)
        if repository.gated is None:
            raise InvalidInput(f"{repository.full_name} is not gated; nobody needs to ask")
        before = queries.access_status(session, repository.id, user_id)
        status = before or ("accepted" if repository.gated == "auto" else "pending")
        if before is None:
            queries.set_access(session, repository.id, user_id, status=status)
            record_act(session, principal, "access.request", repository.full_name, status=status)
            _tell_of_access(session, principal, repository, "access.asked", (user_id, principal.name), status)
        return status


def access_requests(
    backend: Backend, principal: Principal, name: RepositoryName, status: Status
) -> list[AccessRequest]:
    with backend.database.read() as session:
        return requests_of(session, permitted(session, principal, name, Action.MANAGE), status)


def requests_of(session: Session, repository: Repository, status: Status) -> list[AccessRequest]:
    """Whoever asks has decided that the caller may know."""
    return queries.access_requests(session, repository.id, status)


def handle_access(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    *,
    user: str | None,
    request_id: str | None,
    status: Status,
    reason: str | None,
) -> None:
    """Raises `NotFound` where nobody of this name or request asked."""
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.MANAGE)
        asked = user or queries.user_of_request(session, repository.id, request_id or "")
        account = asked and require_known(session, asked)
        if not account or queries.access_status(session, repository.id, account.id) is None:
            raise NotFound(f"there is no such access request to {repository.full_name}")
        queries.set_access(session, repository.id, account.id, status=status, reason=reason)
        record_act(session, principal, "access.handle", repository.full_name, user=account.name, status=status)
        _tell_of_access(session, principal, repository, "access.decided", (account.id, account.name), status)


def grant_access(backend: Backend, principal: Principal, name: RepositoryName, user: str) -> None:
    """Raises `InvalidInput` if the repository isn't gated or the user has access."""
    with backend.database.write() as session:
        repository = permitted(session, principal, name, Action.MANAGE)
        account = require_known(session, user)
        if repository.gated is None:
            raise InvalidInput(f"{repository.full_name} is not gated")
        if queries.access_status(session, repository.id, account.id) == "accepted":
            raise InvalidInput(f"{account.name} has access to {repository.full_name} already")
        queries.set_access(session, repository.id, account.id, status="accepted")
        record_act(session, principal, "access.grant", repository.full_name, user=account.name)
        _tell_of_access(session, principal, repository, "access.decided", (account.id, account.name), "accepted")


def _tell_of_access(
    session: Session, principal: Principal, repository: Repository, kind: str, user: tuple[int, str], status: str
) -> None:
    """Managers hear of it, and the `user`, by id and name."""
    account_id, name = user
    data = {"user": name, "status": status}
    happened(session, kind, repository.id, data, by=principal.name, concerns=account_id, for_managers=True)


# --- likes ------------------------------------------------------------------------------------------------------------


def set_like(backend: Backend, principal: Principal, name: RepositoryName, *, liked: bool) -> None:
    user_id = principal.require_account()
    with backend.database.write() as session:
        repository = visible(session, principal, name)
        require(principal, Action.WRITE, principal.name)
        queries.set_like(session, repository.id, user_id, liked=liked)
        record_act(session, principal, "repository.like" if liked else "repository.unlike", repository.full_name)


def likers(backend: Backend, principal: Principal, name: RepositoryName) -> list[Liker]:
    with backend.database.read() as session:
        return queries.likers(session, visible(session, principal, name).id)


def liked_by(backend: Backend, principal: Principal, user: str) -> list[tuple[Repository, datetime]]:
    with backend.database.read() as session:
        account = require_known(session, user)
        found = queries.liked_by(session, account.id, visible_namespaces=visible_namespaces(session, principal))
        return [(repository, at) for repository, at in found if is_visible(principal, repository)]


def visible_namespaces(session: Session, principal: Principal) -> list[int] | None:
    """Ids of the accounts whose private repositories the principal may see; None: everybody's."""
    if is_site_admin(principal):
        return None
    known = known_accounts(session, principal.roles)
    return [account.id for account in known if may(principal, Action.READ, account.name)]
