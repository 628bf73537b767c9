"""What a repository keeps."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message


@dataclass(frozen=True, slots=True)
class Retention(Message):
    """It `keeps` so many versions, None for all; `drops` are those that the next collection lets go of."""

    keep: int | None
    drops: tuple[str, ...]
