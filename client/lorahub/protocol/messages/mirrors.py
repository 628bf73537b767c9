"""Mirrors of other hubs' repositories."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message, Time


@dataclass(frozen=True, slots=True)
class Mirror(Message):
    """A repository, `target`, that follows one of another hub; `commit` is the one that is here, as `version`."""

    id: int
    target: str
    endpoint: str
    repository: str
    revision: str
    private: bool
    created_at: Time
    waiting: bool
    note: str | None
    """Why it may wait for long."""
    checked_at: Time | None
    commit: str | None
    version: str | None
    error: str | None
    has_token: bool
    """For the hub; it is never shown."""
    paused: bool
    failures: int
    """Of the last runs, one after the other."""
    next_try_at: Time | None
