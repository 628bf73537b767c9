"""What happened in a registry: the one feed that followers, webhooks and other registries read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorahub.protocol.messages.message import Message, Time

KINDS: Mapping[str, str] = {
    "repository.created": "`private`",
    "repository.renamed": "`from`; the event's `name` is the new one",
    "repository.changed": "what changed of `private`, `gated`, `quarantined`",
    "repository.deleted": "",
    "version.published": "`version`, `commit`",
    "version.dropped": "`version`, `commit`; the repository keeps fewer",
    "version.yanked": "`version`, `commit`, `reason`",
    "version.unyanked": "`version`, `commit`",
    "alias.moved": "`alias`, `from`, `to`: commits; null where it was made or is gone",
    "branch.moved": "`branch`, `from`, `to`, as with an alias; a commit is such a move",
    "tag.moved": "`tag`, `from`, `to`, as with an alias",
    "check.changed": "`base`, `revision`, `version`, `commit`, `from`, `to`: verdicts before and against the new base",
    "base.registered": "`revision`, `layout`, `weights`; the event's `name` is the base's",
    "merge.finished": "`job`, `commit`, `version`",
    "merge.failed": "`job`, `error`",
    "access.asked": "`user`, `status`",
    "access.decided": "`user`, `status`",
}
"""Every kind there is, and the fields of its `data`."""


@dataclass(frozen=True, slots=True)
class Event(Message):
    """One thing that happened. Numbers only grow, and whoever has seen one never misses a smaller."""

    number: int
    kind: str
    at: Time
    name: str
    """Of the repository, or of the base, as it was then."""
    repository: str | None
    """An id that stays when the repository is renamed; null where it is a base."""
    by: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventPage(Message):
    """`next` is what to ask `after` next time."""

    events: list[Event]
    next: int
