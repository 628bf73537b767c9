"""Merges that the registry makes."""

from dataclasses import dataclass
from typing import Any

from lorahub.protocol.messages.message import Time, UnderscoredMessage


@dataclass(frozen=True, slots=True)
class MergeCost(UnderscoredMessage):
    """`bytes` are written, of which `computed` are not copied; `work` is in multiplications, `memory` in bytes."""

    bytes: int
    computed: int
    work: int
    memory: int


@dataclass(frozen=True, slots=True)
class PlannedMerge(UnderscoredMessage):
    """What a recipe comes to. `files` are paths with their sizes."""

    digest: str
    files: dict[str, int]
    cost: MergeCost
    notes: tuple[str, ...]
    recipe: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MergeJob(UnderscoredMessage):
    """`status` is queued, running, publishing, done, failed or cancelled; `done` of `bytes` are written.

    `reference` is the version that was published. `note` is why it may wait for long.
    """

    id: str
    status: str
    target: str
    reference: str | None
    commit: str | None
    digest: str
    recipe: dict[str, Any]
    bytes: int
    done: int
    error: str | None
    note: str | None
    created_at: Time
    finished_at: Time | None

    @property
    def is_open(self) -> bool:
        return self.status in ("queued", "running", "publishing")
