"""Shards: which chunks of which xorbs make up which file. Entries of 48 bytes, little endian, one after another.

A shard is read where it lies, a page of entries at a time: it may have a million, and memory never holds them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from lorahub.errors import MalformedBody
from lorahub.protocol.digests import Sha256

ENTRY_BYTES = 48
MAX_FILES = 100_000
MAX_SEGMENTS = 1_000_000
"""Of one shard, over all its files: 48 MB of entries."""
LEAST_WORK_BYTES = 256 << 10
"""What a segment costs at least, however few bytes it has: it is a read of its own. Clients make them longer."""

_TAG = b"HFRepoMetaData"
_VERSION = 2
_END = b"\xff" * 32
_HAS_VERIFICATION = 1 << 31
_HAS_SHA256 = 1 << 30
_PAGE = 4096
_SEGMENT = np.dtype([("xorb", "V32"), ("flags", "<u4"), ("size", "<u4"), ("first", "<u4"), ("end", "<u4")])

Page = np.ndarray[Any, Any]
"""Up to 4096 segments as they lie in the shard."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Chunks `[first, end)` of one xorb; `size` is their uncompressed bytes."""

    xorb: str
    size: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """`size` is what it will have, `work` what making it costs, both in bytes."""

    shard: BinaryIO
    first_entry: int
    """Where its segments begin in the shard, in bytes."""
    count: int
    size: int
    work: int
    sha256: Sha256 | None

    def segments(self) -> Iterator[Segment]:
        for page in _pages(self.shard, self.first_entry, self.count):
            for xorb, _, size, first, end in page.tolist():
                yield Segment(hash_text(xorb), size, first, end)

    def xorbs(self) -> Iterator[bytes]:
        """Their hashes as they lie in the shard, some more than once; `hash_text` writes them as names."""
        for page in _pages(self.shard, self.first_entry, self.count):
            yield from set(page["xorb"].tolist())


def hash_text(raw: bytes) -> str:
    """A 32-byte hash as clients write it: four little-endian words of 64 bits, each in hex."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def read_files(shard: BinaryIO) -> Iterator[ShardFile]:
    """The files of a shard, one at a time; what comes after them is not needed. Raises `MalformedBody`."""
    tag, version, _ = struct.unpack("<32sQQ", _entry(shard, 0))
    if not tag.startswith(_TAG) or version != _VERSION:
        raise MalformedBody(f"this is no shard of version {_VERSION}")
    at, segments = ENTRY_BYTES, 0
    for count in range(MAX_FILES + 1):
        file_hash, flags, length, _ = struct.unpack("<32sIIQ", _entry(shard, at))
        if file_hash == _END:
            return
        segments += length
        if count == MAX_FILES or segments > MAX_SEGMENTS:
            raise MalformedBody(f"the shard has more than {MAX_FILES} files or {MAX_SEGMENTS} segments")
        first = at + ENTRY_BYTES
        at = first + length * ENTRY_BYTES * (2 if flags & _HAS_VERIFICATION else 1)
        sha256 = None
        if flags & _HAS_SHA256:
            sha256, at = Sha256(hash_text(_entry(shard, at)[:32])), at + ENTRY_BYTES
        size = work = 0
        for page in _pages(shard, first, length):
            size += int(page["size"].sum(dtype=np.uint64))
            work += int(np.maximum(page["size"], LEAST_WORK_BYTES).sum(dtype=np.uint64))
        yield ShardFile(shard, first, length, size, work, sha256)


def _pages(shard: BinaryIO, start: int, count: int) -> Iterator[Page]:
    for done in range(0, count, _PAGE):
        wanted = min(_PAGE, count - done) * ENTRY_BYTES
        shard.seek(start + done * ENTRY_BYTES)
        entries = shard.read(wanted)
        if len(entries) < wanted:
            raise _cut_short()
        page = np.frombuffer(entries, _SEGMENT)
        if (page["first"] >= page["end"]).any():
            raise MalformedBody("a segment of the shard ends before it begins")
        yield page


def _entry(shard: BinaryIO, at: int) -> bytes:
    shard.seek(at)
    entry = shard.read(ENTRY_BYTES)
    if len(entry) < ENTRY_BYTES:
        raise _cut_short()
    return entry


def _cut_short() -> MalformedBody:
    return MalformedBody("the shard ends inside its list of files")
