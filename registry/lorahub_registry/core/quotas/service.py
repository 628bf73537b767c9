"""What a namespace uses: the distinct blobs that its commits refer to, and the room kept for what is on its way.

A blob that several of its repositories have counts once; one that several namespaces have counts in each. Whoever makes
something grow does it inside `growth` or `upload`, which let one transaction at a time count and undo what grew too
far: the check and the reservation are one act. Both sums are kept in the database, so an act costs the same however
much is there, and under way.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from lorahub.errors import QuotaExceeded, RepositoryNotFound
from lorahub.protocol.digests import Sha256
from lorahub.protocol.messages.accounts import NamespaceUse, UsedBytes, UsedQuota

from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.accounts.service import acting_namespaces, require_known
from lorahub_registry.core.audit.service import record
from lorahub_registry.core.quotas import queries
from lorahub_registry.core.quotas.queries import Namespace, Reserved
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
def arrival(session: Session, settings: Settings, account_id: int) -> Iterator[None]:
    """First thing in a transaction that brings a repository into a namespace, around all of it.

    Raises `QuotaExceeded` at the end where it has too many, or too many bytes; the transaction then comes to nothing.
    """
    namespace = hold(session, account_id)[account_id]
    before = _bytes(settings, namespace), _repositories(session, settings, namespace)
    yield
    namespace = queries.namespace_by_id(session, account_id)
    _refuse_excess("bytes", namespace.name, before[0], _bytes(settings, namespace))
    _refuse_excess("repositories", namespace.name, before[1], _repositories(session, settings, namespace))


@contextmanager
def growth(session: Session, settings: Settings, *, account_id: int, repository_id: int) -> Iterator["Room"]:
    """First thing in a transaction in which an account makes a repository grow, around all of it: the repository stays
    in its namespace meanwhile, and what was taken of the room is written at the end.

    Raises `RepositoryNotFound` where it was deleted; at the end `QuotaExceeded` where its namespace grew beyond its
    quota or the account has too many uploads open, and the transaction then comes to nothing.
    """
    held, namespace_id = _hold_with(session, repository_id, account_id)
    if namespace_id is None:
        raise _deleted()
    room = Room(session, held, namespace_id, account_id)
    yield room
    room.settle(settings)


@contextmanager
def upload(session: Session, settings: Settings, *, account_id: int, repository_id: int | None) -> Iterator["Room"]:
    """As `growth`, around what is written of an upload. What belongs to no repository, or to one that was deleted,
    takes no room.
    """
    held, namespace_id = ({}, None) if repository_id is None else _hold_with(session, repository_id, account_id)
    room = Room(session, held, namespace_id, account_id)
    yield room
    if namespace_id is not None:
        room.settle(settings)


class Room:
    """What a transaction of one account takes of the quotas of a namespace, and of its own. Both are held, so that what
    they keep is known without asking again.
    """

    def __init__(
        self, session: Session, held: Mapping[int, Namespace], namespace_id: int | None, account_id: int
    ) -> None:
        self._session = session
        self._held = held
        self._namespace_id = namespace_id
        self._account_id = account_id
        self._more = dict.fromkeys(held, Reserved())
        self._stored: int | None = None

    def take(self, key: str, size: int, *, until: datetime, is_upload: bool = True) -> None:
        """For bytes that have yet to come, whatever was taken by this key before."""
        for account_id, reserved in self._split(size, is_upload=is_upload).items():
            self._put(account_id, {key: reserved}, until=until)

    def take_new(self, sizes: Mapping[str, int], *, until: datetime) -> None:
        """As `take`, of uploads that were just opened, by their ids."""
        taken: dict[int, dict[str, Reserved]] = {}
        for key, size in sizes.items():
            for account_id, reserved in self._split(size).items():
                taken.setdefault(account_id, {})[key] = reserved
        self._add(queries.put_new(self._session, taken, expires_at=until))

    def _split(self, size: int, *, is_upload: bool = True) -> dict[int, Reserved]:
        """What an upload takes: bytes of the namespace, and of its account's uploads one."""
        if self._namespace_id is None:
            return {}
        if not is_upload or self._namespace_id == self._account_id:
            return {self._namespace_id: Reserved(size, int(is_upload))}
        return {self._namespace_id: Reserved(size), self._account_id: Reserved(uploads=1)}

    def keep(self, sizes: Mapping[Sha256, int], *, until: datetime) -> None:
        """For bytes that are here and wait for the commit that names them, by digest: once in the namespace, however
        often they came, and not at all where a commit has them.
        """
        if self._namespace_id is not None:
            counted = queries.counted_blobs(self._session, self._namespace_id, sizes)
            new: dict[str, Reserved] = {
                sha256: Reserved(size) for sha256, size in sizes.items() if sha256 not in counted
            }
            self._put(self._namespace_id, new, until=until)

    def give_back(self, upload: str) -> None:
        """By its id, or a session's."""
        if self._namespace_id is not None:
            self._take_out({account_id: [upload] for account_id in self._more})

    def occupy(self, digests: Iterable[str], *, uploads: Collection[str] = ()) -> None:
        """A commit of the namespace refers to these blobs now: the room that was kept for them, and that of the uploads
        that brought them, is theirs.
        """
        assert self._namespace_id is not None
        named = list(digests)
        self._stored = queries.add_blobs(self._session, self._namespace_id, named)
        self._take_out({self._account_id: uploads, self._namespace_id: [*named, *uploads]})

    def _put(self, account_id: int, taken: Mapping[str, Reserved], *, until: datetime) -> None:
        self._add({account_id: queries.put(self._session, account_id, taken, expires_at=until)})

    def _take_out(self, keys: Mapping[int, Collection[str]]) -> None:
        self._add({account_id: -gone for account_id, gone in queries.take_out(self._session, keys).items()})

    def _add(self, more: Mapping[int, Reserved]) -> None:
        for account_id, of_account in more.items():
            self._more[account_id] += of_account

    def settle(self, settings: Settings) -> None:
        """Raises `QuotaExceeded`."""
        assert self._namespace_id is not None
        queries.add(self._session, self._more)
        before, account = self._held[self._namespace_id], self._held[self._account_id]
        after = replace(
            before,
            stored_bytes=before.stored_bytes if self._stored is None else self._stored,
            reserved=before.reserved + self._more[before.id],
        )
        _refuse_excess("bytes", before.name, _bytes(settings, before), _bytes(settings, after))
        uploads, limit = account.reserved.uploads, _limit(None, settings.quota_open_uploads)
        opened = Figure(uploads + self._more[account.id].uploads, limit)
        _refuse_excess("open uploads", account.name, Figure(uploads, limit), opened)


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
    `arrival`.
    """
    named = list(digests)
    queries.add_blobs(session, account_id, named)
    queries.give_back(session, account_id, named)


def occupy_all(session: Session, account_id: int, repository_id: int) -> None:
    """A whole repository came. Inside `arrival`."""
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
            queries.reserve(session, to, key, size=size, expires_at=until)


def let_go(session: Session, account_id: int, digests: Sequence[str]) -> None:
    """Commits of this namespace have these blobs no more. After `hold`."""
    queries.drop_blobs(session, account_id, digests)


def hold(session: Session, *account_ids: int) -> dict[int, Namespace]:
    """Lets nobody else count for these namespaces until the transaction ends. Always before any other row is locked."""
    queries.lock(session, account_ids)
    held, _ = queries.namespaces_by_id(session, account_ids)
    _tidy(session, held)
    return held


def hold_namespace_of(session: Session, repository_id: int) -> int:
    """Its id. Raises `RepositoryNotFound` where the repository was deleted meanwhile."""
    _, namespace_id = _hold_with(session, repository_id)
    if namespace_id is None:
        raise _deleted()
    return namespace_id


def _deleted() -> RepositoryNotFound:
    return RepositoryNotFound("Repository not found: it was deleted meanwhile")


def _hold_with(session: Session, repository_id: int, *account_ids: int) -> tuple[dict[int, Namespace], int | None]:
    """The accounts and the namespace of the repository, held; and its id, None where the repository was deleted."""
    while True:
        locked = queries.lock(session, account_ids, repository_id=repository_id)
        held, namespace_id = queries.namespaces_by_id(session, account_ids, repository_id=repository_id)
        if namespace_id is None or namespace_id in locked:  # else it was moved while we waited
            _tidy(session, held)
            return held, namespace_id


def _tidy(session: Session, held: Mapping[int, Namespace]) -> None:
    """What has expired is no part of what is held."""
    for account_id, namespace in sorted(held.items()):
        if namespace.expired != Reserved():
            queries.give_back_expired(session, account_id)


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
    now = _bytes(settings, namespace)
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
        bytes=_bytes(settings, namespace),
        reserved=namespace.reserved.bytes,
        repositories=_repositories(session, settings, namespace),
    )


def _bytes(settings: Settings, namespace: Namespace) -> Figure:
    used = namespace.stored_bytes + namespace.reserved.bytes
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
        uploads = queries.namespace_by_id(session, account_id).reserved.uploads
        merges = queries.open_merges(session, account_id)
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
