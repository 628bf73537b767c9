"""A file's bytes, looked at in pieces wherever they lie: on a disk, in a bucket, in memory."""

from typing import Self

from lorahub.adapters.safetensors_header import ReadRange

HEAD_BYTES = 1 << 14


class Content:
    """`head` is how it begins, read once."""

    def __init__(self, read_range: ReadRange, size: int) -> None:
        self._read_range = read_range
        self.size = size
        self.head = read_range(0, min(HEAD_BYTES, size))

    @classmethod
    def of(cls, content: bytes) -> Self:
        return cls(lambda start, stop: content[start:stop], len(content))

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), as far as there are any."""
        start, stop = max(start, 0), min(stop, self.size)
        if start >= stop:
            return b""
        return self.head[start:stop] if stop <= len(self.head) else self._read_range(start, stop)
