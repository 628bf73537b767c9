"""What a worker computes of the weights of adapters."""

from dataclasses import dataclass
from typing import Any

from lorahub.protocol.messages.message import Message


@dataclass(frozen=True, slots=True)
class Statistics(Message):
    """`status` is wanted, done or failed; done, `statistics` has ‖ΔW‖ and singular values by module and layer.

    `reason` is why it failed, `note` why it may wait for long.
    """

    status: str
    reason: str | None
    note: str | None
    statistics: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Overlap(Message):
    """`status` is none, wanted, done or failed; done, `overlap` says how alike two adapters are."""

    status: str
    reason: str | None
    note: str | None
    overlap: dict[str, Any] | None
