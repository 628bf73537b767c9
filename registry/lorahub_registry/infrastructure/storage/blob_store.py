"""What any storage must do. Keys come from `object_keys`; values are opaque bytes, written once.

Every act raises `Unavailable` where the storage can't be reached or fails.

Writing is never visible half-done: an object exists with all its bytes, or not at all. Nothing here checks a digest:
the service hashes what was stored, because no storage can be trusted to.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    size: int
    modified_at: datetime


class ObjectNotFound(LookupError):
    """No object has this key. Never a client's fault: keys are the server's own."""


class BlobStore(Protocol):
    def writer(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A file that becomes the object `key` when the block ends, and nothing when it raises.

        Not durable until it was moved, and nothing is promised to anybody before that. Raises `DiskFull`.
        """
        ...

    def open_range(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes `[start, stop)` in pieces of at most 1 MiB. Raises `ObjectNotFound` before the first piece."""
        ...

    def size(self, key: str) -> int | None:
        """Bytes, or None where there is no such object."""
        ...

    def move(self, key: str, to: str) -> None:
        """Durable when it returns. Repeating a move that happened is no fault. Raises `ObjectNotFound`."""
        ...

    def join(self, keys: Sequence[str], to: str) -> None:
        """One object `to` of the bytes of all `keys`, in order. The parts stay. Raises `ObjectNotFound`, `DiskFull`."""
        ...

    def delete(self, key: str) -> None:
        """Deleting what isn't there is no fault."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, which ends in `/`."""
        ...

    def abort_unfinished(self, *, older_than: datetime) -> int:
        """Forgets writes that were begun before `older_than`, never ended, and aren't listed; how many."""
        ...

    def probe(self) -> None:
        """Raises, whatever, where the storage can't be reached. Cheap: it is asked every few seconds."""
        ...
