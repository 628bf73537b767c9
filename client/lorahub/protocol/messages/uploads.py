"""The Hub's answers on the way of files into a repository: `preupload`, the Git-LFS batch, a commit."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lorahub.protocol.messages.message import Message


@dataclass(frozen=True, slots=True)
class UploadMode(Message):
    """`upload_mode` is lfs or regular; `oid` and `sha256` are those of the file that is there under this path."""

    path: str
    upload_mode: str
    should_ignore: bool
    oid: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class UploadModes(Message):
    files: tuple[UploadMode, ...]


@dataclass(frozen=True, slots=True)
class LfsAction(Message):
    """In parts, `header` has their addresses by number, their `chunk_size`, and which are `done`."""

    href: str
    header: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class LfsActions(Message):
    upload: LfsAction
    verify: LfsAction | None


@dataclass(frozen=True, slots=True)
class LfsError(Message):
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class LfsTarget(Message):
    """Without actions, the bytes are there."""

    oid: str
    size: int | None
    authenticated: bool | None
    error: LfsError | None = None
    actions: LfsActions | None = None


@dataclass(frozen=True, slots=True)
class LfsBatch(Message):
    transfer: str | None
    objects: tuple[LfsTarget, ...]


@dataclass(frozen=True, slots=True)
class SentPart(Message):
    part_number: int
    etag: str


@dataclass(frozen=True, slots=True)
class MadeCommit(Message):
    """Where a version was asked for: its name, its aliases, its digest, and whether it is new."""

    success: bool
    commit_oid: str
    commit_url: str
    hook_output: str
    version: str | None = None
    aliases: tuple[str, ...] | None = None
    digest: str | None = None
    created: bool | None = None


@dataclass(frozen=True, slots=True)
class KeptFiles(Message):
    """So many inline files are kept for a commit that names them."""

    kept: int


@dataclass(frozen=True, slots=True)
class XetToken(Message):
    """`exp` is in seconds since 1970."""

    cas_url: str
    access_token: str
    exp: int


@dataclass(frozen=True, slots=True)
class XorbGrant(Message):
    """Where the bytes are sent, and how."""

    id: str
    method: str
    url: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class XorbTaken(Message):
    __pydantic_config__: ClassVar[dict[str, Any]] = {}

    was_inserted: bool


@dataclass(frozen=True, slots=True)
class ShardTaken(Message):
    result: int
