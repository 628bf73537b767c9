"""What namespaces keep: counted when it changes, so that asking costs nothing, and provable at any time."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.paging import pages
from lorahub_registry.infrastructure.database.tables import (
    Account,
    Blob,
    Commit,
    CommitFile,
    MergeJob,
    NamespaceBlob,
    Repository,
    Reservation,
    ReservedTotal,
    Upload,
    XetSession,
)

MOST = 1000  # miscounts listed of one kind
_OPEN_JOB = ("queued", "running", "publishing")


@dataclass(frozen=True, slots=True)
class Reserved:
    """Of one account: bytes that its namespace keeps free, and its own uploads whose bytes have yet to come."""

    bytes: int = 0
    uploads: int = 0

    def __add__(self, other: "Reserved") -> "Reserved":
        return Reserved(self.bytes + other.bytes, self.uploads + other.uploads)

    def __neg__(self) -> "Reserved":
        return Reserved(-self.bytes, -self.uploads)


@dataclass(frozen=True, slots=True)
class Namespace:
    """An account and what it keeps. Own limits, None where the registry's apply; 0 is none."""

    id: int
    name: str
    stored_bytes: int
    byte_quota: int | None
    repository_quota: int | None
    reserved: Reserved
    """What is alive of it."""
    expired: Reserved
    """What is recorded as reserved beside it, until somebody tidies up."""


def lock(session: Session, account_ids: Iterable[int], *, repository_id: int | None = None) -> set[int]:
    """Lets one transaction at a time count for these accounts, and for the namespace that the repository is in now
    (PostgreSQL; SQLite has one writer). In order of id, so that no two wait for each other. The ids of those locked.
    """
    which = _which(account_ids, repository_id)
    return set(session.scalars(select(Account.id).where(which).order_by(Account.id).with_for_update(key_share=True)))


def namespaces_by_id(
    session: Session, account_ids: Iterable[int], *, repository_id: int | None = None
) -> tuple[dict[int, Namespace], int | None]:
    """By id, these accounts and the namespace of the repository; and its id, None where there is no such repository."""
    home = literal(None) if repository_id is None else _namespace_of(repository_id)
    of_totals, of_expired = ReservedTotal.account_id == Account.id, _is_expired(Account.id)
    columns = (
        *(Account.id, Account.name, Account.stored_bytes, Account.byte_quota, Account.repository_quota),
        _summed(ReservedTotal.bytes, of_totals).label("bytes"),
        _summed(ReservedTotal.uploads, of_totals).label("uploads"),
        _summed(Reservation.bytes, of_expired).label("expired_bytes"),
        _summed(Reservation.uploads, of_expired).label("expired_uploads"),
        home.label("home"),
    )
    rows = session.execute(select(*columns).where(_which(account_ids, repository_id))).all()
    return {row.id: _namespace(row) for row in rows}, rows[0].home if rows else None


def _namespace(row: Row[Any]) -> Namespace:
    expired = Reserved(int(row.expired_bytes), int(row.expired_uploads))
    return Namespace(
        id=row.id,
        name=row.name,
        stored_bytes=row.stored_bytes,
        byte_quota=row.byte_quota,
        repository_quota=row.repository_quota,
        reserved=Reserved(int(row.bytes), int(row.uploads)) + -expired,
        expired=expired,
    )


def namespace_by_id(session: Session, account_id: int) -> Namespace:
    return namespaces_by_id(session, [account_id])[0][account_id]


def _which(account_ids: Iterable[int], repository_id: int | None) -> ColumnElement[bool]:
    named = Account.id.in_(set(account_ids))
    return named if repository_id is None else or_(named, Account.id == _namespace_of(repository_id))


def _namespace_of(repository_id: int) -> Any:
    return select(Repository.namespace_id).where(Repository.id == repository_id).scalar_subquery()


def _summed(column: Any, which: ColumnElement[bool]) -> Any:
    """Of the account that the statement around it is about."""
    return select(func.coalesce(func.sum(column), 0)).where(which).correlate(Account).scalar_subquery()


def namespaces(session: Session) -> list[int]:
    return list(session.scalars(select(Account.id).order_by(Account.id)))


def set_quotas(session: Session, account_id: int, **quotas: int | None) -> None:
    session.execute(update(Account).where(Account.id == account_id).values(**quotas))


# --- what is on its way -----------------------------------------------------------------------------------------------


def reserve(session: Session, account_id: int, key: str, *, size: int, expires_at: datetime) -> None:
    """As `put`, and adds it to the account's sums."""
    add(session, {account_id: put(session, account_id, {key: Reserved(size)}, expires_at=expires_at)})


def put(session: Session, account_id: int, taken: Mapping[str, Reserved], *, expires_at: datetime) -> Reserved:
    """From now on each of these keys takes so much, whatever it took before; how much more that is. While the account
    is held.
    """
    more = Reserved()
    for page in pages(taken):
        which = Reservation.account_id == account_id, Reservation.key.in_(page)
        known = {row.key: row for row in session.scalars(select(Reservation).where(*which))}
        for key, row in known.items():
            more += taken[key] + -Reserved(row.bytes, row.uploads)
            row.bytes, row.uploads = taken[key].bytes, taken[key].uploads
            row.expires_at = max(row.expires_at, expires_at)
        new = {key: taken[key] for key in page if key not in known}
        more += put_new(session, {account_id: new}, expires_at=expires_at)[account_id]
    return more


def put_new(
    session: Session, taken: Mapping[int, Mapping[str, Reserved]], *, expires_at: datetime
) -> dict[int, Reserved]:
    """As `put`, of keys that take nothing yet, by account."""
    rows = [
        {"account_id": account_id, "key": key, **asdict(one), "expires_at": expires_at}
        for account_id, of_account in taken.items()
        for key, one in of_account.items()
    ]
    if rows:
        session.execute(insert(Reservation), rows)
    return {account_id: sum(of_account.values(), Reserved()) for account_id, of_account in taken.items()}


def give_back(session: Session, account_id: int, keys: Collection[str]) -> None:
    """As `take_out`, and takes it off the account's sums."""
    add(session, {account_id: -take_out(session, {account_id: keys})[account_id]})


def take_out(session: Session, keys: Mapping[int, Collection[str]]) -> dict[int, Reserved]:
    """These keys take nothing of these accounts any more; what they took of each."""
    gone = dict.fromkeys(keys, Reserved())
    for page in pages(key for of_account in keys.values() for key in of_account):
        which = (
            and_(Reservation.account_id == account_id, Reservation.key.in_(set(page).intersection(of_account)))
            for account_id, of_account in keys.items()
        )
        for account_id, of_account in _drop(session, or_(*which)).items():
            gone[account_id] += of_account
    return gone


def give_back_expired(session: Session, account_id: int) -> None:
    """Each reservation expires once, so this costs as little for each as giving it back."""
    gone = _drop(session, _is_expired(account_id))
    add(session, {account_id: -of_account for account_id, of_account in gone.items()})


def _drop(session: Session, which: ColumnElement[bool]) -> dict[int, Reserved]:
    session.flush()
    columns = (Reservation.account_id, Reservation.bytes, Reservation.uploads)
    statement = delete(Reservation).where(which).returning(*columns)
    gone: dict[int, Reserved] = {}
    for account_id, size, uploads in session.execute(statement.execution_options(synchronize_session="fetch")):
        gone[account_id] = gone.get(account_id, Reserved()) + Reserved(size, uploads)
    return gone


def _is_expired(account_id: Any) -> ColumnElement[bool]:
    return and_(Reservation.account_id == account_id, Reservation.expires_at <= now())


def add(session: Session, more: Mapping[int, Reserved]) -> None:
    """To the sums of these accounts."""
    changed = {account_id: one for account_id, one in more.items() if one != Reserved()}
    if not changed:
        return
    session.flush()
    bytes_more = case({account_id: one.bytes for account_id, one in changed.items()}, value=ReservedTotal.account_id)
    uploads_more = case(
        {account_id: one.uploads for account_id, one in changed.items()}, value=ReservedTotal.account_id
    )
    values = {"bytes": ReservedTotal.bytes + bytes_more, "uploads": ReservedTotal.uploads + uploads_more}
    grown = update(ReservedTotal).where(ReservedTotal.account_id.in_(changed)).values(values)
    known = set(session.scalars(grown.returning(ReservedTotal.account_id)))
    new = [{"account_id": account_id, **asdict(one)} for account_id, one in changed.items() if account_id not in known]
    if new:
        session.execute(insert(ReservedTotal), new)


def accounts_with_expired(session: Session) -> list[int]:
    statement = select(Reservation.account_id).where(Reservation.expires_at <= now()).distinct()
    return sorted(session.scalars(statement))


def reserved_by(session: Session, account_id: int, repository_id: int) -> list[tuple[str, int, datetime]]:
    """Key, bytes and end of what this repository alone takes of its namespace: uploads, Xet sessions, leased blobs."""
    others = (
        select(Upload.blob_sha256)
        .join(Repository, Repository.id == Upload.repository_id)
        .where(Repository.namespace_id == account_id, Upload.repository_id != repository_id)
    )
    own = select(Upload.blob_sha256).where(Upload.repository_id == repository_id, Upload.blob_sha256.not_in(others))
    keys = or_(
        Reservation.key.in_(select(Upload.id).where(Upload.repository_id == repository_id)),
        Reservation.key.in_(select(XetSession.id).where(XetSession.repository_id == repository_id)),
        Reservation.key.in_(own),
    )
    columns = (Reservation.key, Reservation.bytes, Reservation.expires_at)
    statement = select(*columns).where(Reservation.account_id == account_id, keys)
    return [(key, size, expires_at) for key, size, expires_at in session.execute(statement)]


def counted_blobs(session: Session, account_id: int, digests: Iterable[str]) -> set[str]:
    """Those among them that a commit of the namespace has."""
    found: set[str] = set()
    for page in pages(digests):
        counted = NamespaceBlob.account_id == account_id, NamespaceBlob.blob_sha256.in_(page)
        found.update(session.scalars(select(NamespaceBlob.blob_sha256).where(*counted)))
    return found


def known_sizes(session: Session, account_id: int, sizes: Collection[int]) -> set[int]:
    """Those among `sizes` that something has which the namespace keeps, or keeps room for."""
    kept = select(Blob.size).join(NamespaceBlob, NamespaceBlob.blob_sha256 == Blob.sha256)
    kept = kept.where(NamespaceBlob.account_id == account_id, Blob.size.in_(sizes))
    coming = select(Reservation.bytes).where(Reservation.account_id == account_id, Reservation.bytes.in_(sizes))
    return {*session.scalars(kept.distinct()), *session.scalars(coming.distinct())}


# --- what is there ----------------------------------------------------------------------------------------------------


def repositories(session: Session, account_id: int) -> int:
    return session.scalar(select(func.count()).where(Repository.namespace_id == account_id)) or 0


def open_merges(session: Session, account_id: int) -> int:
    statement = select(func.count()).where(MergeJob.account_id == account_id, MergeJob.status.in_(_OPEN_JOB))
    return session.scalar(statement) or 0


# --- counting ---------------------------------------------------------------------------------------------------------


def add_blobs(session: Session, account_id: int, digests: Iterable[str]) -> int | None:
    """Those that the namespace has already count once. The bytes that it keeps from now on; None where none was new."""
    kept = None
    for page in pages(digests):
        new = select(literal(account_id), Blob.sha256).where(
            Blob.sha256.in_(page), ~_is_counted(account_id, Blob.sha256)
        )
        statement = insert(NamespaceBlob).from_select(["account_id", "blob_sha256"], new)
        counted = session.scalars(statement.returning(NamespaceBlob.blob_sha256)).all()
        if counted:
            added = select(func.sum(Blob.size)).where(Blob.sha256.in_(counted)).scalar_subquery()
            grown = update(Account).where(Account.id == account_id).values(stored_bytes=Account.stored_bytes + added)
            kept = session.scalar(grown.returning(Account.stored_bytes))
    return kept


def drop_blobs(session: Session, account_id: int, digests: Sequence[str]) -> None:
    """Those that a commit of the namespace still has stay; those that an upload has leased are on their way again."""
    is_there = exists().where(
        Repository.namespace_id == account_id,
        Commit.repository_id == Repository.id,
        CommitFile.commit_id == Commit.id,
        CommitFile.blob_sha256 == NamespaceBlob.blob_sha256,
    )
    for page in pages(digests):
        which = NamespaceBlob.account_id == account_id, NamespaceBlob.blob_sha256.in_(page)
        statement = delete(NamespaceBlob).where(*which, ~is_there)
        gone = session.scalars(statement.returning(NamespaceBlob.blob_sha256)).all()
        if gone:
            dropped = select(func.sum(Blob.size)).where(Blob.sha256.in_(gone)).scalar_subquery()
            session.execute(
                update(Account).where(Account.id == account_id).values(stored_bytes=Account.stored_bytes - dropped)
            )
            for key, size, until in _leased(session, account_id, Blob.sha256.in_(gone)):
                reserve(session, account_id, key, size=size, expires_at=until)


def recount(session: Session, account_id: int) -> None:
    """From the commits, whatever was counted before."""
    session.execute(delete(NamespaceBlob).where(NamespaceBlob.account_id == account_id))
    add_blobs(session, account_id, session.scalars(_referred(account_id)).all())
    total = (
        select(func.coalesce(func.sum(Blob.size), 0))
        .join(NamespaceBlob, NamespaceBlob.blob_sha256 == Blob.sha256)
        .where(NamespaceBlob.account_id == account_id)
        .scalar_subquery()
    )
    session.execute(update(Account).where(Account.id == account_id).values(stored_bytes=total))
    _recount_reserved(session, account_id)


def _recount_reserved(session: Session, account_id: int) -> None:
    """From the uploads and sessions that are alive."""
    for table in (Reservation, ReservedTotal):
        session.execute(delete(table).where(table.account_id == account_id))
    found: dict[str, dict[str, Any]] = {}
    for key, size, uploads, expires_at in _alive(session, account_id):
        row = found.setdefault(key, {"account_id": account_id, "key": key, "bytes": 0, "uploads": 0})
        row["bytes"] += size
        row["uploads"] += uploads
        row["expires_at"] = expires_at
    if found:
        session.execute(insert(Reservation), list(found.values()))
        sums = {name: sum(row[name] for row in found.values()) for name in ("bytes", "uploads")}
        session.execute(insert(ReservedTotal).values(account_id=account_id, **sums))


def _alive(session: Session, account_id: int) -> Iterator[tuple[str, int, int, datetime]]:
    """What takes room of this namespace, and what counts as this account's: key, bytes, uploads, end. A key that does
    both comes twice.
    """
    is_open, is_live = Upload.blob_sha256.is_(None), Upload.expires_at > now()
    here = Repository.namespace_id == account_id
    of_repository = select(Upload.id, Upload.declared_size, Upload.expires_at).join(
        Repository, Repository.id == Upload.repository_id
    )
    for key, size, until in session.execute(of_repository.where(is_open, is_live, here)):
        yield key, size, 0, until
    for key, _, until in session.execute(of_repository.where(is_open, is_live, Upload.account_id == account_id)):
        yield key, 0, 1, until
    sessions = select(XetSession).join(Repository, Repository.id == XetSession.repository_id)
    for row in session.scalars(sessions.where(here, XetSession.expires_at > now())):
        yield row.id, max(row.promised_bytes - row.taken_bytes, 0), 0, row.expires_at
    for key, size, until in _leased(session, account_id, ~_is_counted(account_id, Blob.sha256)):
        yield key, size, 0, until


def _leased(session: Session, account_id: int, which: ColumnElement[bool]) -> list[tuple[str, int, datetime]]:
    """Blobs that uploads into this namespace hold: sha256, bytes, and how long."""
    statement = (
        select(Blob.sha256, Blob.size, func.max(Upload.expires_at))
        .join(Upload, Upload.blob_sha256 == Blob.sha256)
        .join(Repository, Repository.id == Upload.repository_id)
        .where(Repository.namespace_id == account_id, Upload.expires_at > now(), which)
        .group_by(Blob.sha256, Blob.size)
    )
    return [(sha256, size, until) for sha256, size, until in session.execute(statement)]


def _is_counted(account_id: Any, sha256: Any) -> ColumnElement[bool]:
    return exists().where(NamespaceBlob.account_id == account_id, NamespaceBlob.blob_sha256 == sha256)


def _referred(account_id: int) -> Select[str]:
    return (
        select(CommitFile.blob_sha256)
        .join(Commit, Commit.id == CommitFile.commit_id)
        .join(Repository, Repository.id == Commit.repository_id)
        .where(Repository.namespace_id == account_id)
        .distinct()
    )


def blobs_of(session: Session, repository_id: int) -> Sequence[str]:
    statement = select(CommitFile.blob_sha256).join(Commit, Commit.id == CommitFile.commit_id)
    return session.scalars(statement.where(Commit.repository_id == repository_id).distinct()).all()


# --- proof ------------------------------------------------------------------------------------------------------------


def uncounted(session: Session) -> list[tuple[str, str]]:
    """Namespace and blob that a commit of it has and that is not counted."""
    counted = exists().where(
        NamespaceBlob.account_id == Repository.namespace_id, NamespaceBlob.blob_sha256 == CommitFile.blob_sha256
    )
    statement = (
        select(Repository.namespace, CommitFile.blob_sha256)
        .join(Commit, Commit.repository_id == Repository.id)
        .join(CommitFile, CommitFile.commit_id == Commit.id)
        .where(~counted)
        .distinct()
        .limit(MOST)
    )
    return [(namespace, digest) for namespace, digest in session.execute(statement)]


def counted_for_nothing(session: Session) -> list[tuple[str, str]]:
    """Namespace and blob that is counted and that no commit of it has."""
    is_there = exists().where(
        Repository.namespace_id == NamespaceBlob.account_id,
        Commit.repository_id == Repository.id,
        CommitFile.commit_id == Commit.id,
        CommitFile.blob_sha256 == NamespaceBlob.blob_sha256,
    )
    statement = select(Account.name, NamespaceBlob.blob_sha256).join(Account, Account.id == NamespaceBlob.account_id)
    return [(name, digest) for name, digest in session.execute(statement.where(~is_there).limit(MOST))]


def wrong_sums(session: Session) -> list[tuple[str, int, int]]:
    """Namespace, the bytes recorded, and those that its counted blobs have."""
    actual = (
        select(func.coalesce(func.sum(Blob.size), 0))
        .join(NamespaceBlob, NamespaceBlob.blob_sha256 == Blob.sha256)
        .where(NamespaceBlob.account_id == Account.id)
        .correlate(Account)
        .scalar_subquery()
    )
    statement = select(Account.name, Account.stored_bytes, actual).where(Account.stored_bytes != actual).limit(MOST)
    return [(name, int(recorded), int(found)) for name, recorded, found in session.execute(statement)]


def wrong_totals(session: Session) -> list[tuple[str, int, int]]:
    """Namespace, the bytes recorded as reserved, and those that its reservations have; or else the uploads."""
    of_account = Reservation.account_id == Account.id
    found: list[tuple[str, int, int]] = []
    for recorded, column in ((ReservedTotal.bytes, Reservation.bytes), (ReservedTotal.uploads, Reservation.uploads)):
        total = func.coalesce(recorded, 0)
        statement = select(Account.name, total, _summed(column, of_account)).outerjoin(
            ReservedTotal, ReservedTotal.account_id == Account.id
        )
        statement = statement.where(total != _summed(column, of_account)).limit(MOST)
        found += [(name, int(said), int(actual)) for name, said, actual in session.execute(statement)]
    return found


def unreserved(session: Session) -> list[tuple[str, str]]:
    """Namespace and key of an upload on its way, or of a leased blob that no commit of it has, that take no room."""
    live = select(Repository.namespace, Repository.namespace_id, Upload.id, Upload.blob_sha256).join(
        Repository, Repository.id == Upload.repository_id
    )
    key = func.coalesce(Upload.blob_sha256, Upload.id)
    takes_room = exists().where(Reservation.account_id == Repository.namespace_id, Reservation.key == key)
    is_kept = _is_counted(Repository.namespace_id, Upload.blob_sha256)
    statement = live.where(Upload.expires_at > now(), ~takes_room, ~is_kept).limit(MOST)
    return [(row.namespace, row.blob_sha256 or row.id) for row in session.execute(statement)]
