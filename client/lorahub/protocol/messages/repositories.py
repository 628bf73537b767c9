"""The life of repositories: what the Hub says of it, and what administrators do."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message, Time
from lorahub.protocol.messages.models import Quarantine

# --- the Hub's --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreatedRepository(Message):
    url: str
    name: str
    id: str


@dataclass(frozen=True, slots=True)
class RepositorySettings(Message):
    """`gated` is auto, manual or False."""

    private: bool
    gated: str | bool


@dataclass(frozen=True, slots=True)
class StorageUse(Message):
    """`storage_percent` is of what is listed with it."""

    id: str
    type: str
    updated_at: Time
    visibility: str
    storage: int
    storage_percent: float


@dataclass(frozen=True, slots=True)
class AccessAsked(Message):
    status: str


@dataclass(frozen=True, slots=True)
class Asker(Message):
    user: str
    fullname: str
    email: str | None


@dataclass(frozen=True, slots=True)
class AccessRequest(Message):
    request_id: str
    status: str
    timestamp: Time
    user: Asker


@dataclass(frozen=True, slots=True)
class LikedRepository(Message):
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Like(Message):
    created_at: Time
    repo: LikedRepository


@dataclass(frozen=True, slots=True)
class HubReference(Message):
    """A branch or a tag; `kind` is branch, tag, version or alias."""

    name: str
    ref: str
    target_commit: str
    kind: str


@dataclass(frozen=True, slots=True)
class HubReferences(Message):
    branches: tuple[HubReference, ...]
    converts: tuple[HubReference, ...]
    tags: tuple[HubReference, ...]
    pull_requests: tuple[HubReference, ...]


@dataclass(frozen=True, slots=True)
class CommitAuthor(Message):
    user: str
    avatar: str


@dataclass(frozen=True, slots=True)
class FormattedCommit(Message):
    """In HTML."""

    title: str
    message: str


@dataclass(frozen=True, slots=True)
class HubCommit(Message):
    id: str
    title: str
    message: str
    date: Time
    authors: tuple[CommitAuthor, ...]
    formatted: FormattedCommit | None = None


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TreeLargeFile(Message):
    """`oid` is the sha256 of its bytes."""

    oid: str
    size: int
    pointer_size: int


@dataclass(frozen=True, slots=True)
class LastCommit(Message):
    id: str
    title: str
    date: Time


@dataclass(frozen=True, slots=True)
class TreeEntry(Message):
    """A file or a directory; `oid` is git's."""

    type: str
    oid: str
    size: int
    path: str
    lfs: TreeLargeFile | None = None
    last_commit: LastCommit | None = None


@dataclass(frozen=True, slots=True)
class ListedLargeFile(Message):
    """`file_oid` is git's of its pointer, `oid` the sha256 of its bytes."""

    file_oid: str
    oid: str
    filename: str
    size: int
    pushed_at: Time
    ref: str | None


# --- lorahub's own ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Withdrawn(Message):
    """Whether the name is free again; it isn't where something was published under it."""

    withdrawn: bool


@dataclass(frozen=True, slots=True)
class QuarantinedRepository(Message):
    id: str
    quarantine: Quarantine | None


@dataclass(frozen=True, slots=True)
class BlockedContent(Message):
    """Nobody brings or gets these bytes any more."""

    sha256: str
    reason: str
    by: str
    at: Time
