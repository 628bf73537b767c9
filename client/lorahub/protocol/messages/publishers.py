"""Trusted publishers, and the exchange of identity tokens."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message, Time


@dataclass(frozen=True, slots=True)
class Publisher(Message):
    """A CI job that a repository trusts: what its identity token says, and in whose name it publishes."""

    id: int
    issuer: str
    claims: dict[str, str]
    added_by: str
    created_at: Time


@dataclass(frozen=True, slots=True)
class Audience(Message):
    """What an identity token has to be made for."""

    audience: str


@dataclass(frozen=True, slots=True)
class PublisherToken(Message):
    """It writes to the repository for some minutes."""

    token: str
    repository: str
    expires_at: Time
