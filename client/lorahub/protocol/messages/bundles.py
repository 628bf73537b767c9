"""Bundles of repositories."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message


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
