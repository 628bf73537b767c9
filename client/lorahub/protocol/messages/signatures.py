"""The signature of a revision."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message


@dataclass(frozen=True, slots=True)
class StatedSignature(Message):
    """`key` and what is covered are what the signature says; that the key made it, `lorahub verify --key` proves.

    `fault` is why it is none. `differing` are paths that it says something else of.
    """

    signed: bool
    key: str | None
    covers_files: bool
    differing: tuple[str, ...]
    fault: str | None
