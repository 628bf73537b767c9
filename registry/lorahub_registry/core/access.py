"""An opened repository: its name looked up once, one state of the database, and what the principal may do.

Services that read take it, so that a request asks in one session. It holds one of the database's connections: what is
shown or sent is read from the storage when it is closed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from lorahub.protocol.digests import CommitId
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.permissions import Action, Principal, may
from lorahub_registry.core.repositories.service import (
    Repository,
    require_permitted,
    require_readable,
    visible,
    visible_namespaces,
)
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit, Reference, Resolved, RevisionFile
from lorahub_registry.core.upstreams import service as upstreams
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

Made = TypeVar("Made")


@dataclass(frozen=True)
class Reader:
    """Somebody who reads, and one state of the database."""

    backend: Backend
    session: Session
    principal: Principal
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    """What is done once this is over, so that nobody holds two connections: writing what saves the next one work."""

    def open(self, name: RepositoryName) -> "OpenedRepository":
        """Raises as `repositories.visible`."""
        return OpenedRepository(self, visible(self.session, self.principal, name))

    @cached_property
    def visible_namespaces(self) -> list[int] | None:
        """Ids of the accounts whose private repositories the principal may see; None: everybody's."""
        return visible_namespaces(self.session, self.principal)


@contextmanager
def looking(backend: Backend, principal: Principal) -> Iterator[Reader]:
    """For who reads several repositories, or what is known of all."""
    with backend.database.snapshot() as session:
        reader = Reader(backend, session, principal)
        yield reader
    for act in reader.afterwards:
        act()


@contextmanager
def reading(
    backend: Backend, principal: Principal, name: RepositoryName, revision: str = "main", *, also: str | None = None
) -> Iterator["OpenedRepository"]:
    """A repository of an upstream is as the upstream says now, at `revision`; `also` as in `upstreams.follow`.

    Raises as `repositories.visible` and `upstreams.follow`.
    """
    upstreams.follow(backend, principal, name, revision, also=also)
    with looking(backend, principal) as reader:
        yield reader.open(name)


@dataclass(frozen=True)
class OpenedRepository:
    """One that the reader may see."""

    reader: Reader
    repository: Repository
    _resolved: dict[str, Resolved] = field(default_factory=dict)
    _commits: "dict[CommitId, OpenedCommit]" = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict)

    @property
    def backend(self) -> Backend:
        return self.reader.backend

    @property
    def session(self) -> Session:
        return self.reader.session

    @property
    def principal(self) -> Principal:
        return self.reader.principal

    @property
    def id(self) -> int:
        return self.repository.id

    @property
    def name(self) -> RepositoryName:
        """As it is spelled here."""
        return RepositoryName(self.repository.namespace, self.repository.name)

    def may(self, action: Action) -> bool:
        """By the role of the principal; that everybody reads a public repository is no part of it."""
        if action is Action.WRITE and self.repository.upstream is not None:
            return False
        return may(self.principal, action, self.repository.namespace, self.id)

    def require(self, action: Action) -> None:
        """Raises `NotAuthenticated`, `NotPermitted`, and `Quarantined` for a change."""
        require_permitted(self.principal, self.repository, action)

    def require_readable(self) -> None:
        """That the principal may read the files. Raises `Quarantined` and `GatedRepository`."""
        return self._readable

    @cached_property
    def _readable(self) -> None:
        return require_readable(self.session, self.principal, self.repository)

    def resolve(self, revision: str) -> Resolved:
        """Raises as `revisions.resolve`."""
        if revision not in self._resolved:
            found = revisions.look_up(self.session, self.id, revision)
            if found.alias is not None:
                revisions.refuse_yanked(found.alias, self._opened(found.commit).version)
            self._resolved[revision] = found
        return self._resolved[revision]

    def at(self, revision: str) -> "OpenedCommit":
        """Raises as `revisions.resolve`."""
        return self._opened(self.resolve(revision).commit)

    def _opened(self, commit: Commit) -> "OpenedCommit":
        return self._commits.setdefault(commit.id, OpenedCommit(self, commit))

    def readable_at(self, revision: str) -> "OpenedCommit":
        """A commit whose files the principal may read. Raises as `require_readable` and `at`."""
        self.require_readable()
        return self.at(revision)

    def holds(self, commit_id: CommitId) -> bool:
        """Whether a commit has this id."""
        if commit_id not in self._commits:
            commit = revisions.commit_by_id(self.session, self.id, commit_id)
            if commit is None:
                return False
            self._resolved[commit_id] = Resolved(commit, None)
            self._opened(commit)
        return True

    def once(self, what: str, make: Callable[[], Made]) -> Made:
        """What takes several statements, and is asked for by several services."""
        if what not in self._made:
            self._made[what] = make()
        made: Made = self._made[what]
        return made


@dataclass(frozen=True)
class OpenedCommit:
    """A commit of an opened repository. What it has is read once."""

    repository: OpenedRepository
    commit: Commit

    @cached_property
    def files(self) -> dict[str, RevisionFile]:
        """Every file by path, in order of path."""
        return revisions.files_of(self.repository.session, self.commit.id)

    def file(self, path: str) -> RevisionFile | None:
        if "files" in vars(self):
            return self.files.get(path)
        return revisions.file_at(self.repository.session, self.commit.id, path)

    @property
    def version(self) -> Reference | None:
        """The version that names it; the newest if several do."""
        return next((ref for ref in reversed(self._names) if ref.kind == "version"), None)

    @property
    def aliases(self) -> list[Reference]:
        return [ref for ref in self._names if ref.kind == "alias"]

    @cached_property
    def _names(self) -> list[Reference]:
        return revisions.references_to(self.repository.session, self.repository.id, self.commit.id)
