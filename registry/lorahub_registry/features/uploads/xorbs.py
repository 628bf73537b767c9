"""Xorbs: the chunks that Xet clients upload. A sequence of frames, each an 8-byte header and a compressed chunk.

Header: version u8 (0), compressed length u24, scheme u8, uncompressed length u24, little endian. Schemes: 0 as it is,
1 an LZ4 frame, 2 an LZ4 frame of bytes grouped by their position modulo 4. A footer, if any, begins with `XETBLOB`.
Every bound is enforced before anything is decompressed.
"""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import lz4.frame
from lorahub.errors import MalformedBody

MAX_CHUNK_BYTES = 128 << 10
MAX_CHUNKS = 8192
FRAME_HEADER_BYTES = 8
MAX_XORB_BYTES = (64 << 20) + MAX_CHUNKS * (FRAME_HEADER_BYTES + 32) + (1 << 20)
"""64 MiB of chunks, a header for each, room for what LZ4 adds to what it can't compress, and a footer."""

_FOOTER = b"XETBLOB"

Open = Callable[[int, int], Iterator[bytes]]
"""The bytes `[start, stop)` of one stored xorb, in pieces."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a compressed chunk lies in its xorb, in bytes, and how to read it."""

    start: int
    stop: int
    scheme: int
    unpacked: int


class Index:
    """The frames of one xorb, in 13 bytes each: a long upload has many xorbs at hand."""

    def __init__(self) -> None:
        self._starts, self._stops, self._unpacked = array("I"), array("I"), array("I")
        self._schemes = bytearray()

    def __len__(self) -> int:
        return len(self._schemes)

    def append(self, frame: Frame) -> None:
        self._starts.append(frame.start)
        self._stops.append(frame.stop)
        self._unpacked.append(frame.unpacked)
        self._schemes.append(frame.scheme)

    def frames(self, first: int, end: int) -> list[Frame]:
        which = slice(first, end)
        columns = (self._starts[which], self._stops[which], self._schemes[which], self._unpacked[which])
        return [Frame(*values) for values in zip(*columns, strict=True)]


def read_index(read: Open, size: int) -> Index:
    """Of a xorb of `size` bytes, by one pass over it. Raises `MalformedBody`."""
    index = Index()
    source = _Window(read(0, size))
    position = 0
    while position < size:
        header = source.take(min(FRAME_HEADER_BYTES, size - position))
        if header.startswith(_FOOTER):
            break
        frame = _frame(header, position + FRAME_HEADER_BYTES, size)
        if len(index) == MAX_CHUNKS:
            raise MalformedBody(f"the xorb has more than {MAX_CHUNKS} chunks")
        index.append(frame)
        source.skip(frame.stop - frame.start)
        position = frame.stop
    return index


def _frame(header: bytes, start: int, size: int) -> Frame:
    if len(header) < FRAME_HEADER_BYTES:
        raise MalformedBody("the xorb ends inside a chunk header")
    version, scheme = header[0], header[4]
    packed, unpacked = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
    if version != 0 or scheme > 2:
        raise MalformedBody(f"a chunk of the xorb has version {version} and scheme {scheme}; known are 0 and 0 to 2")
    if not 0 < unpacked <= MAX_CHUNK_BYTES or packed > 2 * MAX_CHUNK_BYTES:
        raise MalformedBody(f"a chunk of the xorb has {unpacked} bytes; at most {MAX_CHUNK_BYTES} are taken")
    if start + packed > size:
        raise MalformedBody("the xorb ends inside a chunk")
    return Frame(start, start + packed, scheme, unpacked)


def read_chunks(read: Open, frames: list[Frame]) -> Iterator[bytes]:
    """The uncompressed chunks of adjacent frames, one at a time. Raises `MalformedBody`."""
    if not frames:
        return
    source = _Window(read(frames[0].start, frames[-1].stop))
    position = frames[0].start
    for frame in frames:
        source.skip(frame.start - position)
        yield _unpack(frame, source.take(frame.stop - frame.start))
        position = frame.stop


def _unpack(frame: Frame, packed: bytes) -> bytes:
    chunk = packed if frame.scheme == 0 else _decompress(packed, frame.unpacked)
    if len(chunk) != frame.unpacked:
        raise MalformedBody(f"a chunk of the xorb unpacks to {len(chunk)} bytes, its header says {frame.unpacked}")
    return _ungroup(chunk) if frame.scheme == 2 else chunk


def _decompress(packed: bytes, unpacked: int) -> bytes:
    try:
        decompressor = lz4.frame.LZ4FrameDecompressor()
        chunk: bytes = decompressor.decompress(packed, max_length=unpacked + 1)
    except RuntimeError as error:
        raise MalformedBody(f"a chunk of the xorb is not an LZ4 frame: {error}") from None
    return chunk


def _ungroup(grouped: bytes) -> bytes:
    """Group k holds the bytes at positions ≡ k (mod 4); put them back."""
    plain = bytearray(len(grouped))
    quotient, remainder = divmod(len(grouped), 4)
    start = 0
    for k in range(4):
        length = quotient + (k < remainder)
        plain[k::4] = grouped[start : start + length]
        start += length
    return bytes(plain)


class _Window:
    """Exact numbers of bytes out of pieces of any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self._offset = 0

    def take(self, count: int) -> bytes:
        """Raises `MalformedBody` where fewer are left."""
        parts: list[bytes] = []
        while count:
            self._fill()
            part = self._rest[self._offset : self._offset + count]
            parts.append(part)
            self._offset += len(part)
            count -= len(part)
        return b"".join(parts)

    def skip(self, count: int) -> None:
        while count:
            self._fill()
            step = min(count, len(self._rest) - self._offset)
            self._offset += step
            count -= step

    def _fill(self) -> None:
        while self._offset == len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                raise MalformedBody("the xorb is shorter than its chunks say")
            self._rest, self._offset = piece, 0
