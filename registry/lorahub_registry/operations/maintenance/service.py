"""Garbage collection, safe while pushes run; fsck, the proof that the invariants hold; scrub, which finds decay early.

What is garbage: an upload that expired; a blob that no commit and no unexpired upload refers to; an object that belongs
to neither a blob nor an upload. Rows go first, objects after: a crash leaves objects without rows, garbage again.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lorahub.protocol.digests import FileEntry, Sha256, revision_digest

from lorahub_registry.core.accounts.service import forget_sessions
from lorahub_registry.core.blobs import service as blobs
from lorahub_registry.core.blobs.inspection import inspect
from lorahub_registry.core.blobs.service import Blob
from lorahub_registry.core.quotas.service import give_back_expired, miscounts
from lorahub_registry.core.upstreams.service import make_room
from lorahub_registry.features.events import service as events
from lorahub_registry.features.merged.service import forget_unused
from lorahub_registry.features.retention.service import drop_old
from lorahub_registry.features.uploads.service import collect_sessions, is_known_xorb
from lorahub_registry.features.webhooks import service as webhooks
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.storage import ObjectNotFound
from lorahub_registry.operations.maintenance import queries

PAGE = 500


# --- garbage ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class GarbageReport:
    uploads: int = 0
    blobs: int = 0
    objects: int = 0
    bytes: int = 0
    versions: int = 0
    """Dropped, for their repositories keep fewer."""
    is_dry_run: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        verb = "would collect" if self.is_dry_run else "collected"
        versions = f"; versions dropped by retention: {self.versions}" if self.versions else ""
        return (
            f"{verb} {self.uploads} expired uploads, {self.blobs} blobs and {self.objects} stray objects, "
            f"{self.bytes / 1e6:.1f} MB in all{versions}"
        )


def collect_garbage(backend: Backend, *, grace: timedelta, is_dry_run: bool = False) -> GarbageReport:
    """`grace`: how long a blob is kept after its last reference could have been made. Safe at zero while pushes run:
    whatever a push is about to name is held by its upload's lease.
    """
    report = GarbageReport(is_dry_run=is_dry_run)
    if not is_dry_run:
        forget_unused(backend)
        make_room(backend)
        forget_sessions(backend)
        events.forget_old(backend)
        webhooks.forget_old(backend)
    report.versions = drop_old(backend, is_dry_run=is_dry_run)
    _collect_uploads(backend, report)
    _collect_blobs(backend, grace, report)
    _collect_objects(backend, report)
    if not is_dry_run:
        metrics.COLLECTIONS.inc()
        metrics.COLLECTED.inc(report.bytes)
    return report


def collect_abandoned(backend: Backend) -> GarbageReport:
    """Only what was begun and never finished: cheap enough to be done as often as uploads expire."""
    report = GarbageReport()
    _collect_uploads(backend, report)
    return report


def _collect_uploads(backend: Backend, report: GarbageReport) -> None:
    expired = blobs.expired_uploads(backend)
    if report.is_dry_run:
        report.uploads = len(expired)
        return
    report.uploads = sum(blobs.collect_upload(backend, upload) for upload in expired)
    give_back_expired(backend)
    report.objects += collect_sessions(backend)
    report.objects += backend.blobs.abort_unfinished(lambda key, begun_at: _is_known(backend, key, begun_at))


def _is_known(backend: Backend, key: str, begun_at: datetime) -> bool:
    """Whether what is written under this key may still become something."""
    if key.startswith("doctor/"):
        return now() - begun_at < timedelta(days=1)
    if key.startswith("xorbs/"):
        return is_known_xorb(backend, key)
    return blobs.is_known_object(backend, key)


def _collect_blobs(backend: Backend, grace: timedelta, report: GarbageReport) -> None:
    before = now() - grace
    for blob in blobs.unreferenced_blobs(backend, created_before=before):
        if report.is_dry_run or blobs.collect_blob(backend, blob):
            report.blobs += 1
            report.bytes += blob.size


def _collect_objects(backend: Backend, report: GarbageReport) -> None:
    """Objects without a row. Listed first, looked up second: a row is always older than its object."""
    for prefix in ("blobs/", "staging/"):
        for stored in backend.blobs.list(prefix):
            if not blobs.is_known_object(backend, stored.key):
                report.objects += 1
                report.bytes += stored.size
                if not report.is_dry_run:
                    backend.blobs.delete(stored.key)


# --- fsck -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FsckReport:
    blobs: int = 0
    commits: int = 0
    bytes: int = 0
    is_deep: bool = False
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {"ok": not self.problems, **asdict(self)}

    def __str__(self) -> str:
        depth = "every byte hashed" if self.is_deep else "sizes compared"
        summary = f"{self.commits} commits, {self.blobs} blobs, {self.bytes / 1e6:.1f} MB ({depth})"
        if not self.problems:
            return f"✓ {summary}: every invariant holds"
        return "\n".join(
            [f"✗ {summary}: {len(self.problems)} problems", *(f"  {problem}" for problem in self.problems)]
        )


def check_invariants(backend: Backend, *, is_deep: bool = False) -> FsckReport:
    """Reports everything that breaks a promise; changes nothing. `is_deep` reads every stored byte."""
    report = FsckReport(is_deep=is_deep)
    with backend.database.read() as session:
        report.problems.extend(_row_problems(session))
        report.problems.extend(_digest_problems(session, report))
    report.problems.extend(_blob_problems(backend, report))
    return report


def _row_problems(session: Session) -> Iterator[str]:
    for commit, path, digest in queries.files_without_blob(session):
        yield f"commit {commit}: {path} refers to blob {digest}, which has no row"
    for repository, name, commit in queries.references_without_commit(session):
        yield f"repository {repository}: reference {name} leads to {commit}, which is no commit of it"
    for commit, parent in queries.commits_without_parent(session):
        yield f"commit {commit}: its parent {parent} is missing"
    for full_name in queries.repositories_without_main(session):
        yield f"{full_name}: it has no branch main"
    for repository, name in queries.references_off_their_log(session):
        yield f"repository {repository}: reference {name} is not where its log says"
    for commit in queries.commits_without_audit(session):
        yield f"commit {commit}: no audit row names it"
    for commit, path in queries.files_unlike_their_listing(session):
        yield f"commit {commit}: {path} is another file than its upstream announced"
    yield from miscounts(session)


def _digest_problems(session: Session, report: FsckReport) -> Iterator[str]:
    after = ""
    while page := queries.all_commits(session, after=after, limit=PAGE):
        for commit_id, digest, recorded in page:
            report.commits += 1
            files = [FileEntry(path, size, Sha256(sha)) for path, size, sha in queries.files_of(session, commit_id)]
            if (found := revision_digest(files)) != digest:
                yield f"commit {commit_id}: its files have the digest {found}, recorded is {digest}"
            if recorded is not None and (size := sum(file.size for file in files)) != recorded:
                yield f"commit {commit_id}: its files have {size} bytes, recorded are {recorded}"
        after = page[-1][0]


def _blob_problems(backend: Backend, report: FsckReport) -> Iterator[str]:
    for blob in blobs.all_blobs(backend, page_size=PAGE):
        report.blobs += 1
        report.bytes += blob.size
        size = backend.blobs.size(blob.storage_key)
        if size is None and not blobs.still_there(backend, blob):
            continue  # collected since the page was read
        if size != blob.size:
            yield f"blob {blob.sha256}: {blob.size} bytes recorded, {size if size is not None else 'nothing'} stored"
        elif report.is_deep and (found := _rehash(backend, blob)) != blob.sha256:
            yield f"blob {blob.sha256}: the stored bytes have the sha256 {found}"
        elif blob.is_damaged and not report.is_deep:
            yield f"blob {blob.sha256}: it was found damaged, and is not served"


def _rehash(backend: Backend, blob: Blob) -> str:
    """The sha256 of what is stored, whether it may be served or not."""
    try:
        return inspect(backend.blobs.open_range(blob.storage_key, 0, blob.size), size=blob.size).sha256
    except ObjectNotFound:
        return "(gone)"


# --- scrub ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ScrubReport:
    blobs: int = 0
    bytes: int = 0
    is_complete: bool = True
    """Every blob was read; otherwise the next scrub goes on."""
    damaged: list[str] = field(default_factory=list)
    """Digests of all that is known to be damaged, found now or before."""

    def as_json(self) -> dict[str, Any]:
        return {"ok": not self.damaged, **asdict(self)}

    def __str__(self) -> str:
        summary = f"{self.blobs} blobs, {self.bytes / 1e6:.1f} MB read{'' if self.is_complete else ', more to do'}"
        if not self.damaged:
            return f"✓ {summary}: every byte is the one that was published"
        return "\n".join(
            [f"✗ {summary}: {len(self.damaged)} damaged, not served any more", *(f"  {one}" for one in self.damaged)]
        )


def scrub(
    backend: Backend, *, most_bytes: int = sys.maxsize, is_over: Callable[[], bool] = lambda: False
) -> ScrubReport:
    """Reads and hashes stored blobs, those first that were verified longest ago, until `most_bytes` are read.

    What is damaged is served no more; what is sound again, is. Raises `Unavailable` where the storage is away.
    """
    report, begun_at = ScrubReport(), now()
    for blob in _oldest_verified(backend, begun_at):
        if is_over() or report.bytes >= most_bytes:
            report.is_complete = False
            break
        _scrub_blob(backend, blob)
        report.blobs += 1
        report.bytes += blob.size
    with backend.database.read() as session:
        report.damaged = queries.damaged(session)
    return report


def _oldest_verified(backend: Backend, before: datetime) -> Iterator[Blob]:
    while chosen := _page_to_verify(backend, before):
        yield from chosen


def _page_to_verify(backend: Backend, before: datetime) -> list[Blob]:
    with backend.database.read() as session:
        chosen = queries.oldest_verified(session, before=before, limit=PAGE)
        found = blobs.known_blobs(session, chosen)
    return [found[sha256] for sha256 in chosen if sha256 in found]


def _scrub_blob(backend: Backend, blob: Blob) -> None:
    """Marks the blob with what its stored bytes are from now on."""
    is_sound = _rehash(backend, blob) == blob.sha256
    with backend.database.write() as session:
        queries.set_verified(session, blob.sha256)
    if is_sound == blob.is_damaged and (is_sound or blobs.still_there(backend, blob)):  # not collected, nor healed
        blobs.set_damaged(backend, blob.sha256, is_damaged=not is_sound)
