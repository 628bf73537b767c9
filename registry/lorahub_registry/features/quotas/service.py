"""What a namespace uses: the distinct blobs that its commits refer to, and what its uploads have announced.

A blob that several of its repositories have counts once; one that several namespaces have counts in each. Whoever makes
something grow does it inside `growth`, which lets one transaction at a time count and undoes what grew too far: the
check and the reservation are one act.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from lorahub.errors import QuotaExceeded, RepositoryNotFound

from lorahub_registry.features.accounts.permissions import Principal
from lorahub_registry.features.accounts.service import acting_namespaces, require_known
from lorahub_registry.features.audit.service import record
from lorahub_registry.features.quotas import queries
from lorahub_registry.features.quotas.queries import Namespace
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session
from lorahub_registry.settings import Settings


@dataclass(frozen=True, slots=True)
class Figure:
    """`limit` None is none."""

    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Use:
    """Of a namespace. `reserved` is the part of the bytes that no commit has yet."""

    namespace: str
    bytes: Figure
    reserved: int
    repositories: Figure

    def as_json(self) -> dict[str, Any]:
        return {
            "namespace": self.namespace,
            "bytes": {**asdict(self.bytes), "reserved": self.reserved},
            "repositories": asdict(self.repositories),
        }


@dataclass(frozen=True, slots=True)
class OwnUse:
    """Of an account, wherever it works."""

    open_uploads: Figure
    open_merges: Figure


# --- growing ----------------------------------------------------------------------------------------------------------


@contextmanager
def growth(session: Session, settings: Settings, account_id: int) -> Iterator[None]:
    """First thing in a transaction that may make a namespace grow, around all of it.

    Raises `QuotaExceeded` at the end where it grew beyond its quota; the transaction then comes to nothing.
    """
    namespace = queries.namespace_by_id(session, account_id, lock=True)
    if not _is_limited(namespace, settings):
        yield
        return
    before = _use(session, settings, namespace)
    yield
    after = _use(session, settings, queries.namespace_by_id(session, account_id))
    _refuse_excess("bytes", after.namespace, before.bytes, after.bytes)
    _refuse_excess("repositories", after.namespace, before.repositories, after.repositories)


@contextmanager
def growth_of(session: Session, settings: Settings, repository_id: int) -> Iterator[int]:
    """As `growth`, of the namespace that the repository is in, and stays in meanwhile. Raises `RepositoryNotFound`."""
    account_id = hold_namespace_of(session, repository_id)
    with growth(session, settings, account_id):
        yield account_id


@contextmanager
def upload(session: Session, settings: Settings, *, account_id: int, repository_id: int | None) -> Iterator[None]:
    """As `growth`, around the row of an upload; also raises where its account has too many open."""
    namespace_id = None if repository_id is None else queries.namespace_of(session, repository_id)
    limit = _limit(None, settings.quota_open_uploads)
    if namespace_id is None or not (limit or _is_limited(queries.namespace_by_id(session, namespace_id), settings)):
        yield
        return
    hold(session, account_id, namespace_id)
    with growth(session, settings, namespace_id):
        before = Figure(queries.open_uploads(session, account_id), limit)
        yield
        after = Figure(queries.open_uploads(session, account_id), limit)
        _refuse_excess("open uploads", queries.namespace_by_id(session, account_id).name, before, after)


def occupy(session: Session, account_id: int, digests: Iterable[str]) -> None:
    """A commit of this namespace refers to these blobs now. Inside `growth`."""
    queries.add_blobs(session, account_id, digests)


def occupy_all(session: Session, account_id: int, repository_id: int) -> None:
    """A whole repository came. Inside `growth`."""
    queries.add_blobs(session, account_id, queries.blobs_of(session, repository_id))


@contextmanager
def leaving(session: Session, account_id: int, repository_id: int) -> Iterator[None]:
    """Around what takes a repository out of its namespace. After `hold`."""
    digests = queries.blobs_of(session, repository_id)
    yield
    queries.drop_blobs(session, account_id, digests)


def let_go(session: Session, account_id: int, digests: Sequence[str]) -> None:
    """Commits of this namespace have these blobs no more. After `hold`."""
    queries.drop_blobs(session, account_id, digests)


def hold(session: Session, *account_ids: int) -> None:
    """Lets nobody else count for these namespaces until the transaction ends. Always before any other row is locked."""
    for account_id in sorted(set(account_ids)):
        queries.namespace_by_id(session, account_id, lock=True)


def hold_namespace_of(session: Session, repository_id: int) -> int:
    """Its id. Raises `RepositoryNotFound` where the repository was deleted meanwhile."""
    while (account_id := queries.namespace_of(session, repository_id)) is not None:
        hold(session, account_id)
        if queries.namespace_of(session, repository_id) == account_id:  # it wasn't moved while we waited
            return account_id
    raise RepositoryNotFound("Repository not found: it was deleted meanwhile")


def require_room(session: Session, settings: Settings, account_id: int, size: int) -> None:
    """Reserves nothing: for work that will ask again when it has something to keep. Raises `QuotaExceeded`."""
    use = _use(session, settings, queries.namespace_by_id(session, account_id))
    _refuse_excess("bytes", use.namespace, use.bytes, Figure(use.bytes.used + size, use.bytes.limit))


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


def _is_limited(namespace: Namespace, settings: Settings) -> bool:
    quotas = (
        _limit(namespace.byte_quota, settings.quota_bytes),
        _limit(namespace.repository_quota, settings.quota_repositories),
    )
    return quotas != (None, None)


# --- looking ----------------------------------------------------------------------------------------------------------


def _use(session: Session, settings: Settings, namespace: Namespace) -> Use:
    reserved = queries.reserved_bytes(session, namespace.id)
    repositories = queries.repositories(session, namespace.id)
    return Use(
        namespace=namespace.name,
        bytes=Figure(namespace.stored_bytes + reserved, _limit(namespace.byte_quota, settings.quota_bytes)),
        reserved=reserved,
        repositories=Figure(repositories, _limit(namespace.repository_quota, settings.quota_repositories)),
    )


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
        uploads, merges = queries.open_uploads(session, account_id), queries.open_merges(session, account_id)
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
    """What breaks the promise that each namespace's use is the sum of what its commits refer to."""
    for namespace, digest in queries.uncounted(session):
        yield f"namespace {namespace}: the blob {digest} of a commit is not counted"
    for namespace, digest in queries.counted_for_nothing(session):
        yield f"namespace {namespace}: the blob {digest} is counted, and no commit has it"
    for namespace, recorded, found in queries.wrong_sums(session):
        yield f"namespace {namespace}: {recorded} bytes recorded, its blobs have {found}"
