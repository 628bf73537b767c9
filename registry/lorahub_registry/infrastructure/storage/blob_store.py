"""What any storage must do. Keys come from `object_keys`; values are opaque bytes, written once.

Every act raises `Unavailable` where the storage can't be reached or fails.

Writing is never visible half-done: an object exists with all its bytes, or not at all. Nothing here checks a digest:
the service hashes what was stored, because no storage can be trusted to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Protocol

from lorahub_registry.infrastructure.observations import Observation


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    size: int
    modified_at: datetime


class ObjectNotFound(LookupError):
    """No object has this key. Never a client's fault: keys are the server's own."""


class Addresses(Protocol):
    """What a storage with addresses of its own can do: clients read and write there, past the registry.

    Whoever has such an address can use it until its lifetime is over, so it is made for staging keys and for reading.
    """

    largest_whole_bytes: int
    """Most bytes of an object that is written in one piece."""
    smallest_part_bytes: int
    """Fewest bytes of a part, the last one excepted."""

    def to_read(self, key: str, *, filename: str, lifetime: timedelta) -> str:
        """A GET, with ranges; the answer names itself `filename`."""
        ...

    def to_write(self, key: str, *, size: int, lifetime: timedelta) -> str:
        """A PUT of exactly `size` bytes, which becomes the object `key`."""
        ...

    def to_write_parts(self, key: str, *, sizes: tuple[int, ...], lifetime: timedelta) -> tuple[str, ...]:
        """A PUT for each part. Parts that were written to `key` before and not joined yet count."""
        ...

    def parts(self, key: str) -> dict[int, int] | None:
        """Number → bytes of each part that is here; None where no parts are awaited: none was begun, or all joined."""
        ...

    def join(self, key: str) -> None:
        """The parts that are here become the object `key`. Raises `ObjectNotFound` where none are awaited."""
        ...


class BlobStore(Protocol):
    @property
    def addresses(self) -> Addresses | None:
        """None where every byte passes through the registry."""
        ...

    def writer(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A file that becomes the object `key` when the block ends, and nothing when it raises.

        Durable when the block ends; a short-lived key (`object_keys.SHORT_LIVED`) only once it is moved, as nothing is
        promised to anybody before that. Raises `DiskFull`.
        """
        ...

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        """Small objects by key, durable when it returns: several are written and waited for at once.

        Each appears whole, or not at all; where it raises, some may have. Raises `DiskFull`.
        """
        ...

    def read_all(self, sizes: Mapping[str, int]) -> Iterator[bytes]:
        """Small objects in order, several read at once; one byte more of what has more. Raises `ObjectNotFound`."""
        ...

    def require_space(self, size: int) -> None:
        """Raises `DiskFull` where so many bytes more are known not to fit."""
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

    def delete_all(self, keys: Sequence[str]) -> None:
        """As `delete`, several at once."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key starts with `prefix`, which ends in `/`."""
        ...

    def last_arrival(self, prefix: str) -> datetime | None:
        """When bytes last came for anything whose key starts with `prefix`, also for what isn't whole yet and isn't
        listed; None where nothing is there.
        """
        ...

    def abort_unfinished(self, is_known: Callable[[str, datetime], bool]) -> int:
        """Forgets writes that never ended and aren't listed, unless their key and beginning are known.

        Gives the number of those that it forgot.
        """
        ...

    def create(self) -> None:
        """Makes the folder or the bucket, where it is missing."""
        ...

    def probe(self) -> None:
        """Raises, whatever, where the storage can't be reached. Cheap: it is asked every few seconds."""
        ...

    def examine(self, folder: str) -> Iterator[Observation]:
        """Tries out what is needed and what is useful, on objects below `folder` that are gone afterwards."""
        ...
