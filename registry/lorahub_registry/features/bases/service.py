"""Base models: registered by their layout, found by name, by digest, or in a repository of this registry.

A base is a fact, its digests; a name is somebody's claim. So anybody who may write to a namespace may name bases in it,
and only administrators may name the rest; a name and revision, once given, stay.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from lorahub.adapters.base_model import BaseLayout, base_from_text, read_base
from lorahub.errors import AlreadyExists, BaseNotFound, InvalidBaseModel, InvalidName, Refusal
from lorahub.protocol.digests import CommitId
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.permissions import Action, Principal, may, require, require_site_admin
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.events.service import happened_to_base
from lorahub_registry.core.repositories.service import visible_namespaces
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.features.bases import queries
from lorahub_registry.features.bases.queries import NamedBase, StoredBase
from lorahub_registry.features.bases.revision_files import RevisionFiles
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

__all__ = ["NamedBase", "StoredBase"]

MOST_REVISIONS = 16
"""The newest bases of one name that an adapter is compared with."""
_KEPT_LAYOUTS = 16


@dataclass(frozen=True, slots=True)
class FoundBase:
    """A base with its layout; `id` is None for one that was read from a repository and isn't registered."""

    base: BaseLayout
    id: int | None


@dataclass(frozen=True, slots=True)
class NewBase:
    """What a client says of a base; the layout proves its digests."""

    name: str
    revision: str
    layout: str
    config: Mapping[str, Any]
    files: Mapping[str, str]


# --- registering ------------------------------------------------------------------------------------------------------


def register(backend: Backend, principal: Principal, new: NewBase) -> NamedBase:
    """Raises `NotPermitted`, `InvalidBaseModel`, `InvalidName`, `AlreadyExists` where the name means another base."""
    _may_name(principal, new.name)
    base = base_from_text(new.layout, new.config, names=[new.name], revision=new.revision or None, files=new.files)
    with backend.database.write() as session:
        known = queries.name_row(session, new.name, new.revision)
        stored = _store(session, base)
        if known is not None and known.base.id != stored.id:
            at = f"@{new.revision}" if new.revision else ""
            raise AlreadyExists(
                f"{new.name}{at} is registered with the layout {known.base.layout_digest[:12]}…",
                hint="name a revision: lorahub base add SOURCE NAME --revision REVISION",
            )
        if known is None:
            queries.insert_name(session, stored.id, new.name, new.revision, principal.name)
            record_act(
                session,
                principal,
                "base.register",
                new.name,
                revision=new.revision,
                layout=stored.layout_digest,
                weights=stored.weights_digest,
            )
            happened_to_base(
                session,
                "base.registered",
                new.name,
                {
                    "revision": new.revision or None,
                    "layout": stored.layout_digest,
                    "weights": stored.weights_digest,
                },
                by=principal.name,
            )
        made = queries.name_row(session, new.name, new.revision)
    assert made is not None
    return made


def _may_name(principal: Principal, name: str) -> None:
    principal.require_account()
    try:
        namespace = RepositoryName.parse(name).namespace
    except InvalidName:
        if not name or len(name) > 200 or not name.isprintable() or name != name.strip():
            raise
        require_site_admin(principal)
        return
    if not may(principal, Action.WRITE, namespace):
        if principal.is_admin:
            require_site_admin(principal)
        else:
            require(principal, Action.WRITE, namespace)


def _store(session: Session, base: BaseLayout) -> StoredBase:
    identity = _identity(base)
    known = queries.base_by_identity(session, identity)
    return known if known is not None else queries.insert_base(session, base, identity)


def _identity(base: BaseLayout) -> str:
    files = "".join(f"{path}\t{digest}\n" for path, digest in sorted(base.files.items()))
    return hashlib.sha256(f"{base.layout_digest}\n{base.weights_digest or ''}\n{files}".encode()).hexdigest()


# --- finding ----------------------------------------------------------------------------------------------------------


class _Layouts:
    """The layouts used last: parsing one of 723 tensors takes milliseconds, and a base has many adapters."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int | str], BaseLayout] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[str, int | str]) -> BaseLayout | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[str, int | str], base: BaseLayout) -> None:
        with self._lock:
            self._kept[key] = base
            while len(self._kept) > _KEPT_LAYOUTS:
                self._kept.popitem(last=False)


_layouts = _Layouts()


def find(backend: Backend, principal: Principal, name: str, revision: str | None = None) -> FoundBase:
    """A registered base by name or `sha256:…`, else a repository that holds weights. Raises `BaseNotFound`."""
    name = name.removeprefix("hf:")
    name, _, written = name.partition("@")
    revision = revision or written or None
    if not name.isprintable() or len(name) > 300 or not (revision or "").isprintable():
        raise BaseNotFound(f"no base is called {name[:80]!a}")
    with backend.database.read() as session:
        if name.startswith("sha256:"):
            by_digest = queries.base_by_weights(session, name.removeprefix("sha256:"))
            named = None
        else:
            by_digest = None
            named = queries.newest_named(session, name, revision)
    if named is not None:
        return load(backend, named.base, revision=named.revision or None)
    if by_digest is not None:
        return load(backend, by_digest)
    return FoundBase(_of_repository(backend, principal, name, revision), None)


@dataclass(frozen=True, slots=True)
class MeantBase:
    """One of the bases that a name stands for, before its layout is read: registered, or a commit of a repository."""

    name: str
    revision: str | None
    stored: StoredBase | None = None

    def open(self, backend: Backend, principal: Principal) -> FoundBase:
        """Raises `BaseNotFound` where the commit holds no base."""
        if self.stored is not None:
            return load(backend, self.stored, revision=self.revision)
        return FoundBase(_of_repository(backend, principal, self.name, self.revision), None)


def meant_by(backend: Backend, principal: Principal, name: str) -> list[MeantBase]:
    """Every base that a name without a revision may mean, newest first, at most `MOST_REVISIONS`."""
    name = name.removeprefix("hf:")
    if not name.isprintable() or len(name) > 300:
        return []
    with backend.database.read() as session:
        named = queries.all_named(session, name, limit=MOST_REVISIONS)
    found = [MeantBase(name, one.revision or None, one.base) for one in named]
    return (found + [MeantBase(name, commit) for commit in _commits(backend, principal, name)])[:MOST_REVISIONS]


def _commits(backend: Backend, principal: Principal, name: str) -> list[CommitId]:
    """What a repository has been: its main, and each of its versions; nothing where the principal may not read it."""
    try:
        with reading(backend, principal, RepositoryName.parse(name)) as opened:
            opened.require_readable()
            return commits_of(opened.session, opened.id)
    except Refusal:
        return []


def commits_of(session: Session, repository_id: int) -> list[CommitId]:
    """The head of a repository's main, and each of its versions, newest first."""
    main = revisions.resolve(session, repository_id, "main").commit
    versions = revisions.versions_of(session, repository_id, limit=MOST_REVISIONS)
    return list(dict.fromkeys([main.id, *(commit.id for _, commit in versions)]))


def find_all(backend: Backend, principal: Principal, name: str) -> list[FoundBase]:
    """The bases of `meant_by`; a commit without weights is none."""
    found = []
    for candidate in meant_by(backend, principal, name):
        with suppress(BaseNotFound):
            found.append(candidate.open(backend, principal))
    return found


def next_of(
    backend: Backend, principal: Principal, known: Sequence[MeantBase], start: int
) -> tuple[FoundBase | None, int | None]:
    """The first base from `start` on, and where the one after it is looked for; None at the end."""
    for place in range(start, len(known)):
        with suppress(BaseNotFound):
            return known[place].open(backend, principal), place + 1 if place + 1 < len(known) else None
    return None, None


def stored_base(session: Session, base_id: int) -> StoredBase:
    return queries.stored_base(session, base_id)


def load(backend: Backend, stored: StoredBase, *, revision: str | None = None) -> FoundBase:
    """The stored base with its layout and all its names."""
    key = (str(backend.database), stored.id)
    base = _layouts.get(key)
    with backend.database.read() as session:
        names = queries.names_of(session, [stored.id]).get(stored.id, [])
        if base is None:
            text, config = queries.layout_of(session, stored.id)
    if base is None:
        base = base_from_text(text, config, files=stored.files)
        _layouts.put(key, base)
    return FoundBase(
        replace(base, name=names[0] if names else None, names=frozenset(names), revision=revision), stored.id
    )


def _of_repository(backend: Backend, principal: Principal, name: str, revision: str | None) -> BaseLayout:
    try:
        parsed = RepositoryName.parse(name)
        with reading(backend, principal, parsed, revision or "main") as opened:
            at = opened.readable_at(revision or "main")
            held = RevisionFiles.of(at)
        key = (str(backend.database), f"{at.commit.id}{'' if held.is_here else ' upstream'}")
        base = _layouts.get(key)
        if base is None:
            base = read_base(held, digest=held.sha256)
            _layouts.put(key, base)
    except InvalidBaseModel as error:
        raise BaseNotFound(f"{name} is no base model: {error.message}", hint=error.hint) from None
    except Refusal:
        raise BaseNotFound(
            f"no base is called {name[:200]}", hint=f"register it: lorahub base add hf:{name[:200]}"
        ) from None
    name = opened.repository.full_name
    return replace(base, name=name, names=frozenset([name]), revision=at.commit.id)


def list_named(
    backend: Backend, principal: Principal, text: str | None, *, after: int | None, limit: int
) -> list[tuple[int, NamedBase, int]]:
    """(id, base, how many repositories that the principal may see name it), newest first."""
    with backend.database.read() as session:
        found = queries.named_bases(session, text, after=after, limit=limit)
        adapters = queries.adapters_by_base(
            session,
            [named.name for _, named in found],
            visible_namespaces=visible_namespaces(session, principal),
        )
    return [(number, named, adapters.get(named.name.lower(), 0)) for number, named in found]
