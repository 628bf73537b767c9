"""The `Range` header (RFC 9110 section 14): one range of bytes, the only kind that loaders send."""

import re
from dataclasses import dataclass

from lorahub.errors import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `[start, stop)`; `is_partial` makes it a 206."""

    start: int
    stop: int
    is_partial: bool


def requested_range(header: str | None, size: int) -> ByteRange:
    """Several ranges, or another unit, are answered with the whole file, as the RFC allows.

    Raises `RangeNotSatisfiable` for a range behind the end.
    """
    match = _ONE_RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return ByteRange(0, size, is_partial=False)
    first, last = match.groups()
    if first == "":
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), size if last == "" else min(int(last) + 1, size)
        if last and int(last) < start:
            return ByteRange(0, size, is_partial=False)  # not a range at all
    if start >= stop:
        raise RangeNotSatisfiable(f"the file has {size} bytes; {header} lies behind its end", size=size)
    return ByteRange(start, stop, is_partial=True)
