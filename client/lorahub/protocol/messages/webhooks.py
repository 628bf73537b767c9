"""Addresses that a registry tells what happens."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message, Time

WATCHED = ("repository", "namespace", "base", "registry")


@dataclass(frozen=True, slots=True)
class Watched(Message):
    """`type` is one of `WATCHED`; the registry as a whole has no name."""

    type: str
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> "Watched":
        """`repository:acme/sql`, `namespace:acme`, `base:acme/llama`, `registry`; without a type by its form.

        >>> [str(Watched.parse(text)) for text in ("acme/sql", "acme", "base:gpt2", "registry")]
        ['repository:acme/sql', 'namespace:acme', 'base:gpt2', 'registry']
        """
        kind, has_type, name = text.partition(":")
        if has_type or text == "registry":
            return cls(kind, name)
        return cls("repository" if "/" in text else "namespace", text)

    def __str__(self) -> str:
        return f"{self.type}:{self.name}" if self.name else self.type


@dataclass(frozen=True, slots=True)
class Webhook(Message):
    """One address. `secret` is said once: when it was made, or replaced."""

    id: str
    url: str
    by: str
    watched: list[Watched]
    kinds: list[str]
    created_at: Time
    delivered_at: Time | None
    paused: bool
    reason: str | None
    """Why it was paused, where nobody did it."""
    waiting: int
    """Messages that are to be sent."""
    note: str | None = None
    """Why they may wait for long."""
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery(Message):
    """One message: `wanted`, `delivered`, `failed` after its last try, or `withheld` from who may not see it now."""

    id: int
    event: int | None
    """Its number; null where somebody tries the address."""
    kind: str
    name: str
    status: str
    attempts: int
    created_at: Time
    tried_at: Time | None
    next_try_at: Time | None
    answer: int | None
    said: str | None
    milliseconds: int | None


@dataclass(frozen=True, slots=True)
class HubWebhook(Message):
    """One address as the Hub's clients read it: what it watches are models, users and orgs. Its secret isn't said."""

    id: str
    url: str
    job: str | None
    watched: list[Watched]
    domains: list[str]
    secret: str | None
    disabled: bool


@dataclass(frozen=True, slots=True)
class HubWebhookAnswer(Message):
    webhook: HubWebhook
