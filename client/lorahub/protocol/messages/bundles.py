"""Bundles of repositories."""

from dataclasses import dataclass
from typing import Any

from lorahub.protocol.messages.message import Message, UnderscoredMessage


@dataclass(frozen=True, slots=True)
class TakenRepository(Message):
    """So many commits and names were new."""

    id: str
    commits: int
    references: int


@dataclass(frozen=True, slots=True)
class TakenBundle(Message):
    """`bundle` is its digest."""

    bundle: str
    signed: bool
    repositories: tuple[TakenRepository, ...]


# --- records, which `protocol.records` reads and proves ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommitRecord(UnderscoredMessage):
    """Each of the `files` is its path, its size, its sha256, and whether it is an LFS file."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    created_at: str
    request_key: str | None
    files: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class ReferenceRecord(UnderscoredMessage):
    """`kind` is branch, tag, version or alias; `yanked` why it was."""

    kind: str
    name: str
    commit: str
    message: str
    protected: bool
    yanked: str | None


@dataclass(frozen=True, slots=True)
class RepositoryRecord(UnderscoredMessage):
    """Parents come before their children."""

    name: str
    public_id: str
    private: bool
    commits: tuple[CommitRecord, ...]
    references: tuple[ReferenceRecord, ...]
