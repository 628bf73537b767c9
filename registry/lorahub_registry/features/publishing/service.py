"""Publishing a revision, as its steps:

authorise → read the request → (is it a retry?) → lay the tree → store inline files → inspect → check against the base
→ derive facts → record

The bytes of large files came before, through the uploads feature: authorise → open → receive → verify → move. Bytes
first, row last: a crash anywhere leaves bytes that nothing refers to, for the collector, and never a revision without
its bytes. What the request alone tells to be impossible is refused before any byte is kept.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO

from lorahub.adapters.reader import CONFIG
from lorahub.errors import IdempotencyKeyReused, InvalidAdapter
from lorahub.protocol.digests import Sha256
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.permissions import Action, Principal
from lorahub_registry.core.blobs.service import (
    Blob,
    Stored,
    begun,
    finish_brought,
    give_up,
    known_blobs,
    leased,
    read_range,
    require_servable,
    stage_all,
    store_all,
)
from lorahub_registry.core.repositories.service import Repository
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.checks.service import Judged
from lorahub_registry.features.publishing.advice import Advice, Candidate, advise
from lorahub_registry.features.publishing.gate import check_new_files
from lorahub_registry.features.publishing.record import Draft, Published, published_as, record
from lorahub_registry.features.publishing.request import Publication, read_request
from lorahub_registry.features.publishing.tree import Plan, head_of, lay_tree
from lorahub_registry.features.publishing.versions import WEIGHTS
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session
from lorahub_registry.infrastructure.failpoints import reach

__all__ = ["WEIGHTS", "Advice", "Candidate", "Published", "advise"]

logger = logging.getLogger("lorahub")

_TRIES = 200  # how often a commit without `parentCommit` is laid anew on a head that moved meanwhile
_MOST_LOGGED = 1000  # characters
_HISTORY = 1000  # commits searched for the one that a repeated request made


@dataclass(frozen=True, slots=True)
class Examined:
    """What publishing would say. `refusal` is None where it would be taken; `judged` None for what is no adapter."""

    paths: list[str]
    left: list[FilePath]
    judged: Judged | None
    refusal: InvalidAdapter | None


# --- the steps --------------------------------------------------------------------------------------------------------


def publish(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    branch: str,
    body: BinaryIO,
    *,
    idempotency_key: str | None = None,
) -> Published:
    """Makes one commit on `branch`, and a version where the request or `implied_version` wants one.

    Raises what its steps raise; then nothing is visible, and what was received is kept for a retry, or collected.
    """
    publication = receive(backend, principal, name, branch, body, idempotency_key)
    left = publication.request.left
    if left:
        logger.warning("%s: by-products of training were left out: %s", name, ", ".join(left)[:_MOST_LOGGED])
    with storing(publication) as stored:
        for _ in range(_TRIES):
            with backend.database.committing:
                laid = lay(publication)
            if isinstance(laid, Published):
                return replace(laid, left=left)
            draft = prepare(publication, laid, stored)
            if draft.refusal is not None:
                raise draft.refusal
            with backend.database.committing:
                published = record(publication, draft)
            if published is not None:
                stored.clear()
                return replace(published, left=left)
    raise revisions.branch_moved()


def examine(backend: Backend, principal: Principal, name: RepositoryName, branch: str, body: BinaryIO) -> Examined:
    """All of `publish` but the recording. Raises what its steps raise, but for a refused adapter."""
    publication = receive(backend, principal, name, branch, body)
    with backend.database.read() as session:
        plan = lay_tree(session, publication, head_of(session, publication.repository, branch))
    with storing(publication) as stored:
        draft = prepare(publication, plan, stored)
    return Examined(sorted(plan.files), publication.request.left, draft.judged, draft.refusal)


def authorise(backend: Backend, principal: Principal, name: RepositoryName) -> Repository:
    """Raises as `permitted`."""
    with reading(backend, principal, name) as opened:
        opened.require(Action.WRITE)
    return opened.repository


def receive(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    branch: str,
    body: BinaryIO,
    idempotency_key: str | None = None,
) -> Publication:
    """Raises as `permitted` and `read_request`."""
    repository = authorise(backend, principal, name)
    with backend.database.committing:
        request = read_request(backend, body)
    publication = Publication(backend, principal, repository, branch, request, idempotency_key)
    reach("commit-parsed")
    _take_brought(publication)
    return publication


def _take_brought(publication: Publication) -> None:
    """What clients that don't call `verify` have sent to a bucket themselves."""
    backend, request = publication.backend, publication.request
    if backend.blobs.addresses is None:
        return
    whose = {"account_id": publication.account_id, "repository_id": publication.repository.id}
    sizes = {one.sha256: one.size for one in request.additions if one.is_lfs and one.size is not None}
    with backend.database.read() as session:
        brought = begun(session, sizes, **whose)
    for sha256 in sorted(brought):
        finish_brought(backend, sha256=sha256, size=sizes[sha256], **whose)


def lay(publication: Publication) -> Published | Plan:
    """The tree on the branch's head; or what this very request made before, if it is a retry.

    A client that names an idempotency key is recognised by it; any other by the same content on the same parent.
    """
    with publication.backend.database.read() as session:
        head = head_of(session, publication.repository, publication.branch)
        parent = publication.request.header.parent
        keys = [publication.key_on(base) for base in ([parent] if parent else [head.id, head.parent_id])]
        made = revisions.commits_by_request(session, publication.repository.id, keys)
        for commit in (made[key] for key in keys if key in made):
            if publication.key or _leads_to(session, head, commit):
                _require_same_request(commit, publication)
                return published_as(session, publication.repository, commit, is_new=True)
        plan = lay_tree(session, publication, head)
    return replace(plan, request_key=None if keys[0] in made else keys[0])


def _leads_to(session: Session, head: Commit, commit: Commit) -> bool:
    steps = head.depth - commit.depth
    return 0 <= steps < _HISTORY and commit in revisions.history(session, head, limit=steps + 1)


def _require_same_request(commit: Commit, publication: Publication) -> None:
    """Raises `IdempotencyKeyReused`: to answer with the first commit would lose what is sent now."""
    if commit.request_digest not in (None, publication.request.digest):
        raise IdempotencyKeyReused(
            f"this Idempotency-Key has made the commit {commit.id}, of other content",
            hint="a key is for one request and its repetitions; send this one with a key of its own",
        )


def prepare(publication: Publication, plan: Plan, stored: list[Stored]) -> Draft:
    """Everything that can be said of the tree before it is anybody's. Adds what it stores to `stored`.

    Raises `ContentBlocked`, `BlobDamaged`, `QuotaExceeded`, `DiskFull`.
    """
    _store_inline(publication, plan, stored)
    blobs = {**plan.blobs, **{blob.sha256: blob for one in stored for blob in one.blobs}}
    judged = None
    try:
        inspect(publication, plan, blobs)
        reach("adapter-inspected")
        judged = checks.judge(publication.backend, publication.author, plan.files, blobs)
        if judged is not None:
            checks.admit(publication.backend, publication.repository, judged, changed=plan.added)
    except InvalidAdapter as refusal:
        return Draft(plan, stored, blobs, judged, refusal)
    return Draft(plan, stored, blobs, judged, None)


def inspect(publication: Publication, plan: Plan, blobs: Mapping[Sha256, Blob]) -> None:
    """The whole tree must be fit to be served, and what is added must follow docs/format.md.

    Raises `ContentBlocked`, `BlobDamaged`, `InvalidAdapter` and kin.
    """
    for path, file in plan.files.items():
        if file.sha256 in blobs:
            require_servable(blobs[file.sha256], path)
    contents = publication.request.contents

    def read(blob: Blob, start: int, stop: int) -> bytes:
        if blob.sha256 in contents:
            return contents[blob.sha256][start:stop]
        return read_range(publication.backend, blob, start, stop)

    check_new_files(
        {path: blobs[sha256] for path, sha256 in plan.added.items() if sha256 in blobs},
        is_adapter=CONFIG in plan.files,
        read=read,
        taken=publication.backend.settings.ordinary_files,
    )


# --- inline files -----------------------------------------------------------------------------------------------------


@contextmanager
def storing(publication: Publication) -> Iterator[list[Stored]]:
    """Inline files on their way into a commit. What is left of them at the end is given up."""
    stored: list[Stored] = []
    try:
        yield stored
    finally:
        for one in stored:
            give_up(publication.backend, one)


def _store_inline(publication: Publication, plan: Plan, stored: list[Stored]) -> None:
    """Those that are missing and that an earlier try hasn't stored."""
    contents = publication.request.contents
    missing = set(plan.missing) - {blob.sha256 for one in stored for blob in one.blobs}
    stored += stage_all(
        publication.backend,
        ((sha256, contents[sha256]) for sha256 in sorted(missing)),
        account_id=publication.account_id,
        repository_id=publication.repository.id,
    )


def keep_ahead(backend: Backend, principal: Principal, name: RepositoryName, branch: str, body: BinaryIO) -> int:
    """Keeps the inline files of a commit's body for a commit that names them by their digests; how many.

    For a push of more files than one request should bring. Raises as `authorise` and `store_all`.
    """
    contents, account_id = read_request(backend, body).contents, principal.require_account()
    with reading(backend, principal, name) as opened:
        opened.require(Action.WRITE)
        head_of(opened.session, opened.repository, branch)
        known = known_blobs(opened.session, list(contents.sizes))
        sound = {sha256 for sha256, blob in known.items() if not blob.is_damaged}
        here = leased(opened.session, account_id=account_id, repository_id=opened.id, digests=sound)
        here |= revisions.digests_in(opened.session, opened.id, sound - here)
    missing = sorted(contents.sizes.keys() - here)
    found = ((sha256, contents[sha256]) for sha256 in missing)
    store_all(backend, found, account_id=account_id, repository_id=opened.id)
    return len(contents.sizes)
