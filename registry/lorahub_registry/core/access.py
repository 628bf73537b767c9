"""An opened repository: its name looked up once, one state of the database, and what the principal may do.

Services that read take it, so that a request asks one session. Nothing waits for the storage while it is open: it
holds one of the database's connections.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.permissions import Action, Principal, may
from lorahub_registry.core.repositories.service import Repository, require_permitted, require_readable, visible
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit, Reference, RevisionFile
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session


@dataclass(frozen=True)
class OpenedRepository:
    """One that the principal may see."""

    backend: Backend
    session: Session
    principal: Principal
    repository: Repository
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    """What is done once it is closed, so that nobody holds two connections: writing what saves the next reader work."""
    _commits: "dict[str, OpenedCommit]" = field(default_factory=dict)

    @property
    def id(self) -> int:
        return self.repository.id

    @property
    def name(self) -> RepositoryName:
        """As it is spelled here."""
        return RepositoryName(self.repository.namespace, self.repository.name)

    def may(self, action: Action) -> bool:
        """Whether it may by its role; that a public repository is read by everybody is no part of it."""
        return may(self.principal, action, self.repository.namespace, self.id)

    def require(self, action: Action) -> None:
        """Raises `NotAuthenticated`, `NotPermitted`, and `Quarantined` for a change."""
        require_permitted(self.principal, self.repository, action)

    def require_readable(self) -> None:
        """Whether the files may be read. Raises `Quarantined` and `GatedRepository`."""
        return self._readable

    @cached_property
    def _readable(self) -> None:
        return require_readable(self.session, self.principal, self.repository)

    def at(self, revision: str) -> "OpenedCommit":
        """Raises as `revisions.resolve`."""
        if revision not in self._commits:
            commit = revisions.resolve(self.session, self.id, revision).commit
            self._commits[revision] = OpenedCommit(self, revision, commit)
        return self._commits[revision]

    def readable_at(self, revision: str) -> "OpenedCommit":
        """A commit whose files may be read. Raises as `require_readable` and `at`."""
        self.require_readable()
        return self.at(revision)

    def holds(self, commit_id: str) -> bool:
        """Whether there is a commit of this id."""
        if commit_id not in self._commits:
            commit = revisions.commit_by_id(self.session, self.id, commit_id)
            if commit is None:
                return False
            self._commits[commit_id] = OpenedCommit(self, commit_id, commit)
        return True


@dataclass(frozen=True)
class OpenedCommit:
    """One commit of an opened repository, by the revision that was asked for. What it has is read once."""

    repository: OpenedRepository
    asked: str
    commit: Commit

    @cached_property
    def files(self) -> dict[str, RevisionFile]:
        """Every file by path, in order of path."""
        return revisions.files_of(self.repository.session, self.commit.id)

    @cached_property
    def version(self) -> Reference | None:
        """The version that names it; the newest if several do."""
        return next((ref for ref in reversed(self._names) if ref.kind == "version"), None)

    @cached_property
    def aliases(self) -> list[Reference]:
        return [ref for ref in self._names if ref.kind == "alias"]

    @cached_property
    def _names(self) -> list[Reference]:
        return revisions.references_to(self.repository.session, self.repository.id, self.commit.id)


@contextmanager
def reading(backend: Backend, principal: Principal, name: RepositoryName) -> Iterator[OpenedRepository]:
    """Raises as `repositories.visible`."""
    with backend.database.snapshot() as session:
        opened = OpenedRepository(backend, session, principal, visible(session, principal, name))
        yield opened
    for act in opened.afterwards:
        act()
