"""Shards: which chunks of which xorbs make up which file. Entries of 48 bytes, little endian, one after another."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lorahub.errors import MalformedBody
from lorahub.protocol.digests import Sha256

ENTRY_BYTES = 48
MAX_FILES = 100_000
MAX_SEGMENTS = 1_000_000
"""Of one shard, over all its files: 48 MB of entries."""

_TAG = b"HFRepoMetaData"
_VERSION = 2
_END = b"\xff" * 32
_HAS_VERIFICATION = 1 << 31
_HAS_SHA256 = 1 << 30


@dataclass(frozen=True, slots=True)
class Segment:
    """Chunks `[first, end)` of one xorb; `size` is their uncompressed bytes."""

    xorb: str
    size: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    segments: tuple[Segment, ...]
    sha256: Sha256 | None

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)


def hash_text(raw: bytes) -> str:
    """A 32-byte hash as clients write it: four little-endian words of 64 bits, each in hex."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def read_files(shard: BinaryIO) -> Iterator[ShardFile]:
    """The files of a shard, one at a time; what comes after them is not needed. Raises `MalformedBody`."""
    tag, version, _ = struct.unpack("<32sQQ", _entry(shard))
    if not tag.startswith(_TAG) or version != _VERSION:
        raise MalformedBody(f"this is no shard of version {_VERSION}")
    segments = 0
    for count in range(MAX_FILES + 1):
        file_hash, flags, length, _ = struct.unpack("<32sIIQ", _entry(shard))
        if file_hash == _END:
            return
        segments += length
        if count == MAX_FILES or segments > MAX_SEGMENTS:
            raise MalformedBody(f"the shard has more than {MAX_FILES} files or {MAX_SEGMENTS} segments")
        yield _file(shard, flags, length)


def _file(shard: BinaryIO, flags: int, length: int) -> ShardFile:
    segments = tuple(_segment(_entry(shard)) for _ in range(length))
    if flags & _HAS_VERIFICATION:
        for _ in range(length):
            _entry(shard)
    sha256 = Sha256(hash_text(_entry(shard)[:32])) if flags & _HAS_SHA256 else None
    return ShardFile(segments, sha256)


def _segment(entry: bytes) -> Segment:
    xorb, _, size, first, end = struct.unpack("<32sIIII", entry)
    if first >= end:
        raise MalformedBody(f"a segment of the shard has the chunks {first} to {end}")
    return Segment(hash_text(xorb), size, first, end)


def _entry(shard: BinaryIO) -> bytes:
    entry = shard.read(ENTRY_BYTES)
    if len(entry) < ENTRY_BYTES:
        raise MalformedBody("the shard ends inside its list of files")
    return entry
