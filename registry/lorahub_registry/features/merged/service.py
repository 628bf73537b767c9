"""Merged revisions: `merged` and `merged/<revision>` of an adapter, or of a recipe, are complete models.

They look like commits: an id, files with sizes and ETags, ranges. Bytes are computed when they are read, by the
canonical kernel, so that every process and every range has the same ones; once they were read often, a worker stores
them. What costs too much for that is made by a worker when it is first wanted. Who reads one must be allowed to read
its base and its adapters.
"""

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from lorahub.errors import BeingMade, MergeTooLarge, NotMergeable
from lorahub.merging.plan import Device, MergePlan
from lorahub.protocol.digests import CommitId, GitSha1, Sha256, is_commit_id

from lorahub_registry.core.access import OpenedRepository
from lorahub_registry.core.blobs.service import Blob, known_blobs, release_leases, store_stream
from lorahub_registry.core.repositories.service import Repository
from lorahub_registry.core.revisions.service import Commit, RevisionFile
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.merged import queries, reading, sources
from lorahub_registry.features.merged.queries import MergedRevision
from lorahub_registry.features.merged.reading import Readable
from lorahub_registry.features.merged.sources import MergeSources
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.bell import ring

logger = logging.getLogger("lorahub")

NAME = "merged"
_FAULT_LASTS = timedelta(hours=1)
"""What a worker couldn't make isn't tried again before."""


@dataclass(frozen=True, slots=True)
class MergedModel:
    """A merged revision, ready to be read. `commit` stands where a commit is expected, and is in no history."""

    repository: Repository
    commit: Commit
    files: Mapping[str, RevisionFile]
    readable: Readable
    stored: Mapping[str, Blob]
    """Files that a worker has stored; the same bytes."""

    @property
    def plan(self) -> MergePlan:
        return self.readable.plan

    def is_left_to_workers(self, path: str) -> bool:
        """Whether some of its bytes are computed by no read."""
        return path in self.readable.heavy and path not in self.stored


def find(opened: OpenedRepository, revision: str) -> MergedModel | None:
    """The merged revision of that name or id; None where the revision is an ordinary one.

    Raises `RepositoryNotFound`, `GatedRepository`, `Quarantined`, `RevisionNotFound`, `VersionYanked`;
    `NotMergeable`, `AdapterDoesNotFit`, `MergeTooLarge`, `InvalidRecipe`.
    """
    return opened.once(f"merged revision {revision}", lambda: _find(opened, revision))


def _find(opened: OpenedRepository, revision: str) -> MergedModel | None:
    inner = _asked(revision)
    if inner is None and not is_commit_id(revision):
        return None
    opened.require_readable()
    backend, session, principal = opened.backend, opened.session, opened.principal
    if inner is None:
        merged = None if opened.holds(CommitId(revision)) else queries.by_id(session, opened.id, revision)
        if merged is None:
            return None
        of = MergeSources.from_json(merged.sources)
        sources.refuse_unreadable(session, principal, of)
        key = _key(opened.repository, of)
    else:
        commit = opened.at(inner).commit
        of = sources.of_revision(backend, session, principal, opened.repository, commit.id)
        key = _key(opened.repository, of)
        merged = queries.by_key(session, key)
    known = reading.plans.get(key, lambda: _plan(backend, session, of))
    if merged is None:
        refuse_large(backend, known.plan)
        new = merged = _new(opened.repository, commit, of, known.plan)
        opened.reader.afterwards.append(lambda: _remember(backend, new, key))
    return MergedModel(
        opened.repository,
        _as_commit(merged, known.plan),
        _files(merged, known.plan),
        known,
        _stored(session, merged),
    )


def _plan(backend: Backend, session: Session, of: MergeSources) -> MergePlan:
    return sources.plan_of(backend, session, of, cache=reading.kept(backend.settings.merged_cache_bytes))


def refuse_large(backend: Backend, plan: MergePlan) -> None:
    """Raises `MergeTooLarge` for what this registry's workers couldn't make."""
    cost, settings = plan.cost, backend.settings
    hint = "merge on your machine: lorahub merge"
    if cost.memory > settings.merge_memory_bytes:
        most = settings.merge_memory_bytes >> 20
        raise MergeTooLarge(
            f"one tensor takes {cost.memory >> 20} MiB while it is computed; {most} MiB are given here", hint=hint
        )
    if cost.bytes > settings.merge_output_bytes:
        raise MergeTooLarge(
            f"the result has {cost.bytes} bytes; at most {settings.merge_output_bytes} are made here", hint=hint
        )


def _asked(revision: str) -> str | None:
    """The revision that is to be merged.

    >>> _asked("merged"), _asked("merged/v3"), _asked("v3")
    ('main', 'v3', None)
    """
    if revision == NAME:
        return "main"
    return revision.removeprefix(f"{NAME}/") if revision.startswith(f"{NAME}/") else None


def _key(repository: Repository, of: MergeSources) -> str:
    said = json.dumps([repository.public_id, of.as_json()], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _new(repository: Repository, commit: Commit, of: MergeSources, plan: MergePlan) -> MergedRevision:
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


def _as_commit(merged: MergedRevision, plan: MergePlan) -> Commit:
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
        size=sum(plan.files.values()),
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


# --- reading ----------------------------------------------------------------------------------------------------------


def read(backend: Backend, model: MergedModel, path: str, start: int, stop: int) -> AsyncIterator[bytes]:
    """The bytes [start, stop) of a file that isn't stored. `require_made` has to be asked before.

    Raises `Busy` where too many are computed already, and the faults of a storage that can't be read.
    """
    return reading.stream(backend, model.plan, path, start, stop)


def is_left_to_workers(plan: MergePlan) -> bool:
    """Whether some of its files are computed by no read."""
    return bool(Readable.of(plan).heavy)


def require_made(backend: Backend, model: MergedModel, path: str, start: int, stop: int) -> None:
    """Has a worker make the file, unless a read can compute these bytes. Raises `BeingMade`, `NotMergeable`,
    `MergeTooLarge`.
    """
    if path in model.stored or not model.readable.needs_worker(path, start, stop):
        return
    if _weights(model.plan) > backend.settings.merged_store_bytes:
        raise MergeTooLarge(
            f"the result has {_weights(model.plan)} bytes; {backend.settings.merged_store_bytes} are kept for readers",
            hint="publish the merge instead: lorahub merge BASE ADAPTER --server NAMESPACE/NAME",
        )
    with backend.database.read() as session:
        merged = queries.by_id(session, model.repository.id, model.commit.id)
    if merged is not None and merged.failed_at is not None and now() - merged.failed_at < _FAULT_LASTS:
        raise NotMergeable(
            f"{path} couldn't be made: {merged.fault}", hint="it is tried again in an hour; or: lorahub merge"
        )
    if merged is not None and not merged.is_wanted:
        _want(backend, merged)
    _say_when(backend, model, path)


def _want(backend: Backend, merged: MergedRevision) -> None:
    """Unless as many of its author's are being made as he may have under way: its turn comes when it is asked again."""
    most = backend.settings.merge_jobs_per_account
    with backend.database.write() as session:
        if not most or queries.being_made(session, author_id=merged.author_id) < most:
            queries.want(session, merged.id)
            ring(session)


def _say_when(backend: Backend, model: MergedModel, path: str) -> NoReturn:
    seconds = model.readable.seconds(path)
    note = workers.note(backend)
    raise BeingMade(
        f"{path} is being made by a worker: its tensors need more at a time than a read is given",
        hint=note or f"a worker makes it once, for everybody; ask again in {seconds} seconds",
        retry_after=seconds,
    )


# --- storing what is wanted, or read often ----------------------------------------------------------------------------


def count_read(backend: Backend, model: MergedModel, path: str) -> None:
    """Reads of weights count. A count that can't be written never fails a read."""
    if path not in model.plan.weights or path in model.stored:
        return
    try:
        with backend.database.write() as session:
            reads = queries.count_read(session, model.commit.id)
            if reads == backend.settings.merged_store_reads:
                ring(session)
    except queries.UNAVAILABLE:
        logger.warning("a read of a merged revision was not counted")


def to_store(backend: Backend) -> list[MergedRevision]:
    """Merged revisions that can't be read otherwise, or were read often, and are not stored yet."""
    with backend.database.read() as session:
        return queries.to_store(session, reads=backend.settings.merged_store_reads, limit=16)


def files_to_store(backend: Backend, merged_id: str, repository_id: int) -> list[str]:
    """Makes room for them."""
    found = _plan_to_store(backend, merged_id, repository_id)
    if found is None:
        return []
    merged, plan = found
    with backend.database.write() as session:
        stored = queries.stored_bytes(session, but=merged.id)
        excess = _weights(plan) + sum(size for _, size in stored) - backend.settings.merged_store_bytes
        for other, size in stored:
            if excess > 0:
                queries.give_up(session, other)
                excess -= size
        queries.delete_outputs(session)
    return list(plan.weights)


def _weights(plan: MergePlan) -> int:
    """Bytes."""
    return sum(file.size for file in plan.weights.values())


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
        return merged, sources.plan_of(backend, session, MergeSources.from_json(merged.sources), device=device)


def settle_stored(backend: Backend, merged_id: str) -> None:
    with backend.database.write() as session:
        queries.set_stored(session, merged_id)


def put_off_storing(backend: Backend, merged_id: str, fault: str) -> None:
    """Until it was read as often again, or is wanted again after a while."""
    with backend.database.write() as session:
        queries.put_off(session, merged_id, fault[:2000])


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
