"""Another hub, by the Hub's protocol: what a revision of a repository holds, and its files' bytes.

The hub is as little trusted as any client: paths are checked, sizes and digests are known before the first byte, and
bytes that have others are an error. It may speak Xet to whom it likes; here it is asked for plain HTTP.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import (
    DigestMismatch,
    GatedRepository,
    InvalidName,
    RegistryFailed,
    RepositoryNotFound,
    RevisionNotFound,
    SizeMismatch,
    Unavailable,
)
from lorahub.protocol.digests import CommitId, GitSha1, Sha256, git_blob_hash, is_commit_id, parse_sha256
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath, check_tree, parse_path

from lorahub_registry.infrastructure.outbound import Outbound, OutboundAnswer

LISTING_SECONDS = 30.0
FILE_SECONDS = 60.0
LEAST_BYTES_A_SECOND = 1 << 20
MOST_WAIT = 30
"""Seconds that a transfer waits where the hub asks for patience; a longer wait ends it."""

_TRIES = 5
_REFUSALS = (401, 403, 404)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_OID = re.compile(r"[0-9a-f]{40}")
_MOST_TAGS, _MOST_TAG = 200, 300
_MOST_NAME = 64
_MOST_COMMITS = 1000


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`sha256` of a large file; of a small one the hub says git's sha1, `oid`."""

    path: FilePath
    size: int
    sha256: Sha256 | None
    oid: GitSha1 | None

    @property
    def digest(self) -> str:
        """64 digits of a large file, 40 of a small one."""
        return self.sha256 or self.oid or ""


@dataclass(frozen=True, slots=True)
class RemoteRevision:
    """`name` is how the hub spells the repository. What it says of the model is bounded, and believed for show only."""

    name: RepositoryName
    commit: CommitId
    files: tuple[RemoteFile, ...]
    etag: str | None = None
    gated: str | None = None
    modified_at: datetime | None = None
    tags: tuple[str, ...] = ()
    card: dict[str, Any] | None = None
    library_name: str | None = None
    pipeline_tag: str | None = None
    safetensors: dict[str, Any] | None = None
    config: dict[str, Any] | None = None

    @property
    def license(self) -> str | None:
        said = (self.card or {}).get("license")
        if isinstance(said, str):
            return said
        return next((tag.partition(":")[2] for tag in self.tags if tag.startswith("license:")), None)


@dataclass(frozen=True, slots=True)
class RemoteName:
    """A branch or a tag."""

    kind: str
    name: str
    commit: CommitId


@dataclass(frozen=True, slots=True)
class RemoteCommit:
    id: CommitId
    title: str
    message: str
    author: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RemoteHub:
    outbound: Outbound
    endpoint: str
    token: str | None = field(repr=False)

    # --- what there is ------------------------------------------------------------------------------------------------

    def revision(
        self, source: str, revision: str, *, most_bytes: int, etag: str | None = None
    ) -> RemoteRevision | None:
        """What it is now; None where that is what had this tag.

        Raises `RepositoryNotFound`, `RevisionNotFound`, `NotSupported`, `NotPermitted`, `Unavailable`,
        `RegistryFailed`, `InvalidPath`.
        """
        address = f"{self.endpoint}/api/models/{source}/revision/{quote(revision, safe='')}?blobs=true"
        headers = {"If-None-Match": etag} if etag else {}
        with self._document(address, source, most_bytes, headers, statuses=(200, 304)) as answer:
            if answer.status == 304:
                return None
            said = answer.header("etag")
            info = parse_json(b"".join(answer.pieces()), error=RegistryFailed)
        return _revision(info, source, self.endpoint, said if said and len(said) <= 200 else None)

    def names(self, source: str, *, most_bytes: int) -> list[RemoteName]:
        """Its branches and tags. Raises as `revision`."""
        address = f"{self.endpoint}/api/models/{source}/refs"
        with self._document(address, source, most_bytes) as answer:
            said = parse_json(b"".join(answer.pieces()), error=RegistryFailed)
        found = []
        for kind, place in (("branch", "branches"), ("tag", "tags")):
            for entry in _rows(said.get(place) if isinstance(said, dict) else None):
                match entry:
                    case {"name": str() as name, "targetCommit": str() as commit} if is_commit_id(commit):
                        found.append(RemoteName(kind, name[:128], CommitId(commit)))
        return found

    def commits(self, source: str, revision: str, *, most_bytes: int) -> list[RemoteCommit]:
        """Its newest ones, newest first. Raises as `revision`."""
        address = f"{self.endpoint}/api/models/{source}/commits/{quote(revision, safe='')}"
        with self._document(address, source, most_bytes) as answer:
            said = parse_json(b"".join(answer.pieces()), error=RegistryFailed)
        return [commit for entry in _rows(said) if (commit := _commit(entry)) is not None]

    @contextmanager
    def _document(
        self,
        address: str,
        source: str,
        most_bytes: int,
        headers: Mapping[str, str] = {},
        statuses: tuple[int, ...] = (200,),
    ) -> Iterator[OutboundAnswer]:
        with self.outbound.get(
            address,
            most_bytes=most_bytes,
            seconds=LISTING_SECONDS,
            token=self.token,
            headers=headers,
            statuses=(*statuses, *_REFUSALS),
        ) as answer:
            if answer.status in _REFUSALS:
                if answer.header("x-error-code") == "RevisionNotFound":
                    raise RevisionNotFound(f"Invalid rev id: {self.endpoint} has no such revision of {source}")
                raise RepositoryNotFound(f"Repository not found: {source}; {self.endpoint} answers {answer.status}")
            yield answer

    # --- its bytes ----------------------------------------------------------------------------------------------------

    def stream(
        self,
        source: str,
        commit: str,
        file: RemoteFile,
        *,
        start: int = 0,
        go_on: Callable[[], None] = lambda: None,
    ) -> Iterator[bytes]:
        """Its bytes at that very commit from `start` on, gone on with where a connection breaks; unverified.

        Raises `NotSupported`, `NotPermitted`, `GatedRepository`, `Unavailable`, `SizeMismatch`.
        """
        end = time.monotonic() + FILE_SECONDS + file.size / LEAST_BYTES_A_SECOND
        tries = 0
        while start < file.size:
            before, fault = start, Unavailable(f"{file.path}: fewer bytes came than the {file.size} announced")
            try:
                for piece in self.range(source, commit, file, start, file.size, seconds=end - time.monotonic()):
                    go_on()
                    start += len(piece)
                    yield piece
            except Unavailable as error:
                fault = error
            if start < file.size:
                tries = 1 if start > before else tries + 1
                _require_another(fault, tries, end)
                time.sleep(fault.facts.get("retry_after", 0.2 * 2 ** (tries - 1)))

    def range(
        self, source: str, commit: str, file: RemoteFile, start: int, stop: int, *, seconds: float
    ) -> Iterator[bytes]:
        """The bytes `[start, stop)`, or fewer where a connection ends; unverified. Raises as `stream`."""
        address = f"{self.endpoint}/{source}/resolve/{commit}/{quote(file.path)}"
        is_part = (start, stop) != (0, file.size)
        headers = {"Range": f"bytes={start}-{stop - 1}"} if is_part else {}
        with self.outbound.get(
            address,
            most_bytes=file.size + 1,
            seconds=max(seconds, 0.001),
            token=self.token,
            headers=headers,
            statuses=(200, 206, *_REFUSALS),
        ) as answer:
            self._require_readable(answer, source)
            yield from _between(answer, file, start if is_part else 0, start, stop)

    def _require_readable(self, answer: OutboundAnswer, source: str) -> None:
        if answer.status == 404:
            raise RegistryFailed(f"{self.endpoint} lists a file of {source}, and answers 404 for it", status=404)
        if answer.status in _REFUSALS:
            raise GatedRepository(
                f"{self.endpoint} gives nobody the files of {source} without access; it answers {answer.status}",
                hint="the registry's operator gives it a token that has access: lorahub admin upstream token",
            )


def _require_another(error: Unavailable, tries: int, end: float) -> None:
    """Raises it where asking again is of no use."""
    status = error.facts.get("status")
    is_passing = status is None or status in _PASSING
    wait = error.facts.get("retry_after", 0)
    if not is_passing or tries >= _TRIES or wait > MOST_WAIT or time.monotonic() + wait >= end:
        raise error


def _between(answer: OutboundAnswer, file: RemoteFile, asked: int, start: int, stop: int) -> Iterator[bytes]:
    """Of an answer that begins at `asked`, or at 0 where the range was ignored, the bytes from `start` to `stop`."""
    at = asked if answer.status == 206 else 0
    if answer.status == 206 and not (answer.header("content-range") or "").startswith(f"bytes {asked}-"):
        raise Unavailable(f"{file.path}: the hub sends another range than it was asked for", status=206)
    for piece in answer.pieces():
        wanted = piece[max(start - at, 0) : max(stop - at, 0)]
        at += len(piece)
        if at > file.size:
            raise SizeMismatch(f"{file.path}: more bytes come than the {file.size} that were announced")
        if wanted:
            yield wanted
        if at >= stop and stop < file.size:
            return


class Digester:
    """Hashes a file as it comes, and says at its end whether it is the one that was announced."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._sha1 = None if file.sha256 else git_blob_hash(file.size)
        self._received = 0

    def feed(self, piece: bytes) -> None:
        self._received += len(piece)
        self._sha256.update(piece)
        if self._sha1 is not None:
            self._sha1.update(piece)

    def finish(self) -> Sha256:
        """Raises `SizeMismatch`, `DigestMismatch`."""
        file = self._file
        if self._received != file.size:
            raise SizeMismatch(f"{file.path}: {self._received} bytes came, {file.size} were announced")
        found = (self._sha1 or self._sha256).hexdigest()
        if found != file.digest:
            raise DigestMismatch(f"{file.path}: the hub sent {found}, and says {file.digest}")
        return Sha256(self._sha256.hexdigest())


def verified(file: RemoteFile, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes; at their end raises `SizeMismatch`, `DigestMismatch`."""
    digester = Digester(file)
    for piece in pieces:
        digester.feed(piece)
        yield piece
    digester.finish()


# --- what it says -----------------------------------------------------------------------------------------------------


def _revision(info: Any, source: str, endpoint: str, etag: str | None) -> RemoteRevision:
    """Raises `RegistryFailed`, `InvalidPath`."""
    said = info if isinstance(info, dict) else {}
    commit, siblings = said.get("sha"), said.get("siblings")
    if not isinstance(commit, str) or not is_commit_id(commit) or not isinstance(siblings, list):
        raise RegistryFailed(f"the answer of {endpoint} about {source} lists no files of a commit")
    files = tuple(_file(entry, source) for entry in siblings)
    check_tree(file.path for file in files)
    card = said.get("cardData")
    return RemoteRevision(
        name=_name(said.get("id"), source),
        commit=CommitId(commit),
        files=files,
        etag=etag,
        gated="manual" if said.get("gated") == "manual" else "auto" if said.get("gated") else None,
        modified_at=_time(said.get("lastModified")),
        tags=tuple(dict.fromkeys(tag[:_MOST_TAG] for tag in _rows(said.get("tags")) if isinstance(tag, str)))[
            :_MOST_TAGS
        ],
        card=card if isinstance(card, dict) else None,
        library_name=_text(said.get("library_name")),
        pipeline_tag=_text(said.get("pipeline_tag")),
        safetensors=_parameters(said.get("safetensors")),
        config=said["config"] if isinstance(said.get("config"), dict) else None,
    )


def _name(said: Any, source: str) -> RepositoryName:
    try:
        return RepositoryName.parse(said if isinstance(said, str) else source)
    except InvalidName:
        return RepositoryName.parse(source)


def _file(entry: Any, source: str) -> RemoteFile:
    match entry:
        case {"rfilename": str() as path, "size": int() as size, "lfs": {"sha256": str() as sha256}} if size >= 0:
            return RemoteFile(parse_path(path), size, parse_sha256(sha256), None)
        case {"rfilename": str() as path, "size": int() as size, "blobId": str() as oid} if size >= 0:
            if _OID.fullmatch(oid):
                return RemoteFile(parse_path(path), size, None, GitSha1(oid))
    raise RegistryFailed(f"a file of {source} is listed without its size and digest")


def _commit(entry: Any) -> RemoteCommit | None:
    match entry:
        case {"id": str() as commit, "title": str() as title, "date": str() as date} if is_commit_id(commit):
            at = _time(date)
            message = entry.get("message")
            first: Any = next(iter(_rows(entry.get("authors"))), {})
            author = first.get("user") if isinstance(first, dict) else None
            if at is not None:
                said = message[:2000] if isinstance(message, str) else ""
                return RemoteCommit(CommitId(commit), title[:300], said, _text(author) or "", at)
    return None


def _rows(value: Any) -> list[Any]:
    return value[:_MOST_COMMITS] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value[:_MOST_NAME] if isinstance(value, str) else None


def _time(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _parameters(value: Any) -> dict[str, Any] | None:
    """`{"parameters": {dtype: count}, "total": count}`."""
    match value:
        case {"parameters": dict() as parameters, "total": int() as total}:
            counts = {str(kind)[:16]: count for kind, count in parameters.items() if isinstance(count, int)}
            return {"parameters": dict(list(counts.items())[:32]), "total": total}
    return None
