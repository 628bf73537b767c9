"""What was asked, and by whom: a commit's body read into a request, and the publication that it is for."""

import hashlib
from dataclasses import dataclass, field
from typing import BinaryIO

from lorahub.adapters.file_kinds import is_by_product
from lorahub.errors import MalformedBody
from lorahub.protocol.digests import Sha256, sha256_of
from lorahub.protocol.paths import FilePath

from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.repositories.service import Repository
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
from lorahub_registry.infrastructure.backend import Backend


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

    @property
    def additions(self) -> list[Addition]:
        return [operation for operation in self.operations if isinstance(operation, Addition)]


@dataclass(frozen=True, slots=True)
class Publication:
    """One request to make a commit: where, by whom, and of what. The author may write there."""

    backend: Backend
    author: Principal
    repository: Repository
    branch: str
    request: Request
    key: str | None = None
    """The client's name for the request, by which it is known again."""

    @property
    def account_id(self) -> int:
        return self.author.require_account()

    @property
    def branch_name(self) -> str:
        return self.branch.removeprefix("refs/heads/")

    def key_on(self, parent: str | None) -> str:
        """What a repetition of the request on this parent has too. Without a key, it is the same content on it."""
        origin = f"key {self.key}" if self.key else f"{self.request.digest} on {parent}"
        said = f"{self.repository.public_id}\n{self.branch}\n{self.author.account_id}\n{origin}"
        return hashlib.sha256(said.encode()).hexdigest()


def read_request(backend: Backend, body: BinaryIO) -> Request:
    """Reads the body line by line. Nothing is kept yet. Raises as `read_lines`."""
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
