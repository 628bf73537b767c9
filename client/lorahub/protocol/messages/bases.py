"""Base models."""

from dataclasses import dataclass
from typing import Any

from lorahub.protocol.messages.message import Message, Time, UnderscoredMessage


@dataclass(frozen=True, slots=True)
class KnownBase(UnderscoredMessage):
    """A registered base, without its layout. `files` have the digests of the weights, where they are known."""

    name: str
    revision: str | None
    layout_digest: str
    weights_digest: str | None
    architecture: str | None
    parameters: int
    tensors: int
    files: dict[str, str]
    added_by: str
    added_at: Time


@dataclass(frozen=True, slots=True)
class CountedBase(KnownBase):
    """`adapters` name this base, among those that the asker may see."""

    adapters: int


@dataclass(frozen=True, slots=True)
class BaseDocument(UnderscoredMessage):
    """A base with its `layout`, the canonical text of docs/format.md. `registered` or read from a repository."""

    names: tuple[str, ...]
    revision: str | None
    layout: str
    layout_digest: str | None
    weights_digest: str | None
    architecture: str | None
    parameters: int
    files: dict[str, str]
    config: dict[str, Any]
    registered: bool


@dataclass(frozen=True, slots=True)
class AdapterOfBase(Message):
    """The newest version of an adapter that names a base."""

    reference: str
    commit: str
    private: bool
