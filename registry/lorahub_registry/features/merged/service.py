"""Merged revisions: `merged` and `merged/<revision>` of an adapter, or of a recipe, are complete models.

They look like commits: an id, files with sizes and ETags, ranges. Bytes are computed when they are read, by the
canonical kernel, so that every process and every range has the same ones; once they were read often, a worker stores
them. Who reads one must be allowed to read its base and its adapters.
"""

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock

from lorahub.errors import MergeTooLarge
from lorahub.merging.plan import Device, MergePlan
from lorahub.protocol.digests import CommitId, GitSha1, Sha256, is_commit_id
from lorahub.protocol.names import RepositoryName
from threadpoolctl import threadpool_limits

from lorahub_registry.features.accounts.permissions import Principal
from lorahub_registry.features.blobs.service import Blob, known_blobs, release_leases, store_stream
from lorahub_registry.features.merged import queries, sources
from lorahub_registry.features.merged.queries import MergedRevision
from lorahub_registry.features.merged.sources import Sources
from lorahub_registry.features.repositories.service import Repository, readable
from lorahub_registry.features.revisions import service as revisions
from lorahub_registry.features.revisions.service import Commit, RevisionFile
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session
from lorahub_registry.infrastructure.database.bell import ring

logger = logging.getLogger("lorahub")

NAME = "merged"
MOST_WHOLE = 2 << 30
"""Bytes of float64 of a tensor that a method needs whole."""
_MOST_PLANS = 16


@dataclass(frozen=True, slots=True)
class MergedModel:
    """A merged revision, ready to be read. `commit` stands where a commit is expected, and is in no history."""

    repository: Repository
    commit: Commit
    files: Mapping[str, RevisionFile]
    plan: MergePlan
    stored: Mapping[str, Blob]
    """Files that a worker has stored; the same bytes."""


class _Blocks:
    """Computed blocks, the last used ones, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, block: bytes) -> None:
        with self._lock:
            if key in self._kept or len(block) > self._limit:
                return
            self._kept[key] = block
            self._size += len(block)
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1])


class _Plans:
    """The plans that were read last, by id; and the blocks they computed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, MergePlan] = OrderedDict()
        self._blocks: _Blocks | None = None
        self._lock = Lock()

    def blocks(self, backend: Backend) -> _Blocks:
        with self._lock:
            if self._blocks is None:
                threadpool_limits(limits=1, user_api="blas")  # requests are the threads
                self._blocks = _Blocks(backend.settings.merged_cache_bytes)
            return self._blocks

    def get(self, merged_id: str, make: Callable[[], MergePlan]) -> MergePlan:
        with self._lock:
            plan = self._kept.get(merged_id)
        if plan is None:
            plan = make()
        with self._lock:
            self._kept[merged_id] = plan
            self._kept.move_to_end(merged_id)
            while len(self._kept) > _MOST_PLANS:
                self._kept.popitem(last=False)
        return plan


_plans = _Plans()


def find(backend: Backend, principal: Principal, name: RepositoryName, revision: str) -> MergedModel | None:
    """The merged revision of that name or id; None where the revision is an ordinary one.

    Raises as `readable` and `resolve`; `NotMergeable`, `AdapterDoesNotFit`, `MergeTooLarge`, `InvalidRecipe`.
    """
    inner = _asked(revision)
    if inner is None and not is_commit_id(revision):
        return None
    with backend.database.read() as session:
        repository = readable(session, principal, name)
        if inner is None:
            merged = queries.by_id(session, repository.id, revision)
            if merged is None:
                return None
            of = Sources.from_json(merged.sources)
            sources.refuse_unreadable(session, principal, of)
            key = ""
        else:
            commit = revisions.resolve(session, repository.id, inner).commit
            of = sources.of_revision(backend, session, principal, repository, commit.id)
            key = _key(repository, of)
            merged = queries.by_key(session, key)
        blocks = _plans.blocks(backend)
        if merged is None:
            plan = sources.plan_of(backend, session, of, cache=blocks)
            _refuse_large(plan)
            merged = _new(repository, commit, of, plan)
        else:
            plan = _plans.get(merged.id, lambda: sources.plan_of(backend, session, of, cache=blocks))
        stored = _stored(session, merged)
    if key:
        _remember(backend, merged, key)
    return MergedModel(repository, _as_commit(merged), _files(merged, plan), plan, stored)


def _refuse_large(plan: MergePlan) -> None:
    """Raises `MergeTooLarge`: what one read takes is taken from everybody."""
    if plan.cost.memory > MOST_WHOLE:
        raise MergeTooLarge(
            f"one tensor needs {plan.cost.memory >> 20} MiB as a whole; {MOST_WHOLE >> 20} MiB are given to a read",
            hint="publish the merge instead: lorahub merge BASE ADAPTER --server NAMESPACE/NAME",
        )


def _asked(revision: str) -> str | None:
    """The revision that is to be merged.

    >>> _asked("merged"), _asked("merged/v3"), _asked("v3")
    ('main', 'v3', None)
    """
    if revision == NAME:
        return "main"
    return revision.removeprefix(f"{NAME}/") if revision.startswith(f"{NAME}/") else None


def _key(repository: Repository, of: Sources) -> str:
    said = json.dumps([repository.public_id, of.as_json()], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _new(repository: Repository, commit: Commit, of: Sources, plan: MergePlan) -> MergedRevision:
    said = f"lorahub-merged-v1\n{repository.public_id}\n{plan.digest}\n{json.dumps(of.as_json(), sort_keys=True)}"
    return MergedRevision(
        id=CommitId(hashlib.sha256(said.encode()).hexdigest()[:40]),
        repository_id=repository.id,
        digest=plan.digest,
        sources=of.as_json(),
        author_id=commit.author_id,
        author=commit.author,
        created_at=commit.created_at,
    )


def _remember(backend: Backend, merged: MergedRevision, key: str) -> None:
    with backend.database.read() as session:
        if queries.by_key(session, key) is not None:
            return
    try:
        with backend.database.write() as session:
            queries.insert_merged(session, merged, key)
    except queries.IntegrityError:
        pass  # another request was first; the row is the same


def _as_commit(merged: MergedRevision) -> Commit:
    return Commit(
        id=merged.id,
        repository_id=merged.repository_id,
        parent_id=None,
        depth=0,
        digest=Sha256(merged.digest),
        title="Merged into its base",
        message="",
        author_id=merged.author_id,
        author=merged.author,
        created_at=merged.created_at,
        request_key=None,
        request_digest=None,
    )


def _files(merged: MergedRevision, plan: MergePlan) -> dict[str, RevisionFile]:
    """No file is a "large" one: those have a sha256 that clients expect to be told, and nobody knows it yet."""
    files = {}
    for path, size in plan.files.items():
        etag = plan.etag(path)
        files[path] = RevisionFile(path, Sha256(etag), size, GitSha1(etag), is_lfs=False, changed_in=merged.id)
    return files


def _stored(session: Session, merged: MergedRevision) -> dict[str, Blob]:
    outputs = queries.outputs(session, merged.digest)
    blobs = known_blobs(session, list(outputs.values())) if outputs else {}
    return {path: blobs[sha256] for path, sha256 in outputs.items() if sha256 in blobs}


# --- storing what is read often ---------------------------------------------------------------------------------------


def count_read(backend: Backend, model: MergedModel, path: str) -> None:
    """Reads of weights count. A count that can't be written never fails a read."""
    if path not in model.plan.weights or path in model.stored:
        return
    try:
        with backend.database.write() as session:
            if queries.count_read(session, model.commit.id) == backend.settings.merged_store_reads:
                ring(session)
    except queries.UNAVAILABLE:
        logger.warning("a read of a merged revision was not counted")


def to_store(backend: Backend) -> list[MergedRevision]:
    """Merged revisions that were read often, and are not stored yet."""
    reads = backend.settings.merged_store_reads
    if not reads:
        return []
    with backend.database.read() as session:
        return queries.often_read(session, reads=reads, limit=16)


def files_to_store(backend: Backend, merged_id: str, repository_id: int) -> list[str]:
    merged = _plan_to_store(backend, merged_id, repository_id)
    return [] if merged is None else list(merged[1].weights)


def store_file(
    backend: Backend, merged_id: str, repository_id: int, path: str, *, device: Device | None = None
) -> None:
    """Computes a file of weights into a blob, unless it is one. It is the registry's own cache: in nobody's quota."""
    merged = _plan_to_store(backend, merged_id, repository_id, device)
    if merged is not None:
        compute(backend, merged[1], path, account_id=merged[0].author_id)


def _plan_to_store(
    backend: Backend, merged_id: str, repository_id: int, device: Device | None = None
) -> tuple[MergedRevision, MergePlan] | None:
    with backend.database.read() as session:
        merged = queries.by_id(session, repository_id, merged_id)
        if merged is None:
            return None
        return merged, sources.plan_of(backend, session, Sources.from_json(merged.sources), device=device)


def settle_stored(backend: Backend, merged_id: str) -> None:
    with backend.database.write() as session:
        queries.set_stored(session, merged_id)


def put_off_storing(backend: Backend, merged_id: str) -> None:
    """Until it was read as often again."""
    with backend.database.write() as session:
        queries.forget_reads(session, merged_id)


def compute(
    backend: Backend,
    plan: MergePlan,
    path: str,
    *,
    account_id: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Sha256:
    """One file of a plan as a blob, computed unless it was before. Raises what computing does.

    Its lease belongs to no repository, so that one that is late takes no lease away from whoever publishes the file.
    """
    with backend.database.read() as session:
        known = queries.outputs(session, plan.digest).get(path)
    if known is not None:
        progress(plan.files[path])
        return known

    def pieces() -> Iterator[bytes]:
        for piece in plan.stream(path, 0, plan.files[path]):
            yield piece
            progress(len(piece))

    blob = store_stream(backend, pieces(), size=plan.files[path], account_id=account_id, repository_id=None)
    with backend.database.write() as session:
        queries.insert_output(session, plan.digest, path, blob.sha256)
        release_leases(session, account_id=account_id, repository_id=None, digests=[blob.sha256])
    return blob.sha256


def forget_unused(backend: Backend) -> None:
    """Computed files that nobody wants any more; the collector takes their bytes."""
    with backend.database.write() as session:
        queries.delete_outputs(session)
