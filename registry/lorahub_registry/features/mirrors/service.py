"""Mirrors: a repository here holds what one of another hub holds, each commit of it once, pinned by its id.

A run is: list the revision, which gives the commit → fetch what isn't here, each file verified → publish, by the
ordinary way, under a key that is made of the mirror and the commit → write down where the version is from.
"""

import json
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import IO

from lorahub.adapters.content import Content
from lorahub.adapters.file_kinds import check_file, fault_of_name
from lorahub.errors import (
    AlreadyExists,
    InvalidConfiguration,
    InvalidInput,
    LorahubError,
    NotFound,
    RepositoryNotFound,
    UnsafeFile,
)
from lorahub.protocol.digests import Sha256
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.permissions import Action, Level, Principal, may, require
from lorahub_registry.core.accounts.service import acting_for, require_known
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.blobs.service import read_range, store_stream
from lorahub_registry.core.repositories import service as repositories
from lorahub_registry.core.repositories.service import Repository, name_key
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.upstreams.hub import RemoteFile, RemoteHub, RemoteRevision, verified
from lorahub_registry.features.mirrors import queries
from lorahub_registry.features.mirrors.queries import Mirror
from lorahub_registry.features.publishing.service import WEIGHTS, Published, publish
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.outbound import Outbound

__all__ = ["Mirror"]

MOST_MIRRORS = 1000  # of one namespace
_MOST_REASON = 1000
_MOST_LEFT = 2000  # characters
_LONGEST_PAUSE = timedelta(days=1)
_PURPOSE = "mirror-token"


# --- which there are --------------------------------------------------------------------------------------------------


def mirrors_of(backend: Backend, principal: Principal) -> list[Mirror]:
    """Those of every namespace that the principal manages."""
    principal.require_account()
    with backend.database.read() as session:
        return [one for one in queries.all_mirrors(session) if may(principal, Action.MANAGE, one.namespace)]


def add(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    *,
    endpoint: str,
    source: RepositoryName,
    revision: str,
    is_private: bool,
    token: str | None,
) -> Mirror:
    """Runs at once, and then in every interval. Publishes in the principal's name, for as long as that one may. `token`
    is the hub's; it is kept sealed and told to nobody but that hub.

    Raises `NotPermitted`, also for a hub that the registry may not call; `NotSupported` where it calls none;
    `AlreadyExists` where the repository has anything in it: what is here is never overwritten.
    """
    require(principal, Action.MANAGE, name.namespace)
    account_id = principal.require_account()
    endpoint = _endpoint(backend, endpoint)
    with backend.database.write() as session:
        namespace = require_known(session, name.namespace)
        if sum(one.namespace == namespace.name for one in queries.all_mirrors(session)) >= MOST_MIRRORS:
            raise InvalidInput(f"{namespace.name} has {MOST_MIRRORS} mirrors, the most there can be")
        _require_empty(session, principal, name)
        try:
            made = queries.insert_mirror(
                session,
                namespace_id=namespace.id,
                account_id=account_id,
                endpoint=endpoint,
                source=str(source),
                revision=revision,
                name=name.name,
                name_key=name_key(name),
                is_private=is_private,
                sealed_token=_sealed(backend, endpoint, token),
            )
        except queries.IntegrityError:
            raise AlreadyExists(f"another mirror fills {name}", hint="lorahub mirror ls") from None
        queries.want(session, made)
        mirror = _known(session, principal, made)
        _record(session, principal, "mirror.add", mirror, endpoint=endpoint, source=f"{source}@{revision}")
        return mirror


def _endpoint(backend: Backend, text: str) -> str:
    endpoint = text.rstrip("/")
    Outbound.of(backend.settings).require_open(f"{endpoint}/")
    if "?" in endpoint:
        raise InvalidInput("the address of a hub has no query")
    return endpoint


def _require_empty(session: Session, principal: Principal, name: RepositoryName) -> None:
    """Missing, or as it is made: one commit that nobody's push followed."""
    try:
        there = repositories.permitted(session, principal, name, Action.MANAGE)
    except RepositoryNotFound:
        return
    if revisions.resolve(session, there.id, "main").commit.depth > 0:
        raise AlreadyExists(
            f"{name} is here and holds something; a mirror overwrites nothing",
            hint="mirror it into another namespace, or move what is here",
        )


def remove(backend: Backend, principal: Principal, mirror_id: int) -> None:
    """What it has brought stays. Raises `NotFound`."""
    with backend.database.write() as session:
        mirror = _known(session, principal, mirror_id)
        queries.delete_mirror(session, mirror.id)
        _record(session, principal, "mirror.remove", mirror)


def want(backend: Backend, principal: Principal, mirror_id: int) -> Mirror:
    """A worker runs it as soon as it can. Raises `NotFound`, `NotSupported`, `NotPermitted`."""
    with backend.database.write() as session:
        mirror = _known(session, principal, mirror_id)
        Outbound.of(backend.settings).require_open(f"{mirror.endpoint}/")
        queries.want(session, mirror.id)
        _record(session, principal, "mirror.run", mirror)
        return _known(session, principal, mirror_id)


def show(backend: Backend, principal: Principal, mirror_id: int) -> Mirror:
    """Raises `NotFound`."""
    with backend.database.read() as session:
        return _known(session, principal, mirror_id)


def pause(backend: Backend, principal: Principal, mirror_id: int, *, is_paused: bool) -> Mirror:
    """A paused one runs only when somebody asks. Raises `NotFound`."""
    with backend.database.write() as session:
        mirror = _known(session, principal, mirror_id)
        queries.pause(session, mirror.id, is_paused=is_paused)
        _record(session, principal, "mirror.pause" if is_paused else "mirror.resume", mirror)
        return _known(session, principal, mirror_id)


def set_token(backend: Backend, principal: Principal, mirror_id: int, token: str | None) -> Mirror:
    """What the hub is told from now on; None for nothing. Raises `NotFound`."""
    with backend.database.write() as session:
        mirror = _known(session, principal, mirror_id)
        queries.set_token(session, mirror.id, _sealed(backend, mirror.endpoint, token))
        _record(session, principal, "mirror.token", mirror, given=token is not None)
        return _known(session, principal, mirror_id)


def _sealed(backend: Backend, endpoint: str, token: str | None) -> bytes | None:
    return None if token is None else backend.signer.seal(_PURPOSE, token, bound_to=endpoint)


def _token(backend: Backend, mirror: Mirror) -> str | None:
    """Raises `InvalidConfiguration` where it was sealed with a secret that the registry has no more."""
    if mirror.sealed_token is None:
        return None
    token = backend.signer.open(_PURPOSE, mirror.sealed_token, bound_to=mirror.endpoint)
    if token is None:
        raise InvalidConfiguration("the hub's token was kept under another LORAHUB_SECRET; give it again")
    return token


def _known(session: Session, principal: Principal, mirror_id: int) -> Mirror:
    principal.require_account()
    mirror = queries.mirror_by_id(session, mirror_id)
    if mirror is None or not may(principal, Action.MANAGE, mirror.namespace):
        raise NotFound(f"there is no mirror {mirror_id} that {principal.name} manages")
    return mirror


def _record(session: Session, principal: Principal, action: str, mirror: Mirror, **details: object) -> None:
    record_act(session, principal, action, mirror.full_name, mirror=mirror.id, **details)


# --- one run ----------------------------------------------------------------------------------------------------------


def due(backend: Backend, *, limit: int) -> list[Mirror]:
    with backend.database.read() as session:
        return queries.due(session, backend.settings.mirror_interval, limit=limit)


def give_up(backend: Backend, mirror: Mirror, reason: str) -> None:
    with backend.database.write() as session:
        next_try_at = _next_try_at(mirror.failures + 1, backend.settings.mirror_interval)
        queries.settle_failed(session, mirror, reason[:_MOST_REASON], next_try_at=next_try_at)


def _next_try_at(failures: int, interval: timedelta) -> datetime | None:
    """After an interval, two, four, eight …; within a day, unless the interval is longer."""
    if not interval:
        return None
    doublings = min(failures - 1, 20)
    return now() + min(interval * (1 << doublings), max(interval, _LONGEST_PAUSE))


def run(backend: Backend, mirror_id: int, *, go_on: Callable[[], None]) -> str:
    """Brings the remote's commit here, if it isn't; what came of it. A refusal is written down, and tried again, each
    time later. `go_on` raises where the worker is told to end. May be called twice for the same.
    """
    with backend.database.read() as session:
        mirror = queries.mirror_by_id(session, mirror_id)
    if mirror is None:
        return "removed"
    try:
        outcome = _follow(backend, mirror, go_on)
    except LorahubError as error:
        metrics.MIRRORED.labels("failed").inc()
        give_up(backend, mirror, f"{error.code}: {error.message}")
        return error.code
    metrics.MIRRORED.labels(outcome).inc()
    return outcome


def _follow(backend: Backend, mirror: Mirror, go_on: Callable[[], None]) -> str:
    settings = backend.settings
    with backend.database.read() as session:
        principal = _acting(session, mirror)
    require(principal, Action.MANAGE, mirror.namespace)
    hub = RemoteHub(Outbound.of(settings), mirror.endpoint, _token(backend, mirror))
    listing = hub.revision(mirror.source, mirror.revision, most_bytes=settings.json_body_bytes)
    assert listing is not None  # no tag was sent
    if listing.commit == mirror.remote_commit:
        with backend.database.write() as session:
            queries.settle_published(session, mirror, remote_commit=listing.commit, version=mirror.version)
        return "unchanged"
    if len(listing.files) > settings.revision_files:
        raise InvalidInput(f"the revision has {len(listing.files)} files; at most {settings.revision_files}")
    repository = _target(backend, principal, mirror)
    fetched = _Fetch(backend, hub, mirror, repository, listing, go_on)
    published = _publish(backend, principal, mirror, repository, fetched)
    with backend.database.write() as session:
        revisions.record_origin(
            session,
            published.commit.id,
            endpoint=mirror.endpoint,
            repository=mirror.source,
            commit=listing.commit,
        )
        queries.settle_published(session, mirror, remote_commit=listing.commit, version=published.version)
    return "published"


def _acting(session: Session, mirror: Mirror) -> Principal:
    """Who added it, in this namespace only; an administrator of the registry needs no role in it."""
    principal = acting_for(session, mirror.account_id)
    return replace(principal, scope=Level.ADMIN, namespace=mirror.namespace)


def _target(backend: Backend, principal: Principal, mirror: Mirror) -> Repository:
    """The repository here, made where it is missing; what this mirror didn't bring is never written over."""
    name = RepositoryName(mirror.namespace, mirror.name)
    try:
        if mirror.remote_commit is None:
            with backend.database.read() as session:
                _require_untouched(session, principal, mirror, name)
        return repositories.find(backend, principal, name, Action.WRITE)
    except RepositoryNotFound:
        return repositories.create(backend, principal, name, is_private=mirror.is_private)


def _require_untouched(session: Session, principal: Principal, mirror: Mirror, name: RepositoryName) -> None:
    """Empty, or filled by a run of this mirror that died before it was written down."""
    there = repositories.permitted(session, principal, name, Action.MANAGE)
    head = revisions.resolve(session, there.id, "main").commit
    if head.title != _title(mirror, head.title.rpartition("@")[2]):
        _require_empty(session, principal, name)


class _Fetch:
    """The lines of a commit, each file's bytes here by the time its line is given."""

    def __init__(
        self,
        backend: Backend,
        hub: RemoteHub,
        mirror: Mirror,
        repository: Repository,
        listing: RemoteRevision,
        go_on: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._hub = hub
        self._mirror = mirror
        self._repository = repository
        self._files = [file for file in listing.files if fault_of_name(file.path) is None]
        self._go_on = go_on
        self.commit = listing.commit
        self.left = [file.path for file in listing.files if file not in self._files]
        """What can't be published here: named in the commit instead. Complete when all lines were given."""
        with backend.database.read() as session:
            head = revisions.resolve(session, repository.id, "main").commit
            self._here = {file.sha256 for file in revisions.files_of(session, head.id).values()}

    def lines(self) -> Iterator[Mapping[str, object]]:
        for file in self._files:
            self._go_on()
            try:
                line = self._line(file)
            except UnsafeFile:
                self.left.append(file.path)
            else:
                yield line

    def _line(self, file: RemoteFile) -> Mapping[str, object]:
        if file.sha256 is None and file.size <= self._backend.settings.inline_file_bytes:
            content = b"".join(self._bytes(file))
            self._check(file, Content.of(content))
            inline = {"path": file.path, "content": b64encode(content).decode(), "encoding": "base64"}
            return {"key": "file", "value": inline}
        uploaded = {"path": file.path, "algo": "sha256", "oid": self._kept(file), "size": file.size}
        return {"key": "lfsFile", "value": uploaded}

    def _kept(self, file: RemoteFile) -> Sha256:
        """Whatever the hub says it is, only what this repository has needn't come: bytes are brought, not claimed."""
        if file.sha256 is not None and file.sha256 in self._here:
            return file.sha256
        blob = store_stream(
            self._backend,
            self._bytes(file),
            size=file.size,
            account_id=self._mirror.account_id,
            repository_id=self._repository.id,
        )
        self._check(file, Content(lambda start, stop: read_range(self._backend, blob, start, stop), blob.size))
        return blob.sha256

    def _check(self, file: RemoteFile, content: Content) -> None:
        """Raises `UnsafeFile` for what a mirror goes on without; about weights, publishing has the word."""
        if not file.path.lower().endswith(WEIGHTS):
            check_file(file.path, content, taken=self._backend.settings.ordinary_files)

    def _bytes(self, file: RemoteFile) -> Iterator[bytes]:
        pieces = self._hub.stream(self._mirror.source, self.commit, file, go_on=self._go_on)
        return verified(file, pieces)


def _publish(
    backend: Backend, principal: Principal, mirror: Mirror, repository: Repository, fetched: _Fetch
) -> Published:
    name = RepositoryName(repository.namespace, repository.name)
    key = f"mirror-{mirror.id}-{fetched.commit}"
    with tempfile.TemporaryFile() as files, tempfile.TemporaryFile() as body:
        _write(files, fetched.lines())
        left = f"left, as pickles and by-products of training: {', '.join(fetched.left)}" if fetched.left else ""
        header = {"summary": _title(mirror, fetched.commit), "description": left[:_MOST_LEFT]}
        _write(body, [{"key": "header", "value": header}, {"key": "deletedFolder", "value": {"path": "."}}])
        files.seek(0)
        shutil.copyfileobj(files, body)
        _write(body, [{"key": "version", "value": {"name": None, "aliases": ["latest"]}}])
        body.seek(0)
        return publish(backend, principal, name, "main", body, idempotency_key=key)


def _write(body: IO[bytes], lines: Iterable[Mapping[str, object]]) -> None:
    body.writelines(json.dumps(line).encode() + b"\n" for line in lines)


def _title(mirror: Mirror, commit: str) -> str:
    return f"Mirror {mirror.endpoint}/{mirror.source}@{commit}"
