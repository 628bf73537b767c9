"""What a namespace uses: the distinct blobs that its commits refer to, and the room kept for what is on its way.

A blob that several of its repositories have counts once; one that several namespaces have counts in each. Whoever makes
something grow does it inside `growth` or `upload`, which let one transaction at a time count and undo what grew too
far: the check and the reservation are one act. Both sums are kept in the database, so an act costs the same however
much is there, and under way.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from lorahub.errors import QuotaExceeded, RepositoryNotFound
from lorahub.protocol.digests import Sha256
from lorahub.protocol.messages.accounts import NamespaceUse, UsedBytes, UsedQuota

from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.accounts.service import acting_namespaces, require_known
from lorahub_registry.core.audit.service import record
from lorahub_registry.core.quotas import queries
from lorahub_registry.core.quotas.queries import Namespace
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session
from lorahub_registry.settings import Settings


@dataclass(frozen=True, slots=True)
class Figure:
    """`limit` None is none."""

    used: int
    limit: int | None

    def as_message(self) -> UsedQuota:
        return UsedQuota(self.used, self.limit)


@dataclass(frozen=True, slots=True)
class Use:
    """Of a namespace. `reserved` is the part of the bytes that no commit has yet."""

    namespace: str
    bytes: Figure
    reserved: int
    repositories: Figure

    def as_message(self) -> NamespaceUse:
        stored = UsedBytes(self.bytes.used, self.bytes.limit, self.reserved)
        return NamespaceUse(self.namespace, stored, self.repositories.as_message())


@dataclass(frozen=True, slots=True)
class OwnUse:
    """Of an account, wherever it works."""

    open_uploads: Figure
    open_merges: Figure


# --- growing ----------------------------------------------------------------------------------------------------------


@contextmanager
def growth(session: Session, settings: Settings, account_id: int) -> Iterator[None]:
    """First thing in a transaction that may make a namespace's bytes grow, around all of it.

    Raises `QuotaExceeded` at the end where they grew beyond their quota; the transaction then comes to nothing.
    """
    hold(session, account_id)
    before = _bytes(session, settings, queries.namespace_by_id(session, account_id))
    yield
    namespace = queries.namespace_by_id(session, account_id)
    _refuse_excess("bytes", namespace.name, before, _bytes(session, settings, namespace))


@contextmanager
def growth_of(session: Session, settings: Settings, repository_id: int) -> Iterator[int]:
    """As `growth`, of the namespace that the repository is in, and stays in meanwhile. Raises `RepositoryNotFound`."""
    account_id = hold_namespace_of(session, repository_id)
    with growth(session, settings, account_id):
        yield account_id


@contextmanager
def arrival(session: Session, settings: Settings, account_id: int) -> Iterator[None]:
    """As `growth`, where a repository comes into the namespace; also raises where it has too many."""
    with growth(session, settings, account_id):
        before = _repositories(session, settings, queries.namespace_by_id(session, account_id))
        yield
        namespace = queries.namespace_by_id(session, account_id)
        _refuse_excess("repositories", namespace.name, before, _repositories(session, settings, namespace))


@contextmanager
def upload(session: Session, settings: Settings, *, account_id: int, repository_id: int | None) -> Iterator["Room"]:
    """As `growth`, around what is written of an upload; also raises where its account has too many open.

    What belongs to no repository takes no room.
    """
    namespace_id = None if repository_id is None else _held_namespace_of(session, repository_id, account_id)
    if namespace_id is None:
        yield Room(session, None, account_id)
        return
    limit = _limit(None, settings.quota_open_uploads)
    with growth(session, settings, namespace_id):
        before = Figure(queries.reserved(session, account_id).uploads, limit)
        yield Room(session, namespace_id, account_id)
        after = Figure(queries.reserved(session, account_id).uploads, limit)
        _refuse_excess("open uploads", queries.namespace_by_id(session, account_id).name, before, after)


@dataclass(frozen=True, slots=True)
class Room:
    """What is kept free for uploads of one account into one repository. Both accounts are held."""

    _session: Session
    _namespace_id: int | None
    _account_id: int

    def take(self, key: str, size: int, *, until: datetime, is_upload: bool = True) -> None:
        """For bytes that have yet to come, whatever was taken by this key before."""
        if self._namespace_id is None:
            return
        is_own = self._namespace_id == self._account_id
        uploads = int(is_upload and is_own)
        queries.reserve(self._session, self._namespace_id, key, size=size, uploads=uploads, expires_at=until)
        if is_upload and not is_own:
            queries.reserve(self._session, self._account_id, key, size=0, uploads=1, expires_at=until)

    def take_all(self, sizes: Mapping[str, int], *, until: datetime) -> None:
        """As `take`, for many uploads by their ids."""
        if self._namespace_id is None:
            return
        is_own = self._namespace_id == self._account_id
        queries.reserve_all(self._session, self._namespace_id, sizes, uploads=int(is_own), expires_at=until)
        if not is_own:
            nothing = dict.fromkeys(sizes, 0)
            queries.reserve_all(self._session, self._account_id, nothing, uploads=1, expires_at=until)

    def keep(self, sizes: Mapping[Sha256, int], *, until: datetime) -> None:
        """For bytes that are here and wait for the commit that names them, by digest: once in the namespace, however
        often they came, and not at all where a commit has them.
        """
        if self._namespace_id is not None:
            counted = queries.counted_blobs(self._session, self._namespace_id, sizes)
            new: dict[str, int] = {sha256: size for sha256, size in sizes.items() if sha256 not in counted}
            queries.reserve_all(self._session, self._namespace_id, new, uploads=0, expires_at=until)

    def give_back(self, key: str) -> None:
        if self._namespace_id is not None:
            for account_id in {self._namespace_id, self._account_id}:
                queries.give_back(self._session, account_id, [key])


class Incoming(Protocol):
    """An upload, or a session of several."""

    @property
    def account_id(self) -> int: ...

    @property
    def repository_id(self) -> int | None: ...


@contextmanager
def room_of(backend: Backend, incoming: Incoming) -> Iterator[tuple[Session, Room]]:
    """A transaction about it, and what it takes of. Raises as `upload`."""
    account_id, repository_id = incoming.account_id, incoming.repository_id
    with (
        backend.database.write() as session,
        upload(session, backend.settings, account_id=account_id, repository_id=repository_id) as room,
    ):
        yield session, room


def occupy(session: Session, account_id: int, digests: Iterable[str]) -> None:
    """A commit of this namespace refers to these blobs now, and the room that was kept for them is theirs. Inside
    `growth`.
    """
    named = list(digests)
    queries.add_blobs(session, account_id, named)
    queries.give_back(session, account_id, named)


def occupy_all(session: Session, account_id: int, repository_id: int) -> None:
    """A whole repository came. Inside `growth`."""
    occupy(session, account_id, queries.blobs_of(session, repository_id))


@contextmanager
def leaving(session: Session, account_id: int, repository_id: int, *, to: int | None = None) -> Iterator[None]:
    """Around what takes a repository out of its namespace, into another or away. After `hold` of both."""
    digests = queries.blobs_of(session, repository_id)
    under_way = queries.reserved_by(session, account_id, repository_id)
    yield
    queries.drop_blobs(session, account_id, digests)
    if to != account_id:
        queries.give_back(session, account_id, [key for key, _, _ in under_way])
    counted = set() if to in (None, account_id) else queries.counted_blobs(session, to, [key for key, *_ in under_way])
    for key, size, until in under_way if to not in (None, account_id) else ():
        if to is not None and key not in counted:
            queries.reserve(session, to, key, size=size, uploads=0, expires_at=until)


def let_go(session: Session, account_id: int, digests: Sequence[str]) -> None:
    """Commits of this namespace have these blobs no more. After `hold`."""
    queries.drop_blobs(session, account_id, digests)


def hold(session: Session, *account_ids: int) -> None:
    """Lets nobody else count for these namespaces until the transaction ends. Always before any other row is locked."""
    for account_id in sorted(set(account_ids)):
        queries.namespace_by_id(session, account_id, lock=True)
        queries.give_back_expired(session, account_id)


def hold_namespace_of(session: Session, repository_id: int) -> int:
    """Its id. Raises `RepositoryNotFound` where the repository was deleted meanwhile."""
    if (account_id := _held_namespace_of(session, repository_id)) is None:
        raise RepositoryNotFound("Repository not found: it was deleted meanwhile")
    return account_id


def _held_namespace_of(session: Session, repository_id: int, *account_ids: int) -> int | None:
    """Its id, held together with other accounts; None where the repository was deleted."""
    while (namespace_id := queries.namespace_of(session, repository_id)) is not None:
        hold(session, namespace_id, *account_ids)
        if queries.namespace_of(session, repository_id) == namespace_id:  # it wasn't moved while we waited
            break
    return namespace_id


def give_back_expired(backend: Backend) -> None:
    """The room of all that expired; whoever grows does it for his namespace anyway."""
    with backend.database.read() as session:
        found = queries.accounts_with_expired(session)
    for account_id in found:
        with backend.database.write() as session:
            hold(session, account_id)


def require_room(session: Session, settings: Settings, account_id: int, size: int) -> None:
    """Reserves nothing: for work that will ask again when it has something to keep. Raises `QuotaExceeded`."""
    namespace = queries.namespace_by_id(session, account_id)
    now = _bytes(session, settings, namespace)
    _refuse_excess("bytes", namespace.name, now, Figure(now.used + size, now.limit))


def require_room_for_files(session: Session, settings: Settings, account_id: int, sizes: Collection[int]) -> None:
    """As `require_room`, of files of which nothing is known but their sizes: what may be here already takes none."""
    try:
        require_room(session, settings, account_id, sum(sizes))
    except QuotaExceeded:
        distinct = set(sizes)
        new = distinct - queries.known_sizes(session, account_id, distinct)
        require_room(session, settings, account_id, sum(new))


def _refuse_excess(what: str, namespace: str, before: Figure, after: Figure) -> None:
    if after.limit is None or after.used <= max(after.limit, before.used):
        return
    metrics.QUOTAS.labels(what).inc()
    left = max(after.limit - before.used, 0)
    raise QuotaExceeded(
        f"{namespace} may have {after.limit} {what} and has {before.used}: "
        f"{after.used - before.used} more are over its quota, {left} are left",
        hint="delete what isn't needed any more, or ask the registry's administrator for more",
        what=what,
        limit=after.limit,
        used=before.used,
        asked=after.used - before.used,
    )


# --- looking ----------------------------------------------------------------------------------------------------------


def _use(session: Session, settings: Settings, namespace: Namespace) -> Use:
    return Use(
        namespace=namespace.name,
        bytes=_bytes(session, settings, namespace),
        reserved=queries.reserved(session, namespace.id).bytes,
        repositories=_repositories(session, settings, namespace),
    )


def _bytes(session: Session, settings: Settings, namespace: Namespace) -> Figure:
    used = namespace.stored_bytes + queries.reserved(session, namespace.id).bytes
    return Figure(used, _limit(namespace.byte_quota, settings.quota_bytes))


def _repositories(session: Session, settings: Settings, namespace: Namespace) -> Figure:
    limit = _limit(namespace.repository_quota, settings.quota_repositories)
    return Figure(queries.repositories(session, namespace.id), limit)


def _limit(own: int | None, of_all: int) -> int | None:
    return (of_all if own is None else own) or None


def use_of(backend: Backend, name: str) -> Use:
    """Raises `AccountNotFound`."""
    with backend.database.read() as session:
        namespace = queries.namespace_by_id(session, require_known(session, name).id)
        return _use(session, backend.settings, namespace)


def own_uses(backend: Backend, principal: Principal) -> list[Use]:
    """Of the namespaces that the principal may write to, its own first."""
    with backend.database.read() as session:
        found = acting_namespaces(session, principal)
        return [_use(session, backend.settings, queries.namespace_by_id(session, one.id)) for one in found]


def own_work(backend: Backend, principal: Principal) -> OwnUse:
    account_id, settings = principal.require_account(), backend.settings
    with backend.database.read() as session:
        uploads, merges = queries.reserved(session, account_id).uploads, queries.open_merges(session, account_id)
    return OwnUse(
        Figure(uploads, _limit(None, settings.quota_open_uploads)), Figure(merges, settings.merge_jobs_per_account)
    )


# --- by the operator --------------------------------------------------------------------------------------------------


def set_quota(backend: Backend, name: str, *, by: str, **quotas: int | None) -> Use:
    """`byte_quota`, `repository_quota`: None is the registry's, 0 is none. Raises `AccountNotFound`."""
    with backend.database.write() as session:
        account = require_known(session, name)
        queries.set_quotas(session, account.id, **quotas)
        record(session, actor=by, action="quota.set", subject=account.name, **quotas)
    return use_of(backend, name)


def recount(backend: Backend) -> int:
    """Counts every namespace anew, after an older program wrote to a newer database; how many there are."""
    with backend.database.read() as session:
        found = queries.namespaces(session)
    for account_id in found:
        with backend.database.write() as session:
            hold(session, account_id)
            queries.recount(session, account_id)
    return len(found)


def miscounts(session: Session) -> Iterator[str]:
    """What breaks the promise that each namespace's use is the sum of what its commits refer to and of what is on its
    way.
    """
    for namespace, digest in queries.uncounted(session):
        yield f"namespace {namespace}: the blob {digest} of a commit is not counted"
    for namespace, digest in queries.counted_for_nothing(session):
        yield f"namespace {namespace}: the blob {digest} is counted, and no commit has it"
    for namespace, recorded, found in queries.wrong_sums(session):
        yield f"namespace {namespace}: {recorded} bytes recorded, its blobs have {found}"
    for namespace, recorded, found in queries.wrong_totals(session):
        yield f"namespace {namespace}: {recorded} recorded as reserved, its reservations have {found}"
    for namespace, key in queries.unreserved(session):
        yield f"namespace {namespace}: {key} is on its way, and no room is reserved for it"
