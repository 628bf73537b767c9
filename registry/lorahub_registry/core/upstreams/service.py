"""What an upstream is asked, and what is kept of its answers.

A name is asked for upstream where nothing here has it and a rule of the operator's allows it. Its repository is one of
ours from then on, whose commits have the upstream's ids; its files are known by path, size and digest, and come when
they are first read (`transfers`).
"""

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from lorahub.errors import (
    AlreadyExists,
    BlobVanished,
    Busy,
    Conflict,
    IntegrityMismatch,
    Interrupted,
    InvalidConfiguration,
    InvalidInput,
    LorahubError,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    Refusal,
    RegistryFailed,
    RepositoryMoved,
    RepositoryNotFound,
    RevisionNotFound,
    Unavailable,
)
from lorahub.protocol.digests import CommitId, FileEntry, Sha256, is_commit_id, revision_digest
from lorahub.protocol.messages.message import wire_time
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath
from pydantic import ValidationError

from lorahub_registry.core.accounts.permissions import Principal, require_site_admin
from lorahub_registry.core.audit.service import record, record_act
from lorahub_registry.core.blobs import service as blobs
from lorahub_registry.core.blobs.service import Blob, Upload, release_leases
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.repositories import service as repositories
from lorahub_registry.core.repositories.service import Repository, name_key
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import RevisionFile
from lorahub_registry.core.upstreams import queries
from lorahub_registry.core.upstreams.hub import RemoteCommit, RemoteFile, RemoteHub, RemoteName, RemoteRevision
from lorahub_registry.core.upstreams.queries import KnownName, Transfer
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Database, Session, now
from lorahub_registry.infrastructure.outbound import Outbound
from lorahub_registry.settings import Upstream

__all__ = ["Transfer", "Upstream"]

logger = logging.getLogger("lorahub")

KNOWN_SECONDS = 5.0
"""After which a process sees what another one added or removed."""
ACTOR = "(upstream)"

_PURPOSE = "upstream-token"
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,127}")
_MOST_ASKING = 16
_PATIENCE = 10.0
_MOST_REFUSED = 10_000
_TRIES = 3
LEASE = timedelta(seconds=8)
"""For which a transfer is its holder's without a sign of life."""
_BREATH = timedelta(seconds=2)
_READ_EVERY = timedelta(hours=1)
_LET_GO_AT_ONCE = 100


# --- which there are --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    upstreams: Mapping[str, Upstream]
    tokens: Mapping[str, bytes] = field(repr=False)
    read_at: float


class _Memory:
    """What one process remembers of a database's upstreams."""

    def __init__(self) -> None:
        self.known: _Known | None = None
        self.asking = threading.BoundedSemaphore(_MOST_ASKING)
        """MayGo by requests that ask, or wait for one that asks the same: a slow hub takes no more threads."""
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._refused: OrderedDict[tuple[str, str], tuple[float, LorahubError]] = OrderedDict()
        self._quiet: dict[str, float] = {}
        self._lock = threading.Lock()

    def lock_of(self, what: tuple[str, str]) -> threading.Lock:
        with self._lock:
            if len(self._locks) > _MOST_REFUSED:
                self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
            return self._locks.setdefault(what, threading.Lock())

    def refuse(self, what: tuple[str, str], error: LorahubError, lifetime: timedelta) -> None:
        with self._lock:
            self._refused[what] = time.monotonic() + lifetime.total_seconds(), error
            while len(self._refused) > _MOST_REFUSED:
                self._refused.popitem(last=False)

    def refusal_of(self, what: tuple[str, str]) -> LorahubError | None:
        with self._lock:
            until, error = self._refused.get(what, (0.0, None))
            return error if until > time.monotonic() else None


_memories: "WeakKeyDictionary[Database, _Memory]" = WeakKeyDictionary()
_remembering = threading.Lock()


def _memory(backend: Backend) -> _Memory:
    with _remembering:
        return _memories.setdefault(backend.database, _Memory())


def known(backend: Backend) -> Mapping[str, Upstream]:
    """Those of the settings and those that were added, by name."""
    return _known(backend).upstreams


def _known(backend: Backend) -> _Known:
    memory = _memory(backend)
    found = memory.known
    if found is None or time.monotonic() - found.read_at > KNOWN_SECONDS:
        with backend.database.read() as session:
            rows = queries.all_rows(session)
        added = {name: row.definition for name, row in rows.items() if row.definition is not None}
        upstreams = {name: Upstream.model_validate(definition) for name, definition in added.items()}
        upstreams |= {one.name: one for one in backend.settings.upstreams}
        tokens = {name: row.sealed_token for name, row in rows.items() if row.sealed_token is not None}
        memory.known = found = _Known(upstreams, tokens, time.monotonic())
    return found


def hub_of(backend: Backend, upstream: Upstream) -> RemoteHub:
    """Raises `InvalidConfiguration` where its token was sealed with a secret that the registry has no more."""
    sealed = _known(backend).tokens.get(upstream.name)
    token = None
    if sealed is not None:
        token = backend.signer.open(_PURPOSE, sealed, bound_to=upstream.endpoint)
        if token is None:
            raise InvalidConfiguration(
                f"the token of {upstream.name} was kept for another endpoint, or under another LORAHUB_SECRET",
                hint=f"give it again: lorahub admin upstream token {upstream.name}",
            )
    return RemoteHub(outbound_of(backend, upstream), upstream.endpoint, token)


def outbound_of(backend: Backend, upstream: Upstream) -> Outbound:
    parts = urlsplit(upstream.endpoint)
    return Outbound.of(backend.settings, also=[parts.netloc, *upstream.hosts])


# --- asking -----------------------------------------------------------------------------------------------------------


def follow(
    backend: Backend, principal: Principal, name: RepositoryName, revision: str = "main", *, also: str | None = None
) -> None:
    """Makes sure that what is here of a repository of an upstream is what the upstream says now: of a revision, and of
    its `names` or `commits`. Nothing happens for a repository of our own, nor where nothing may be asked.

    Where the upstream is away what is here stays as it is. Raises `Unavailable` where nothing is here yet,
    `RepositoryMoved`, and `NotPermitted` where the licence is none of those that are taken.
    """
    upstreams = known(backend)
    if not upstreams:
        return
    asked = _Question(backend, principal, name, revision, upstreams)
    if asked.upstream is not None:
        asked.answer()
        if also is not None:
            asked.answer_also(also)


class _Question:
    """What a name at a revision is, to the upstream that it is of; `upstream` None where none is to be asked."""

    def __init__(
        self,
        backend: Backend,
        principal: Principal,
        name: RepositoryName,
        revision: str,
        upstreams: Mapping[str, Upstream],
    ) -> None:
        self.backend = backend
        self.name = name
        self.revision = revision
        self.key = name_key(name)
        self.memory = _memory(backend)
        self.place = self.look()
        self.upstream = self._whose(principal, upstreams)

    def look(self) -> KnownName:
        with self.backend.database.read() as session:
            return queries.place_of(session, self.name, self.key, self.revision)

    def _whose(self, principal: Principal, upstreams: Mapping[str, Upstream]) -> Upstream | None:
        """A name of this registry's own is asked for nowhere, and neither is any other of its namespace."""
        place = self.place
        if place.repository_id is not None:
            upstream = upstreams.get(place.upstream or "")
            is_hidden = place.is_private and principal.is_anonymous
            is_it = place.name is not None and place.name.lower() == self.name.key
            return upstream if upstream and is_it and not is_hidden and upstream.allows(place.name or "") else None
        if place.is_taken:
            return None
        found = (one for one in upstreams.values() if one.allows(str(self.name)))
        return next((one for one in found if not (one.private and principal.is_anonymous)), None)

    @property
    def _is_fresh(self) -> bool:
        place = self.place
        if place.checked_at is not None and now() - place.checked_at < self.backend.settings.upstream_fresh:
            return True
        if place.repository_id is None or not is_commit_id(self.revision):
            return False
        with self.backend.database.read() as session:
            return queries.has_commit(session, place.repository_id, self.revision)

    @property
    def _is_askable(self) -> bool:
        first = self.revision.partition("/")[0]
        return bool(_REVISION.fullmatch(self.revision)) and ".." not in self.revision and first != "merged"

    def answer(self) -> None:
        if not self._is_askable or self._is_fresh:
            return
        if self.place.repository_id is None and self.revision != "main":
            self._at("main").answer()  # each repository has one
            self.place = self.look()
            if self.place.repository_id is None or self._is_fresh:
                return
        with self._turn(self.revision) as is_first:
            if not is_first:
                self.place = self.look()
            if is_first or not self._is_fresh:
                error = self._refusal() or self._asked()
                if error is not None:
                    self._go_without(error)

    def _asked(self) -> LorahubError | None:
        """What went wrong."""
        try:
            self._ask()
        except (Refusal, Unavailable) as error:
            self._remember(error)
            return error
        return None

    def _at(self, revision: str) -> "_Question":
        other = copy(self)
        other.revision = revision
        other.place = other.look()
        return other

    @contextmanager
    def _turn(self, what: str) -> Iterator[bool]:
        """One at a time asks the same; whether nobody did just before. Raises `Busy` where too many ask."""
        if not self.memory.asking.acquire(timeout=_PATIENCE):
            raise Busy("too many requests wait for upstreams", hint="try again in a moment", retry_after=2)
        try:
            lock = self.memory.lock_of((self.key, what))
            is_first = lock.acquire(blocking=False)
            if not is_first:
                lock.acquire()
            try:
                yield is_first
            finally:
                lock.release()
        finally:
            self.memory.asking.release()

    def _refusal(self) -> LorahubError | None:
        """Why it isn't asked now: it just said no, or wants quiet."""
        assert self.upstream is not None
        found = self.memory.refusal_of((self.key, self.revision)) or self.memory.refusal_of((self.key, ""))
        return found or quiet_of(self.backend, self.upstream)

    def _remember(self, error: LorahubError) -> None:
        assert self.upstream is not None
        settings = self.backend.settings
        metrics.UPSTREAM.labels("failed").inc()
        if isinstance(error, Unavailable) and not isinstance(error, RegistryFailed):
            hush(self.backend, self.upstream, error)
            return
        is_of_revision = isinstance(error, RevisionNotFound) and self.revision != "main"
        self.memory.refuse((self.key, self.revision if is_of_revision else ""), error, settings.upstream_missing)
        if is_of_revision and self.place.repository_id is not None:
            with self.backend.database.write() as session:
                queries.delete_answer(session, self.place.repository_id, "revision", self.revision)

    def _go_without(self, error: LorahubError) -> None:
        """With what is here, if anything is. A name that isn't there is a 404 like any other."""
        if self.place.commit_id is not None or isinstance(error, RevisionNotFound):
            return
        if self.place.repository_id is not None and not isinstance(error, Unavailable):
            return
        if isinstance(error, Unavailable):
            raise Unavailable(error.message, hint=error.hint or "try again in a moment", **error.facts)
        if isinstance(error, (RepositoryMoved, NotPermitted)):
            raise type(error)(error.message, hint=error.hint, **error.facts)

    def _ask(self) -> None:
        assert self.upstream is not None
        place, settings = self.place, self.backend.settings
        source = place.name or str(self.name)
        hub = hub_of(self.backend, self.upstream)
        etag = place.etag if place.commit_id is not None else None
        try:
            found = hub.revision(source, self.revision, most_bytes=settings.json_body_bytes, etag=etag)
        except (RepositoryNotFound, RevisionNotFound):
            raise
        except Refusal as error:
            raise RegistryFailed(f"{self.upstream.endpoint} can't be asked about {source}: {error.message}") from None
        if found is None:
            assert place.repository_id is not None
            metrics.UPSTREAM.labels("unchanged").inc()
            with self.backend.database.write() as session:
                queries.touch_answer(session, place.repository_id, "revision", self.revision)
            return
        self._require_taken(found)
        metrics.UPSTREAM.labels("answered").inc()
        _retried(lambda: self._record(found))

    def _require_taken(self, found: RemoteRevision) -> None:
        assert self.upstream is not None
        settings = self.backend.settings
        if self.place.repository_id is None and found.name.key != self.name.key:
            if not self.upstream.allows(str(found.name)):
                raise RepositoryNotFound(f"Repository not found: {self.name}")
            raise RepositoryMoved(f"{self.name} is called {found.name} now", old=str(self.name), new=str(found.name))
        if not self.upstream.takes(found.license):
            raise NotPermitted(
                f"{self.name} is under the licence {(found.license or '(none)')[:80]!a}, which is none of those that "
                "this registry takes from upstreams",
                hint=f"its operator names them: licenses of the upstream {self.upstream.name}",
            )
        if len(found.files) > settings.revision_files:
            raise RegistryFailed(f"{self.name} has {len(found.files)} files; at most {settings.revision_files}")

    def _record(self, found: RemoteRevision) -> None:
        assert self.upstream is not None
        with self.backend.database.write() as session:
            repository, is_new = self._repository(session, found)
            is_known = queries.has_commit(session, repository.id, found.commit)
            if not is_known:
                _insert_commit(session, repository, found, is_main=self.revision == "main")
            if self.revision == "main":
                _lead_main(session, repository, found.commit, is_new=is_new)
                queries.change_repository(session, repository.id, **_changes(repository, found))
            if not is_commit_id(self.revision):
                queries.write_answer(
                    session, repository.id, "revision", self.revision, commit_id=found.commit, etag=found.etag
                )
            if is_new or not is_known:
                record(
                    session,
                    actor=ACTOR,
                    action="upstream.bring" if is_new else "upstream.follow",
                    subject=repository.full_name,
                    upstream=self.upstream.name,
                    revision=self.revision,
                    commit=found.commit,
                )

    def _repository(self, session: Session, found: RemoteRevision) -> tuple[Repository, bool]:
        """Raises `Conflict` where the name became somebody's meanwhile."""
        assert self.upstream is not None
        place = queries.place_of(session, self.name, self.key, self.revision)
        if place.repository_id is not None:
            if place.upstream != self.upstream.name:
                raise Conflict(f"{self.name} was made here meanwhile", hint="ask again")
            return repositories.repositories_by_id(session, [place.repository_id])[place.repository_id], False
        if place.is_taken:
            raise Conflict(f"{self.name.namespace} was made here meanwhile", hint="ask again")
        namespace = queries.namespace_id(session, found.name.namespace)
        if namespace is None:
            made = queries.insert_namespace(session, found.name.namespace, upstream=self.upstream.name)
            namespace = made, found.name.namespace
        name = RepositoryName(namespace[1], found.name.name)
        is_private = self.upstream.private
        return repositories.insert_of_upstream(
            session, name, namespace_id=namespace[0], upstream=self.upstream.name, is_private=is_private, by=ACTOR
        ), True

    def answer_also(self, kind: str) -> None:
        """Its `names`, or the `commits` of the revision. Where they can't be had, what is here says enough."""
        place = self.look()
        if place.repository_id is None or self.upstream is None or not self._is_askable:
            return
        revision = self.revision if kind == "commits" else ""
        with self.backend.database.read() as session:
            said = queries.answer(session, place.repository_id, kind, revision)
        is_fresh = said is not None and now() - said[1] < self.backend.settings.upstream_fresh
        if is_fresh or self._refusal() is not None:
            return
        with self._turn(f"{kind}/{revision}") as is_first:
            if not is_first:
                return
            hub, most_bytes = hub_of(self.backend, self.upstream), self.backend.settings.json_body_bytes
            try:
                document = _document(hub, place.name or "", kind, revision, most_bytes)
            except (Refusal, Unavailable) as error:
                self._remember(error)
                return
        with self.backend.database.write() as session:
            queries.write_answer(session, place.repository_id, kind, revision, said=document)


def _retried(act: Callable[[], None]) -> None:
    """Another process may record the same at the same moment."""
    for _ in range(_TRIES):
        with suppress(queries.IntegrityError):
            act()
            return
    raise RegistryFailed(
        "a commit of the upstream is here already, of another repository: two with one history can't both be served"
    )


def _insert_commit(session: Session, repository: Repository, found: RemoteRevision, *, is_main: bool) -> None:
    entries = [FileEntry(file.path, file.size, Sha256(file.digest)) for file in found.files]
    revisions.insert_listed(
        session,
        repository_id=repository.id,
        commit_id=found.commit,
        digest=revision_digest(entries),
        title=f"{repository.full_name} at {found.commit[:12]}",
        author_id=repository.namespace_id,
        author=repository.namespace,
        created_at=found.modified_at or now(),
        size=sum(file.size for file in found.files),
    )
    queries.insert_listing(session, found.commit, ((file.path, file.size, file.digest) for file in found.files))
    queries.insert_what_is_here(session, repository.id, found.commit)
    facts = {
        "tags": list(found.tags),
        "card_data": found.card,
        "library_name": found.library_name,
        "pipeline_tag": found.pipeline_tag,
        "safetensors": found.safetensors,
        "config": found.config,
    }
    queries.describe(session, repository.id, found.commit, facts, is_main=is_main)


def _lead_main(session: Session, repository: Repository, commit_id: CommitId, *, is_new: bool) -> None:
    if is_new:
        revisions.create_reference(
            session, repository_id=repository.id, kind="branch", name="main", commit_id=commit_id, by=ACTOR
        )
        return
    main = revisions.reference_named(session, repository.id, kind="branch", name="main")
    if main is not None:
        revisions.move_reference(session, main, to=commit_id, by=ACTOR)


def _changes(repository: Repository, found: RemoteRevision) -> dict[str, object]:
    return {"gated": found.gated, "updated_at": found.modified_at or repository.updated_at}


def _document(hub: RemoteHub, source: str, kind: str, revision: str, most_bytes: int) -> dict[str, Any]:
    if kind == "names":
        names = hub.names(source, most_bytes=most_bytes)
        return {"names": [[one.kind, one.name, one.commit] for one in names]}
    commits = hub.commits(source, revision, most_bytes=most_bytes)
    return {"commits": [[one.id, one.title, one.message, one.author, wire_time(one.at)] for one in commits]}


def names_of(session: Session, repository: Repository) -> list[RemoteName] | None:
    """Branches and tags as the upstream said last; None where it hasn't, or where it is none's."""
    said = queries.answer(session, repository.id, "names", "") if repository.upstream else None
    return None if said is None else [RemoteName(kind, name, commit) for kind, name, commit in said[0]["names"]]


def commits_of(session: Session, repository: Repository, revision: str) -> list[RemoteCommit] | None:
    """As `names_of`, its newest commits, newest first."""
    said = queries.answer(session, repository.id, "commits", revision) if repository.upstream else None
    if said is None:
        return None
    return [
        RemoteCommit(commit, title, message, author, datetime.fromisoformat(at))
        for commit, title, message, author, at in said[0]["commits"]
    ]


def age_of(backend: Backend, session: Session, repository: Repository, revision: str) -> int | None:
    """Seconds since an upstream that can't be asked said what this revision is; None where that is fresh, or no name
    that could change.
    """
    if repository.upstream is None or is_commit_id(revision):
        return None
    at = queries.checked_at(session, repository.id, revision)
    age = None if at is None else now() - at
    return round(age.total_seconds()) if age is not None and age >= backend.settings.upstream_fresh else None


# --- quiet ------------------------------------------------------------------------------------------------------------


def quiet_of(backend: Backend, upstream: Upstream) -> Unavailable | None:
    """What is answered for an upstream that is away, or has asked for patience."""
    with backend.database.read() as session:
        row = queries.row_named(session, upstream.name)
    if row is None or row.quiet_until is None or row.quiet_until <= now():
        return None
    seconds = max(1, round((row.quiet_until - now()).total_seconds()))
    return Unavailable(row.fault or f"the upstream {upstream.name} is away", retry_after=seconds)


def hush(backend: Backend, upstream: Upstream, error: LorahubError) -> None:
    """Nobody asks it for a while: as long as it said, or as long as a negative answer is believed."""
    wait = error.facts.get("retry_after")
    pause = backend.settings.upstream_missing if wait is None else timedelta(seconds=wait)
    logger.warning("the upstream %s is asked again in %s: %s", upstream.name, pause, error.message)
    with backend.database.write() as session:
        fault = f"the upstream {upstream.name} can't be asked: {error.message}"[:1000]
        queries.write_row(session, upstream.name, quiet_until=now() + pause, fault=fault)


# --- its files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file of an upstream's commit whose bytes may not be here yet."""

    repository: Repository
    commit_id: CommitId
    file: RemoteFile

    @property
    def key(self) -> tuple[int, str]:
        """The same for the same bytes of a repository."""
        return self.repository.id, self.file.digest


def wanted(repository: Repository, commit_id: CommitId, file: RevisionFile) -> WantedFile:
    sha256, oid = (file.sha256, None) if file.is_lfs else (None, file.git_sha1)
    return WantedFile(repository, commit_id, RemoteFile(FilePath(file.path), file.size, sha256, oid))


def wanted_of(session: Session, commit_id: CommitId, files: Mapping[str, RevisionFile]) -> dict[str, WantedFile]:
    """Those of a commit's files whose bytes aren't here."""
    missing = {path: file for path, file in files.items() if not file.is_here}
    if not missing:
        return {}
    repository_id = revisions.commits_by_id(session, [commit_id])[commit_id].repository_id
    repository = repositories.repositories_by_id(session, [repository_id])[repository_id]
    return {path: wanted(repository, commit_id, file) for path, file in missing.items()}


def upstream_of(backend: Backend, repository: Repository) -> Upstream:
    """Raises `Unavailable` where it is none of those that may be asked now."""
    found = known(backend).get(repository.upstream or "")
    if found is None or not found.allows(repository.full_name):
        raise Unavailable(
            f"a file of {repository.full_name} that was never fetched can't be: its upstream may be asked no more",
            hint="the registry's operator names what may: lorahub admin upstream ls",
        )
    if (quiet := quiet_of(backend, found)) is not None:
        raise quiet
    return found


def mark_read(backend: Backend, repository: Repository, commit_id: CommitId, path: str) -> None:
    """For the collector, who lets go what was read longest ago."""
    if repository.upstream is None:
        return
    with backend.database.read() as session:
        last = queries.last_read(session, commit_id, path)
    if last is None or now() - last > _READ_EVERY:
        with backend.database.write() as session:
            queries.mark_read(session, commit_id, path)


# --- transfers --------------------------------------------------------------------------------------------------------


def transfer_of(backend: Backend, wanted: WantedFile) -> tuple[Blob | None, Transfer | None]:
    """The bytes where they are here, else how far they are on their way."""
    with backend.database.read() as session:
        sha256 = queries.blob_brought(session, *wanted.key)
        if sha256 is not None:
            return blobs.known_blobs(session, [sha256])[sha256], None
        return None, queries.transfer_of(session, *wanted.key)


def claim(backend: Backend, wanted: WantedFile, *, holder: str, part_bytes: int) -> Transfer | None:
    """The transfer, which is the holder's alone from now on; None where it is another's, or it isn't time to try."""
    try:
        with backend.database.write() as session:
            if queries.blob_brought(session, *wanted.key) is not None:
                return None
            is_ours = queries.claim(session, *wanted.key, holder=holder, lease=LEASE, part_bytes=part_bytes)
            return queries.transfer_of(session, *wanted.key) if is_ours else None
    except queries.IntegrityError:  # another process was first
        return None


def resume(
    backend: Backend, wanted: WantedFile, transfer: Transfer, *, holder: str, anew: bool = False
) -> tuple[Upload, int]:
    """Where its parts are stored, and how many bytes of it are; none where it begins `anew`.

    Raises `QuotaExceeded`, `ContentBlocked`, `DiskFull`.
    """
    upload = blobs.find_upload(backend, transfer.upload_id) if transfer.upload_id and not anew else None
    if upload is not None and upload.blob_sha256 is None:
        with suppress(BlobVanished):
            return blobs.renew(backend, upload), transfer.done
    make_room(backend, wanted.file.size)
    upload = blobs.open_upload(
        backend,
        account_id=wanted.repository.namespace_id,
        repository_id=wanted.repository.id,
        sha256=wanted.file.sha256 or blobs.UNKNOWN,
        size=wanted.file.size,
    )
    progress(backend, wanted, holder=holder, upload_id=upload.id, done=0)
    return upload, 0


def progress(backend: Backend, wanted: WantedFile, *, holder: str, **values: Any) -> None:
    """Renews the lease. Raises `Interrupted` where it is another's now."""
    with backend.database.write() as session:
        if not queries.change_transfer(session, *wanted.key, holder=holder, lease=LEASE, **values):
            raise Interrupted(f"another process fetches {wanted.file.path} now")


def settle(backend: Backend, wanted: WantedFile, upload: Upload, parts: list[str], sha256: Sha256) -> Blob:
    """The parts, which together are what was announced, become a file of every commit that has it.

    Raises as `blobs.finish_parts`.
    """
    blob = blobs.finish_parts(backend, upload, parts, sha256)
    repository = wanted.repository
    with (
        backend.database.write() as session,
        quotas.growth(
            session, backend.settings, account_id=repository.namespace_id, repository_id=repository.id
        ) as room,
    ):
        queries.insert_files(session, *wanted.key, sha256)
        room.occupy([sha256], uploads=[upload.id])
        release_leases(session, account_id=repository.namespace_id, repository_id=repository.id, digests=[sha256])
        queries.delete_transfer(session, *wanted.key)
    blobs.delete_staged(backend, upload.id)
    metrics.UPSTREAM.labels("fetched").inc()
    metrics.UPSTREAM_BYTES.inc(wanted.file.size)
    return blob


def give_up(backend: Backend, wanted: WantedFile, error: LorahubError, *, holder: str, upload: Upload | None) -> None:
    """Says why, and when it may be tried again. What came is kept, unless it is something else than announced."""
    metrics.UPSTREAM.labels("failed").inc()
    is_passing = isinstance(error, Unavailable)
    pause = _BREATH if is_passing else backend.settings.upstream_missing
    pause = max(pause, timedelta(seconds=error.facts.get("retry_after", 0)))
    values: dict[str, Any] = {
        "fault": {"code": error.code, "message": error.message[:1000]},
        "retry_at": now() + pause,
    }
    if isinstance(error, IntegrityMismatch):
        values |= {"upload_id": None, "done": 0}
        logger.error("an upstream sends other bytes than it says: %s", error.message)
    with backend.database.write() as session:
        queries.change_transfer(session, *wanted.key, holder=holder, lease=None, **values)
    if isinstance(error, IntegrityMismatch) and upload is not None:
        with suppress(RepositoryNotFound):
            blobs.forget_upload(backend, upload)
    if error.facts.get("status") == 429 and (upstream := known(backend).get(wanted.repository.upstream or "")):
        hush(backend, upstream, error)


# --- what is kept -----------------------------------------------------------------------------------------------------


def make_room(backend: Backend, size: int = 0) -> int:
    """Lets go of what was read longest ago, until so many bytes more are within `upstream_bytes`; bytes that went.

    Raises `QuotaExceeded` where what may go isn't enough.
    """
    limit, gone = backend.settings.upstream_bytes, 0
    with backend.database.read() as session:
        held = queries.bytes_here(session)
    while held + size - gone > limit:
        with backend.database.read() as session:
            page = queries.least_read(session, limit=_LET_GO_AT_ONCE)
        for one in page:
            if held + size - gone > limit:
                _let_go(backend, one)
                gone += one.size
        if not page:
            if not size:
                break
            raise QuotaExceeded(
                f"upstreams may have {limit} bytes here and have {held - gone} that are kept; {size} more are too many",
                hint="the registry's operator raises LORAHUB_UPSTREAM_BYTES, or keeps fewer repositories",
                what="upstream bytes",
                limit=limit,
                used=held - gone,
                asked=size,
            )
    return gone


def _let_go(backend: Backend, held: queries.MayGo) -> None:
    with backend.database.write() as session:
        quotas.hold(session, held.namespace_id)
        queries.drop_files(session, held.repository_id, held.sha256)
        quotas.let_go(session, held.namespace_id, [held.sha256])
    blob = blobs.find_blob(backend, held.sha256)
    if blob is not None:
        blobs.collect_blob(backend, blob)


def keep(backend: Backend, principal: Principal, name: RepositoryName, *, is_kept: bool) -> Repository:
    """From now on its files stay, however long nobody reads them. Raises `NotPermitted`, `InvalidInput`."""
    require_site_admin(principal)
    with backend.database.write() as session:
        repository = repositories.visible(session, principal, name)
        if repository.upstream is None:
            raise InvalidInput(f"{repository.full_name} is this registry's own: nothing of it is ever let go")
        queries.change_repository(session, repository.id, kept_at=now() if is_kept else None)
        record_act(session, principal, "upstream.keep" if is_kept else "upstream.let-go", repository.full_name)
        return repositories.repositories_by_id(session, [repository.id])[repository.id]


# --- by the operator --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Described:
    """An upstream, and what is here of it."""

    upstream: Upstream
    is_set: bool
    """By LORAHUB_UPSTREAMS: not to be removed by a command."""
    has_token: bool
    quiet_until: datetime | None
    fault: str | None
    repositories: int
    bytes: int


def described(backend: Backend) -> list[Described]:
    _memory(backend).known = None
    found = _known(backend)
    with backend.database.read() as session:
        rows = queries.all_rows(session)
        held = {name: (count, size) for name, count, size in queries.kept_of(session, list(found.upstreams))}
    of_settings = {one.name for one in backend.settings.upstreams}
    return [
        Described(
            upstream=upstream,
            is_set=name in of_settings,
            has_token=name in found.tokens,
            quiet_until=rows[name].quiet_until if name in rows else None,
            fault=rows[name].fault if name in rows else None,
            repositories=held.get(name, (0, 0))[0],
            bytes=held.get(name, (0, 0))[1],
        )
        for name, upstream in found.upstreams.items()
    ]


def add(backend: Backend, principal: Principal, definition: Mapping[str, Any], token: str | None) -> Upstream:
    """Added, or changed. Raises `InvalidInput`, `AlreadyExists` for one of the settings', `NotPermitted`."""
    require_site_admin(principal)
    try:
        upstream = Upstream.model_validate(definition)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if any(one.name == upstream.name for one in backend.settings.upstreams):
        raise AlreadyExists(f"{upstream.name} is one of LORAHUB_UPSTREAMS", hint="change it there")
    outbound_of(backend, upstream).require_open(f"{upstream.endpoint}/")
    with backend.database.write() as session:
        values = {} if token is None else {"sealed_token": _sealed(backend, upstream, token)}
        queries.write_row(
            session, upstream.name, definition=upstream.model_dump(), quiet_until=None, fault=None, **values
        )
        record_act(session, principal, "upstream.add", upstream.name, endpoint=upstream.endpoint, allow=upstream.allow)
    _memory(backend).known = None
    return upstream


def set_token(backend: Backend, principal: Principal, name: str, token: str | None) -> None:
    """What the hub is told from now on; None for nothing. Raises `NotFound`, `NotPermitted`."""
    require_site_admin(principal)
    upstream = _named(backend, name)
    with backend.database.write() as session:
        sealed = None if token is None else _sealed(backend, upstream, token)
        queries.write_row(session, name, sealed_token=sealed)
        record_act(session, principal, "upstream.token", name, given=token is not None)
    _memory(backend).known = None


def remove(backend: Backend, principal: Principal, name: str) -> None:
    """What it has brought stays, and is served; nothing is asked of it any more. Raises `NotFound`, `NotPermitted`."""
    require_site_admin(principal)
    _named(backend, name)
    if any(one.name == name for one in backend.settings.upstreams):
        raise AlreadyExists(f"{name} is one of LORAHUB_UPSTREAMS", hint="take it out there")
    with backend.database.write() as session:
        queries.delete_row(session, name)
        record_act(session, principal, "upstream.remove", name)
    _memory(backend).known = None


def try_out(backend: Backend, principal: Principal, name: str, repository: RepositoryName) -> RemoteRevision:
    """What it says of a repository; nothing is kept of it. Raises as `RemoteHub.revision`, and `NotFound`."""
    require_site_admin(principal)
    upstream = _named(backend, name)
    if not upstream.allows(str(repository)):
        raise NotPermitted(f"{name} may not be asked for {repository}", hint=f"it may for: {', '.join(upstream.allow)}")
    found = hub_of(backend, upstream).revision(str(repository), "main", most_bytes=backend.settings.json_body_bytes)
    assert found is not None
    return found


def _named(backend: Backend, name: str) -> Upstream:
    _memory(backend).known = None
    found = known(backend).get(name)
    if found is None:
        raise NotFound(f"no upstream is called {name[:100]!r}", hint="lorahub admin upstream ls")
    return found


def _sealed(backend: Backend, upstream: Upstream, token: str) -> bytes:
    return backend.signer.seal(_PURPOSE, token, bound_to=upstream.endpoint)
