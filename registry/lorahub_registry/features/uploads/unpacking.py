"""Files out of chunks: the segments that a shard lists, read from the xorbs that its session sent."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial

from lorahub.errors import MalformedBody

from lorahub_registry.features.uploads.shards import Segment, ShardFile
from lorahub_registry.features.uploads.xorbs import Frame, Index, read_chunks, read_index

_AT_HAND = 128  # indexes of xorbs: at most 13 MiB, mostly less than two

Open = Callable[[str, int, int], Iterator[bytes]]
"""The bytes `[start, stop)` of the xorb of this name, in pieces."""


class Unpacking:
    """`sizes` are the stored bytes of every xorb that may be used. Where one that was read through before has to be
    read through again, `again` is called first with its size; whatever it raises ends the unpacking.
    """

    def __init__(self, read: Open, sizes: Mapping[str, int], again: Callable[[int], None]) -> None:
        self._read = read
        self._sizes = sizes
        self._again = again
        self._seen: set[str] = set()
        self._index = lru_cache(maxsize=_AT_HAND)(self._read_index)

    def chunks(self, file: ShardFile) -> Iterator[bytes]:
        """The file's chunks in order. Raises `MalformedBody` where a segment doesn't hold what it says."""
        for segment in file.segments():
            frames = self._frames(segment)
            yield from read_chunks(partial(self._read, segment.xorb), frames)

    def _frames(self, segment: Segment) -> list[Frame]:
        frames = self._index(segment.xorb).frames(segment.first, segment.end)
        if len(frames) != segment.end - segment.first or sum(frame.unpacked for frame in frames) != segment.size:
            raise MalformedBody(f"a segment of the shard says other than its xorb {segment.xorb} holds")
        return frames

    def _read_index(self, xorb: str) -> Index:
        size = self._sizes[xorb]
        if xorb in self._seen:
            self._again(size)
        self._seen.add(xorb)
        return read_index(partial(self._read, xorb), size)
