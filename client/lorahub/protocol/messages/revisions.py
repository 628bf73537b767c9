"""Revisions, versions and aliases."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message, Time


@dataclass(frozen=True, slots=True)
class Yank(Message):
    reason: str
    at: Time
    by: str


@dataclass(frozen=True, slots=True)
class StoredFile(Message):
    path: str
    size: int
    sha256: str
    lfs: bool


@dataclass(frozen=True, slots=True)
class Origin(Message):
    """The commit of another hub that a mirror brought."""

    endpoint: str
    repository: str
    commit: str


@dataclass(frozen=True, slots=True)
class StoredRevision(Message):
    """`revision` is what was asked for."""

    id: str
    revision: str | None
    commit: str
    digest: str
    version: str | None
    aliases: tuple[str, ...]
    yanked: Yank | None
    created_at: Time
    author: str
    message: str
    origin: Origin | None
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class Version(Message):
    """`size` is that of all its files, in bytes."""

    name: str
    commit: str
    digest: str
    created_at: Time
    author: str
    message: str
    size: int
    aliases: tuple[str, ...]
    yanked: Yank | None


@dataclass(frozen=True, slots=True)
class Alias(Message):
    name: str
    version: str | None
    commit: str
    protected: bool
    updated_at: Time


@dataclass(frozen=True, slots=True)
class ReferenceMove(Message):
    """A branch, a tag or an alias came to lead elsewhere: `from_` one commit `to` another, None where it wasn't or
    isn't there.
    """

    kind: str
    name: str
    from_: str | None
    to: str | None
    by: str
    at: Time
