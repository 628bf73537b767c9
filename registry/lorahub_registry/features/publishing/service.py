"""Publishing a revision, as its steps:

authorise → read the request → (is it a retry?) → lay the tree → keep inline bytes → inspect → check against the base
→ derive facts → record

The bytes of large files came before, through the uploads feature: authorise → open → receive → verify → move. Bytes
first, row last: a crash anywhere leaves bytes that nothing refers to, for the collector, and never a revision without
its bytes. What the request alone tells to be impossible is refused before any byte is kept.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from lorahub.adapters.base_model import lacks_shards
from lorahub.adapters.file_kinds import is_by_product
from lorahub.adapters.reader import CONFIG
from lorahub.errors import (
    AlreadyExists,
    BlobNotFound,
    BlobVanished,
    Conflict,
    EntryNotFound,
    IdempotencyKeyReused,
    InvalidAdapter,
    InvalidInput,
    MalformedBody,
    RevisionNotFound,
    SizeMismatch,
)
from lorahub.protocol.digests import Sha256, sha256_of
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath, check_tree

from lorahub_registry.core.accounts.permissions import Action, Principal
from lorahub_registry.core.audit.service import record_act
from lorahub_registry.core.blobs.service import (
    Blob,
    finish_brought,
    known_blobs,
    leased,
    read_blob,
    read_range,
    release_leases,
    require_servable,
    store_all,
)
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.repositories.service import (
    Repository,
    may_read_any,
    permitted,
    take_version_number,
    touch,
)
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit, NewCommit, NewFile, Reference, RevisionFile
from lorahub_registry.features.catalog.service import Facts, derive_facts, record_facts
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.checks.service import Judged
from lorahub_registry.features.publishing.commit_body import (
    DeletedFile,
    DeletedFolder,
    Header,
    InlineFile,
    Line,
    UploadedFile,
    VersionWish,
    read_inline,
    read_lines,
)
from lorahub_registry.features.publishing.gate import check_new_files
from lorahub_registry.features.publishing.ignore_rules import is_ignored, parse_rules
from lorahub_registry.features.publishing.tree import Tree
from lorahub_registry.features.references.service import LATEST, is_protected_from, point_alias
from lorahub_registry.features.statistics.service import want as want_statistics
from lorahub_registry.infrastructure import metrics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session
from lorahub_registry.infrastructure.failpoints import reach

logger = logging.getLogger("lorahub")

_TRIES = 200  # how often a commit without `parentCommit` is laid anew on a head that moved meanwhile
_SHARERS = 200  # repositories asked about before "you may not read this blob anywhere"
_MOST_LOGGED = 1000  # characters
_HISTORY = 1000  # commits searched for the one that a repeated request made

WEIGHTS = (".safetensors", ".gguf")
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


# --- what was asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Addition:
    """A file whose bytes are here, or in the request. `size` is what the client says, None where it doesn't."""

    path: FilePath
    sha256: Sha256
    size: int | None
    is_lfs: bool


Operation = Addition | DeletedFile | DeletedFolder


class InlineContents:
    """The contents of a request's inline files by digest. They stay in its body: memory holds one of them."""

    def __init__(self, body: BinaryIO) -> None:
        self._body = body
        self._starts: dict[Sha256, int] = {}
        self._last: tuple[Sha256, bytes] | None = None
        self.sizes: dict[Sha256, int] = {}

    def add(self, content: bytes, start: int) -> Sha256:
        sha256 = sha256_of(content)
        self._starts[sha256] = start
        self.sizes[sha256] = len(content)
        return sha256

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._starts

    def __getitem__(self, sha256: Sha256) -> bytes:
        if self._last is None or self._last[0] != sha256:
            self._last = (sha256, read_inline(self._body, self._starts[sha256]))
        return self._last[1]


@dataclass(slots=True)
class Request:
    """A whole commit request."""

    header: Header
    contents: InlineContents
    operations: list[Operation] = field(default_factory=list)
    version: VersionWish | None = None
    left: list[FilePath] = field(default_factory=list)
    """By-products of training, which are no part of the commit."""
    digest: str = ""
    """Of everything that decides what the commit will hold; equal for a repeated request."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the caller is told. `version` is None where the commit is none; `is_new` False where it was one before."""

    repository: Repository
    commit: Commit
    version: str | None
    aliases: list[str]
    is_new: bool
    left: Sequence[FilePath] = ()
    """Files of the request that were left out of the commit: by-products of training."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The tree that the request makes out of `head`."""

    head: Commit
    files: dict[str, NewFile]
    added: dict[str, Sha256]


@dataclass(frozen=True, slots=True)
class Derived:
    """What is recorded beside the files: the catalog's facts, of an adapter the measured ones and a verdict, and the
    version to be made.
    """

    facts: Facts
    judged: Judged | None
    version: VersionWish | None = None


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
    repository, account_id = authorise(backend, principal, name, branch)
    request = read_request(backend, body)
    if request.left:
        logger.warning("%s: by-products of training were left out: %s", name, ", ".join(request.left)[:_MOST_LOGGED])
    reach("commit-parsed")
    take_brought(backend, request, account_id=account_id, repository=repository)
    for _ in range(_TRIES):
        earlier = find_earlier(backend, repository, branch, request, idempotency_key, principal)
        if earlier is not None:
            return replace(earlier, left=request.left)
        plan = lay_tree(backend, principal, repository, branch, request)
        keep_inline(backend, request.contents, plan.added.values(), account_id=account_id, repository=repository)
        blobs = inspect(backend, request, plan)
        reach("adapter-inspected")
        judged = check_adapter(backend, principal, repository, plan, blobs)
        wish = request.version or implied_version(branch, plan, judged)
        facts = derive_facts(backend, plan.files, blobs, measured=checks.tags_of(judged) if judged else ())
        found = Derived(facts, judged, wish)
        published = record(backend, principal, repository, branch, request, plan, found, idempotency_key)
        if published is not None:
            return replace(published, left=request.left)
    raise revisions.branch_moved()


def examine(backend: Backend, principal: Principal, name: RepositoryName, branch: str, body: BinaryIO) -> Examined:
    """All of `publish` but the recording. Raises what its steps raise, but for a refused adapter."""
    repository, account_id = authorise(backend, principal, name, branch)
    request = read_request(backend, body)
    take_brought(backend, request, account_id=account_id, repository=repository)
    plan = lay_tree(backend, principal, repository, branch, request)
    keep_inline(backend, request.contents, plan.added.values(), account_id=account_id, repository=repository)
    judged = None
    try:
        blobs = inspect(backend, request, plan)
        judged = checks.judge(backend, principal, plan.files, blobs)
        if judged is not None:
            checks.admit(backend, repository, judged, changed=plan.added)
    except InvalidAdapter as refusal:
        return Examined(sorted(plan.files), request.left, judged, refusal)
    return Examined(sorted(plan.files), request.left, judged, None)


def keep_ahead(backend: Backend, principal: Principal, name: RepositoryName, branch: str, body: BinaryIO) -> int:
    """Keeps the inline files of a commit's body for a commit that names them by their digests; how many.

    For a push of more files than one request should bring. Raises as `authorise` and `store_all`.
    """
    repository, account_id = authorise(backend, principal, name, branch)
    contents = read_request(backend, body).contents
    keep_inline(backend, contents, contents.sizes, account_id=account_id, repository=repository)
    return len(contents.sizes)


def authorise(backend: Backend, principal: Principal, name: RepositoryName, branch: str) -> tuple[Repository, int]:
    """The repository and the author's id. Raises as `permitted`, and `RevisionNotFound`."""
    with backend.database.read() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        _head(session, repository, branch)
    return repository, principal.require_account()


def read_request(backend: Backend, body: BinaryIO) -> Request:
    """Reads the body line by line. Nothing is kept yet."""
    lines = read_lines(body, max_line_bytes=backend.settings.commit_line_bytes)
    first = next(lines)
    assert isinstance(first, Header)
    request = Request(first, InlineContents(body))
    for line in lines:
        _take(request, line)
    parts = [repr(request.header), *(repr(operation) for operation in request.operations), repr(request.version)]
    request.digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return request


def _take(request: Request, line: Line) -> None:
    match line:
        case InlineFile(path) | UploadedFile(path) if is_by_product(path):
            request.left.append(path)
        case InlineFile(path, content, start):
            sha256 = request.contents.add(content, start)
            request.operations.append(Addition(path, sha256, len(content), is_lfs=False))
        case UploadedFile(path, sha256, size, is_lfs):
            request.operations.append(Addition(path, sha256, size, is_lfs))
        case DeletedFile() | DeletedFolder():
            request.operations.append(line)
        case VersionWish() if request.version is None:
            request.version = line
        case _:
            raise MalformedBody("a commit has one header and at most one version")


def take_brought(backend: Backend, request: Request, *, account_id: int, repository: Repository) -> None:
    """What clients that don't call `verify` have sent to a bucket themselves."""
    if backend.blobs.addresses is None:
        return
    for one in request.operations:
        if isinstance(one, Addition) and one.is_lfs and one.size is not None:
            finish_brought(
                backend, account_id=account_id, repository_id=repository.id, sha256=one.sha256, size=one.size
            )


def find_earlier(
    backend: Backend,
    repository: Repository,
    branch: str,
    request: Request,
    idempotency_key: str | None,
    principal: Principal,
) -> Published | None:
    """What this very request made before, if it is a retry.

    A client that names an idempotency key is recognised by it; any other by the same content on the same parent.
    """
    with backend.database.read() as session:
        head = _head(session, repository, branch)
        bases = [request.header.parent] if request.header.parent else [head.id, head.parent_id]
        for base in bases:
            key = _request_key(repository, branch, request, base, idempotency_key, principal)
            commit = revisions.commit_by_request(session, repository.id, key)
            if commit is not None and (idempotency_key or _leads_to(session, head, commit)):
                _require_same_request(commit, request)
                return _published(session, repository, commit, is_new=True)
    return None


def _require_same_request(commit: Commit, request: Request) -> None:
    """Raises `IdempotencyKeyReused`: to answer with the first commit would lose what is sent now."""
    if commit.request_digest not in (None, request.digest):
        raise IdempotencyKeyReused(
            f"this Idempotency-Key has made the commit {commit.id}, of other content",
            hint="a key is for one request and its repetitions; send this one with a key of its own",
        )


def _request_key(
    repository: Repository,
    branch: str,
    request: Request,
    base: str | None,
    idempotency_key: str | None,
    principal: Principal,
) -> str:
    origin = f"key {idempotency_key}" if idempotency_key else f"{request.digest} on {base}"
    return hashlib.sha256(f"{repository.public_id}\n{branch}\n{principal.account_id}\n{origin}".encode()).hexdigest()


def _leads_to(session: Session, head: Commit, commit: Commit) -> bool:
    return any(ancestor.id == commit.id for ancestor in revisions.history(session, head, limit=_HISTORY))


def lay_tree(backend: Backend, principal: Principal, repository: Repository, branch: str, request: Request) -> Plan:
    """Applies the operations, in order, to the head's files.

    Raises `ParentMoved`, `EntryNotFound`, `BlobNotFound`, `SizeMismatch`, `InvalidPath`, `InvalidInput`.
    """
    with backend.database.read() as session:
        head = _head(session, repository, branch)
        _require_parent(head, request.header.parent)
        before = revisions.files_of(session, head.id)
        files, added = _apply(request.operations, before, head)
        _refuse_too_many(files, backend.settings.revision_files)
        check_tree(FilePath(path) for path in files)
        sizes = _owned_sizes(session, principal, repository, request, before.values())
    return Plan(
        head,
        {path: NewFile(file.sha256, sizes[file.sha256], file.is_lfs) for path, file in files.items()},
        {path: files[path].sha256 for path in added},
    )


def _refuse_too_many(paths: Iterable[str], limit: int) -> None:
    """`.gitattributes`, which every repository begins with, is beside what a folder of so many files brings."""
    count = sum(path != ".gitattributes" for path in paths)
    if count > limit:
        raise InvalidInput(f"the revision would have {count} files; at most {limit}")


def _apply(
    operations: Iterable[Operation], before: Mapping[str, RevisionFile], head: Commit
) -> tuple[dict[str, RevisionFile | Addition], set[str]]:
    """The files after the operations, and the paths of those that they add. Raises `EntryNotFound`."""
    tree, added = Tree[RevisionFile | Addition](before), set[str]()
    for operation in operations:
        match operation:
            case Addition(path):
                tree.put(path, operation)
                added.add(path)
                continue
            case DeletedFile(path):
                gone = tree.delete(path)
            case DeletedFolder(path):
                gone = tree.delete_folder(path)
        if not gone and operation.path is not None:
            raise EntryNotFound(f"A file with this name doesn't exist: {operation.path}", commit=head.id)
        added.difference_update(gone)
    return tree.files, added


def _owned_sizes(
    session: Session,
    principal: Principal,
    repository: Repository,
    request: Request,
    before: Iterable[RevisionFile],
) -> dict[Sha256, int]:
    """By digest, of what was in the tree and of all that is added, which is proved to be the principal's to use: sent
    with the request, in the tree, brought, or readable.
    """
    sizes = {file.sha256: file.size for file in before}
    additions = [operation for operation in request.operations if isinstance(operation, Addition)]
    sizes.update(request.contents.sizes)
    others = [one.sha256 for one in additions if one.sha256 not in sizes]
    blobs = known_blobs(session, others)
    usable = _usable(session, principal, repository, blobs)
    sizes.update({sha256: blobs[sha256].size for sha256 in usable})
    for addition in additions:
        size = sizes.get(addition.sha256)
        if size is None:
            raise BlobNotFound(
                f"the bytes of {addition.path} (sha256 {addition.sha256}) are not here",
                hint="upload the file before the commit names it",
                path=addition.path,
            )
        if addition.size not in (None, size):
            raise SizeMismatch(f"{addition.path} has {size} bytes, the commit says {addition.size}")
    return sizes


def _usable(session: Session, principal: Principal, repository: Repository, digests: Iterable[Sha256]) -> set[Sha256]:
    """Those that the principal has brought into the repository or may read, here or elsewhere."""
    wanted = set(digests)
    found = leased(session, account_id=principal.require_account(), repository_id=repository.id, digests=wanted)
    found |= revisions.digests_in(session, repository.id, wanted - found)
    return found | {sha256 for sha256 in wanted - found if _may_read(session, principal, sha256)}


def _may_read(session: Session, principal: Principal, sha256: Sha256) -> bool:
    return may_read_any(session, principal, revisions.repositories_with_blob(session, sha256, limit=_SHARERS))


def keep_inline(
    backend: Backend, contents: InlineContents, wanted: Iterable[Sha256], *, account_id: int, repository: Repository
) -> None:
    """Those that the repository doesn't have and the account hasn't brought into it."""
    missing = {sha256 for sha256 in wanted if sha256 in contents}
    with backend.database.read() as session:
        sound = [sha256 for sha256, blob in known_blobs(session, list(missing)).items() if not blob.is_damaged]
        missing -= leased(session, account_id=account_id, repository_id=repository.id, digests=sound)
        missing -= revisions.digests_in(session, repository.id, missing.intersection(sound))
    found = ((sha256, contents[sha256]) for sha256 in sorted(missing))
    store_all(backend, found, account_id=account_id, repository_id=repository.id)


def inspect(backend: Backend, request: Request, plan: Plan) -> dict[Sha256, Blob]:
    """The blobs of the whole tree, all fit to be served, the added ones checked against docs/format.md.

    Raises `ContentBlocked`, `BlobDamaged`, `InvalidAdapter` and kin.
    """
    with backend.database.read() as session:
        blobs = known_blobs(session, [file.sha256 for file in plan.files.values()])
    for path, file in plan.files.items():
        if file.sha256 in blobs:
            require_servable(blobs[file.sha256], path)

    def read(blob: Blob, start: int, stop: int) -> bytes:
        if blob.sha256 in request.contents:
            return request.contents[blob.sha256][start:stop]
        return read_range(backend, blob, start, stop)

    check_new_files(
        {path: blobs[sha256] for path, sha256 in plan.added.items() if sha256 in blobs},
        is_adapter=CONFIG in plan.files,
        read=read,
        taken=backend.settings.ordinary_files,
    )
    return blobs


def check_adapter(
    backend: Backend, principal: Principal, repository: Repository, plan: Plan, blobs: dict[Sha256, Blob]
) -> Judged | None:
    """The adapter against the base it names. Raises `InvalidAdapter`, `AdapterDoesNotFit` with every finding."""
    judged = checks.judge(backend, principal, plan.files, blobs)
    if judged is not None:
        checks.admit(backend, repository, judged, changed=plan.added)
    return judged


def record(
    backend: Backend,
    principal: Principal,
    repository: Repository,
    branch: str,
    request: Request,
    plan: Plan,
    found: Derived,
    idempotency_key: str | None,
) -> Published | None:
    """One short transaction makes it all visible: commit, files, branch, version, aliases, facts, audit.

    None if the branch has moved since the tree was laid and nobody named a parent: lay it again.
    """
    base = request.header.parent or plan.head.id
    key: str | None = _request_key(repository, branch, request, base, idempotency_key, principal)
    try:
        with (
            backend.database.write() as session,
            quotas.growth(
                session, backend.settings, account_id=principal.require_account(), repository_id=repository.id
            ) as room,
        ):
            reach("transaction-begun")
            reference = _branch(session, repository, branch)
            if reference.commit_id != plan.head.id:
                return None
            wish, known = found.version, _existing_version(session, repository, found.version, plan)
            if known is not None and wish is not None:
                if not wish.is_implied:
                    return _point_at_existing(session, principal, repository, wish, known)
                wish = None  # these files are the newest version already, and the commit is asked for all the same
            if key and revisions.commit_by_request(session, repository.id, key) is not None:
                key = None  # the same request once made a commit that no branch leads to any more: this is a new one
            commit = revisions.insert_commit(session, _new_commit(principal, repository, request, plan, key))
            room.occupy(plan.added.values())
            reach("commit-inserted")
            revisions.move_reference(session, reference, to=commit.id, by=principal.name)
            reach("reference-moved")
            _record_findings(session, commit, found, is_main=reference.name == "main")
            version = _make_version(session, principal, repository, wish, commit)
            aliases = _point_aliases(session, principal, repository, wish, commit.id)
            _settle(session, principal, repository, plan, commit)
            record_act(
                session,
                principal,
                "revision.publish",
                repository.full_name,
                commit=commit.id,
                digest=commit.digest,
                version=version,
                aliases=aliases,
            )
            published = _published(session, repository, commit, is_new=True)
            reach("transaction-ready")
    except revisions.IntegrityError as error:
        _require_blobs(backend, plan, error)
        return None
    reach("transaction-committed")
    metrics.PUSHES.inc()
    return published


def _record_findings(session: Session, commit: Commit, found: Derived, *, is_main: bool) -> None:
    record_facts(
        session,
        repository_id=commit.repository_id,
        commit_id=commit.id,
        facts=found.facts,
        judged=found.judged,
        is_main=is_main,
    )
    if found.judged is not None:
        checks.record(session, commit.id, found.judged)
        want_statistics(session, found.judged.digest, commit.id)


def _new_commit(
    principal: Principal, repository: Repository, request: Request, plan: Plan, key: str | None
) -> NewCommit:
    return NewCommit(
        repository_id=repository.id,
        repository_public_id=repository.public_id,
        parent=plan.head,
        files=plan.files,
        title=request.header.title,
        message=request.header.message,
        author_id=principal.require_account(),
        author=principal.name,
        request_key=key,
        request_digest=request.digest,
    )


def _settle(session: Session, principal: Principal, repository: Repository, plan: Plan, commit: Commit) -> None:
    """The leases are spent: the commit refers to the blobs now."""
    release_leases(
        session,
        account_id=principal.require_account(),
        repository_id=repository.id,
        digests=sorted(set(plan.added.values())),
    )
    touch(session, repository.id, commit.created_at)


def _require_blobs(backend: Backend, plan: Plan, error: Exception) -> None:
    """A foreign key refused: a blob was collected. A unique key refused: the same request won elsewhere; look again."""
    with backend.database.read() as session:
        here = known_blobs(session, list(plan.added.values()))
    missing = sorted(path for path, sha256 in plan.added.items() if sha256 not in here)
    if missing:
        raise BlobVanished(
            f"the bytes of {missing[0]} were collected before the commit named them",
            hint="send them again",
            paths=missing,
        ) from error


# --- versions ---------------------------------------------------------------------------------------------------------


def implied_version(branch: str, plan: Plan, judged: Judged | None) -> VersionWish | None:
    """Whoever publishes, and however: a commit on `main` that holds a whole adapter or model is the next version, and
    `latest` follows. None for what isn't whole yet: some clients send an adapter, or the shards of a model, in several
    commits.
    """
    if branch.removeprefix("refs/heads/") != "main":
        return None
    weights = [path for path in plan.files if path.endswith(WEIGHTS)]
    is_whole = judged is not None or CONFIG not in plan.files
    if not weights or not is_whole or lacks_shards(weights):
        return None
    return VersionWish(None, (LATEST,), is_implied=True)


def _existing_version(
    session: Session, repository: Repository, wish: VersionWish | None, plan: Plan
) -> Reference | None:
    """The version that already holds exactly these files: the named one, or else the newest. Raises `AlreadyExists`."""
    if wish is None:
        return None
    digest = revisions.digest_of(plan.files)
    if wish.number is not None:
        named = revisions.reference_named(session, repository.id, kind="version", name=f"v{wish.number}")
        if named is not None and not _holds(session, named, digest):
            raise AlreadyExists(
                f"{repository.full_name}@v{wish.number} exists with other files; a version never changes",
                hint="leave the version out to get the next one",
            )
        return named
    newest = [ref for ref in revisions.references_of(session, repository.id) if ref.kind == "version"][-1:]
    return newest[0] if newest and newest[0].yanked_at is None and _holds(session, newest[0], digest) else None


def _holds(session: Session, version: Reference, digest: Sha256) -> bool:
    commit = revisions.commit_by_id(session, version.repository_id, version.commit_id)
    return commit is not None and commit.digest == digest


def _point_at_existing(
    session: Session, principal: Principal, repository: Repository, wish: VersionWish, version: Reference
) -> Published:
    moved = _point_aliases(session, principal, repository, wish, version.commit_id)
    if moved:
        record_act(session, principal, "alias.move", repository.full_name, commit=version.commit_id, aliases=moved)
    commit = revisions.commit_by_id(session, repository.id, version.commit_id)
    assert commit is not None
    return _published(session, repository, commit, is_new=False)


def _make_version(
    session: Session, principal: Principal, repository: Repository, wish: VersionWish | None, commit: Commit
) -> str | None:
    """Its name, where one is wished for."""
    if wish is None:
        return None
    number = take_version_number(session, repository.id, at_least=wish.number or 0)
    if wish.number is not None and number != wish.number:
        raise Conflict(
            f"v{wish.number} is below v{number}, the next free version of {repository.full_name}; versions only go up",
            hint=f"name v{number} or higher, or leave the version out",
        )
    name = f"v{number}"
    if revisions.name_in_use(session, repository.id, kind="version", name=name):
        raise AlreadyExists(
            f"a tag of {repository.full_name} is called {name}",
            hint="delete the tag, or name a higher version",
        )
    revisions.create_reference(
        session,
        repository_id=repository.id,
        kind="version",
        name=name,
        commit_id=commit.id,
        by=principal.name,
    )
    return name


def _point_aliases(
    session: Session, principal: Principal, repository: Repository, wish: VersionWish | None, commit_id: str
) -> list[str]:
    """The aliases that did not lead there before. A protected one that nobody named stays where it is."""
    return [
        alias
        for alias in (wish.aliases if wish else ())
        if not (wish and wish.is_implied and is_protected_from(session, principal, repository, alias))
        and point_alias(session, principal, repository, alias, commit_id) is not None
    ]


def _published(session: Session, repository: Repository, commit: Commit, *, is_new: bool) -> Published:
    version = revisions.version_of(session, repository.id, commit.id)
    aliases = revisions.aliases_of(session, repository.id, commit.id)
    return Published(repository, commit, None if version is None else version.name, aliases, is_new)


# --- heads ------------------------------------------------------------------------------------------------------------


def _branch(session: Session, repository: Repository, branch: str) -> Reference:
    name = branch.removeprefix("refs/heads/")
    reference = revisions.reference_named(session, repository.id, kind="branch", name=name)
    if reference is None:
        raise RevisionNotFound(f"Invalid rev id: {branch[:200]} is no branch of {repository.full_name}")
    return reference


def _head(session: Session, repository: Repository, branch: str) -> Commit:
    reference = _branch(session, repository, branch)
    commit = revisions.commit_by_id(session, repository.id, reference.commit_id)
    assert commit is not None
    return commit


def _require_parent(head: Commit, parent: str | None) -> None:
    if parent is not None and not head.id.startswith(parent):
        raise revisions.branch_moved()


# --- preupload --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that a client is about to send."""

    path: FilePath
    size: int


@dataclass(frozen=True, slots=True)
class Advice:
    """How to send it, or not at all. `oid` is what is there now under this path, in the form that fits the mode."""

    path: str
    is_lfs: bool
    is_ignored: bool
    oid: str | None
    sha256: Sha256 | None
    """Of what is there; None also for damaged bytes, which want to be sent again."""


def advise(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    branch: str,
    candidates: Sequence[Candidate],
    *,
    git_ignore: str | None,
) -> list[Advice]:
    """Raises as `permitted`; `RevisionNotFound`; `QuotaExceeded` before a client sends what can't be kept."""
    with backend.database.read() as session:
        repository = permitted(session, principal, name, Action.WRITE)
        head = _head(session, repository, branch)
        asked = list(candidates)
        files = revisions.files_at(session, head.id, [*(one.path for one in asked), ".gitignore"])
        own = files.get(".gitignore")
        blobs = known_blobs(session, [file.sha256 for file in files.values()])
    if own and git_ignore is None:
        git_ignore = read_blob(backend, blobs[own.sha256], limit=1 << 16).decode("utf-8", "replace")
    rules = parse_rules(git_ignore or "")
    answers = []
    for candidate in asked:
        is_lfs = travels_by_upload(candidate, limit=backend.settings.inline_file_bytes)
        there = files.get(candidate.path)
        oid = None if there is None else (there.sha256 if is_lfs else there.git_sha1)
        is_left = is_by_product(candidate.path) or is_ignored(candidate.path, rules)
        is_sound = there is not None and not blobs[there.sha256].is_damaged
        answers.append(Advice(candidate.path, is_lfs, is_left, oid, there.sha256 if there and is_sound else None))
    wanted = [one.size for one, answer in zip(candidates, answers, strict=True) if not answer.is_ignored]
    with backend.database.read() as session:
        quotas.require_room_for_files(session, backend.settings, repository.namespace_id, wanted)
    return answers


def travels_by_upload(candidate: Candidate, *, limit: int) -> bool:
    """Weights, images and whatever is large; the rest fits into the commit."""
    return candidate.size > limit or (candidate.size > 0 and candidate.path.lower().endswith(WEIGHTS + _IMAGES))
