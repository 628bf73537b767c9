"""A merge as a job: plan → accept → compute, file by file → publish → settle.

Planning happens in the request, from headers: what doesn't fit or costs too much is refused before anything is
allocated. Each file is computed by one of the workers, in a child process with limits, and kept when it is finished:
a killed one costs a file. Publishing is a commit like any other, whose idempotency key is the job: it happens once.
"""

import io
import json
import re
import secrets
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from lorahub.errors import Conflict, LorahubError, NotFound, RepositoryNotFound, TooManyRequests
from lorahub.merging.plan import Device, MergePlan
from lorahub.merging.recipe import Recipe
from lorahub.protocol.digests import Sha256
from lorahub.protocol.messages.merges import MergeCost, PlannedMerge
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.accounts.permissions import Action, Principal, is_site_admin, may, require
from lorahub_registry.core.accounts.service import acting_for, name_of
from lorahub_registry.core.audit.service import record as record_audit
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.blobs.service import known_blobs, lease_known
from lorahub_registry.core.events.service import happened
from lorahub_registry.core.quotas.service import require_room
from lorahub_registry.core.repositories import service as repositories
from lorahub_registry.core.repositories.service import Repository
from lorahub_registry.features.merged import service as merged
from lorahub_registry.features.merged import sources
from lorahub_registry.features.merged.sources import MergeSources
from lorahub_registry.features.merges import queries
from lorahub_registry.features.merges.queries import StoredJob
from lorahub_registry.features.publishing.service import Published, publish
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.failpoints import reach

__all__ = ["StoredJob"]

COME_AGAIN = 75
"""Exit status of a child process whose fault passes: see `passes`."""
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_LISTED = 100
_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Shown:
    """A job and the repository that its result goes to."""

    job: StoredJob
    target: str

    @property
    def reference(self) -> str | None:
        return f"{self.target}@{self.job.version}" if self.job.version else None


class Cancelled(Exception):
    """The job was settled while it was computed."""


# --- in the request ---------------------------------------------------------------------------------------------------


def plan(backend: Backend, principal: Principal, recipe: Recipe) -> MergePlan:
    """What the recipe comes to.

    Raises `InvalidRecipe`, `RepositoryNotFound`, `GatedRepository`, `Quarantined`, `RevisionNotFound`, `VersionYanked`;
    `NotMergeable`, `AdapterDoesNotFit`, `MergeTooLarge`.
    """
    principal.require_account()
    return _plan(backend, principal, recipe)[1]


def message_of(made: MergePlan) -> PlannedMerge:
    return PlannedMerge(
        digest=made.digest,
        files=made.files,
        cost=MergeCost(**made.cost.as_json()),
        notes=tuple(made.notes),
        recipe=made.recipe.as_json(),
    )


def _plan(backend: Backend, principal: Principal, recipe: Recipe) -> tuple[MergeSources, MergePlan]:
    with backend.database.read() as session:
        of = sources.of_recipe(session, principal, recipe)
        made = sources.plan_of(backend, session, of)
    merged.refuse_large(backend, made)
    return of, made


def start(backend: Backend, principal: Principal, recipe: Recipe, name: RepositoryName, *, is_private: bool) -> Shown:
    """Accepts a merge. The same recipe for the same repository is the same job, unless it failed.

    Raises what `plan` raises; `NotPermitted`, `RepositoryNotFound`, `Quarantined` for the target; `TooManyRequests`
    and `QuotaExceeded`.
    """
    account_id = principal.require_account()
    of, made = _plan(backend, principal, recipe)
    with _target(backend, principal, name, is_private=is_private) as (session, target):
        known = queries.same_job(session, repository_id=target.id, digest=made.digest)
        if known is not None:
            return Shown(known, target.full_name)
        job = _queued(account_id, target, of, made)
        require_room(session, backend.settings, target.namespace_id, job.bytes)
        most = backend.settings.merge_jobs_per_account
        if most and queries.open_jobs_of(session, account_id) >= most:
            raise TooManyRequests(
                f"{most} merges of yours are under way",
                hint="wait for one, or cancel it: lorahub merge-job ID --cancel",
            )
        queries.insert_job(session, job)
        record_act(
            session,
            principal,
            "merge.start",
            target.full_name,
            job=job.id,
            digest=made.digest,
        )
        return Shown(job, target.full_name)


def _target(
    backend: Backend, principal: Principal, name: RepositoryName, *, is_private: bool
) -> AbstractContextManager[tuple[Session, Repository]]:
    """The repository, made where it is missing, and the transaction that queues the merge."""
    try:
        repositories.find(backend, principal, name, Action.WRITE)
    except RepositoryNotFound:
        return repositories.creating(backend, principal, name, is_private=is_private)
    return _existing(backend, principal, name)


@contextmanager
def _existing(backend: Backend, principal: Principal, name: RepositoryName) -> Iterator[tuple[Session, Repository]]:
    with backend.database.write() as session:
        yield session, repositories.permitted(session, principal, name, Action.WRITE)


def _queued(account_id: int, target: Repository, of: MergeSources, made: MergePlan) -> StoredJob:
    return StoredJob(
        id=secrets.token_hex(16),
        account_id=account_id,
        repository_id=target.id,
        digest=made.digest,
        sources=of.as_json(),
        status="queued",
        faults=0,
        bytes=sum(made.files.values()),
        done=0,
        error=None,
        commit_id=None,
        version=None,
        created_at=now(),
        finished_at=None,
    )


def find(backend: Backend, principal: Principal, job_id: str) -> Shown:
    """One of the principal's own jobs. Raises `NotFound`, for others' too."""
    account_id = principal.require_account()
    with backend.database.read() as session:
        job = queries.job_by_id(session, job_id) if _ID.fullmatch(job_id) else None
        if job is None or (job.account_id != account_id and not is_site_admin(principal)):
            raise _no_job(job_id)
        target = repositories.repositories_by_id(session, [job.repository_id])[job.repository_id]
    if not may(principal, Action.READ, target.namespace):
        raise _no_job(job_id)
    return Shown(job, target.full_name)


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"no merge is called {job_id[:64]}")


def own_jobs(backend: Backend, principal: Principal) -> list[Shown]:
    """The newest of the principal's jobs."""
    with backend.database.read() as session:
        jobs = queries.jobs_of(session, principal.require_account(), limit=_MOST_LISTED)
        targets = repositories.repositories_by_id(session, [job.repository_id for job in jobs])
    shown = ((job, targets[job.repository_id]) for job in jobs)
    return [Shown(job, target.full_name) for job, target in shown if may(principal, Action.READ, target.namespace)]


def cancel(backend: Backend, principal: Principal, job_id: str) -> Shown:
    """Stops it: nothing of it is visible.

    Raises `NotFound`, `NotPermitted`, `Conflict` where it is done, or being published.
    """
    shown = find(backend, principal, job_id)
    require(principal, Action.WRITE, shown.target.partition("/")[0])
    with backend.database.write() as session:
        is_new = queries.cancel(session, job_id)
        if is_new:
            record_act(
                session,
                principal,
                "merge.cancel",
                shown.target,
                job=job_id,
            )
    if is_new:
        merged.forget_unused(backend)
    shown = find(backend, principal, job_id)
    if shown.job.status in ("done", "publishing"):
        raise Conflict(
            f"the merge {job_id} is {shown.job.status}", hint=f"its result is {shown.reference or shown.target}"
        )
    return shown


# --- in a worker ------------------------------------------------------------------------------------------------------


def waiting(backend: Backend, *, limit: int) -> list[str]:
    """Ids of jobs that are not over, oldest first."""
    with backend.database.read() as session:
        return queries.open_jobs(session, limit=limit)


def is_over(backend: Backend, job_id: str) -> bool:
    with backend.database.read() as session:
        job = queries.job_by_id(session, job_id)
        return job is None or not job.is_open


def begin(backend: Backend, job_id: str) -> list[str]:
    """Takes a job up: the files that are computed one by one. None of them where it is over, or fails here."""
    with backend.database.write() as session:
        if not queries.begin(session, job_id):
            return []
    paths: list[str] = []
    with _settled_by_its_own_faults(backend, job_id):
        paths = list(_large(backend, _work(backend, job_id).plan))
        with backend.database.write() as session:
            queries.insert_files(session, job_id, paths)
    return paths


def reopen(backend: Backend, job_id: str, *, by: str) -> bool:
    """A job that failed, or was cancelled, is wanted again; whether it was one."""
    with backend.database.write() as session:
        is_new = queries.reopen(session, job_id)
        if is_new:
            record_audit(session, actor=by, action="merge.requeue", subject=job_id)
    return is_new


def count_fault(backend: Backend, job_id: str) -> None:
    """A process of it died, or took too long."""
    with backend.database.write() as session:
        queries.count_fault(session, job_id)


def fail(backend: Backend, job_id: str, reason: str) -> None:
    with backend.database.write() as session:
        is_new = queries.settle(session, job_id, "failed", error=reason[:2000])
        job = queries.job_by_id(session, job_id) if is_new else None
        if job is not None:
            happened(
                session,
                "merge.failed",
                job.repository_id,
                {"job": job_id, "error": reason[:2000]},
                by=name_of(session, job.account_id),
                concerns=job.account_id,
                for_managers=True,
            )
    if is_new:
        merged.forget_unused(backend)


def passes(error: Exception) -> bool:
    """Whether it is no fault of the job, and may be gone in a while."""
    return isinstance(error, queries.OperationalError) or (isinstance(error, LorahubError) and error.retryable)


def compute_file(backend: Backend, job_id: str, path: str, *, device: Device | None = None) -> None:
    """One file, unless it is there. Called in a process of its own.

    What is wrong with the job itself settles it as failed; anything else is raised, and the file is tried again.
    """
    if is_over(backend, job_id):
        return
    with _settled_by_its_own_faults(backend, job_id):
        work = _work(backend, job_id, device)
        _compute(backend, work, path)
        reach("merge-file-computed")


def publish_result(backend: Backend, job_id: str) -> None:
    """Once, however often it is called: a commit of all files. In a process of its own, raising as `compute_file`."""
    if is_over(backend, job_id):
        return
    with _settled_by_its_own_faults(backend, job_id):
        work = _work(backend, job_id)
        large = {path: _compute(backend, work, path) for path in _large(backend, work.plan)}
        reach("merge-computed")
        with backend.database.write() as session:
            if not queries.begin_publishing(session, job_id):
                raise Cancelled
        published = _publish(backend, work, large)
        reach("merge-published")
        with backend.database.write() as session:
            commit, version = published.commit.id, published.version
            if queries.settle(session, job_id, "done", commit_id=commit, version=version, done=work.job.bytes):
                happened(
                    session,
                    "merge.finished",
                    work.target.id,
                    {"job": job_id, "commit": commit, "version": version},
                    by=work.principal.name,
                )
        merged.forget_unused(backend)  # the commit has them


@dataclass(frozen=True, slots=True)
class _Work:
    """A job with what it is made of, as its account may see it now."""

    job: StoredJob
    principal: Principal
    target: Repository
    plan: MergePlan


def _work(backend: Backend, job_id: str, device: Device | None = None) -> _Work:
    with backend.database.read() as session:
        job = queries.job_by_id(session, job_id)
        if job is None:
            raise Cancelled
        of = MergeSources.from_json(job.sources)
        principal = acting_for(session, job.account_id)
        sources.refuse_unreadable(session, principal, of)
        made = sources.plan_of(backend, session, of, device=device)
        target = repositories.repositories_by_id(session, [job.repository_id])[job.repository_id]
    return _Work(job, principal, target, made)


@contextmanager
def _settled_by_its_own_faults(backend: Backend, job_id: str) -> Iterator[None]:
    try:
        yield
    except Cancelled:
        merged.forget_unused(backend)
    except LorahubError as error:
        if error.retryable:
            raise
        fail(backend, job_id, f"{error.message}" + (f"; {error.hint}" if error.hint else ""))


def _large(backend: Backend, made: MergePlan) -> Iterator[str]:
    """Files that are blobs of their own; the others travel in the commit."""
    for path, size in made.files.items():
        if path in made.weights or size > backend.settings.inline_file_bytes:
            yield path


def _compute(backend: Backend, work: _Work, path: str) -> Sha256:
    progress = _Progress(backend, work.job.id, path)
    computed = merged.compute(backend, work.plan, path, account_id=work.job.account_id, progress=progress.advance)
    progress.say()
    return computed


class _Progress:
    """Writes down how much of a file is done, now and then. Raises `Cancelled` where the job is over."""

    def __init__(self, backend: Backend, job_id: str, path: str) -> None:
        self._backend = backend
        self._job_id = job_id
        self._path = path
        self._done = 0
        self._said_at = 0.0

    def advance(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._said_at > _PROGRESS_SECONDS:
            self.say()

    def say(self) -> None:
        self._said_at = time.monotonic()
        with self._backend.database.write() as session:
            if not queries.set_done(session, self._job_id, self._path, self._done):
                raise Cancelled


def _publish(backend: Backend, work: _Work, large: dict[str, Sha256]) -> Published:
    job, target = work.job, work.target
    with backend.database.write() as session:
        for blob in known_blobs(session, list(large.values())).values():
            lease_known(backend, session, account_id=job.account_id, repository_id=target.id, blob=blob)
    body = b"\n".join(json.dumps(line).encode() for line in _lines(work.plan, large))
    name = RepositoryName(target.namespace, target.name)
    return publish(backend, work.principal, name, "main", io.BytesIO(body), idempotency_key=f"merge-{job.id}")


def _lines(made: MergePlan, large: dict[str, Sha256]) -> Iterator[dict[str, Any]]:
    names = ", ".join(one.source for one in made.recipe.adapters)
    yield {"key": "header", "value": {"summary": f"Merge {names} into {made.recipe.base}", "description": ""}}
    for path, size in made.files.items():
        if path in large:
            yield {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": large[path], "size": size}}
        else:
            content = b64encode(made.read(path, 0, size)).decode()
            yield {"key": "file", "value": {"path": path, "content": content, "encoding": "base64"}}
    yield {"key": "version", "value": {"name": None, "aliases": ["latest"]}}
