"""The `Range` header (RFC 9110 section 14): one range of bytes, the only kind that loaders send."""

import re
from dataclasses import dataclass

from lorahub.errors import RangeNotSatisfiable
from starlette.datastructures import Headers

from lorahub_registry.infrastructure.web.conditions import may_continue

_ONE_RANGE = re.compile(r"bytes=(\d{0,100})-(\d{0,100})", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `[start, stop)`; `is_partial` makes it a 206."""

    start: int
    stop: int
    is_partial: bool


def requested_range(headers: Headers, size: int, etag: str) -> ByteRange:
    """Several ranges, another unit, or a range of other content (`If-Range`) are answered with the whole file, as the
    RFC allows; so is a range from the beginning of an empty file, which no 206 can name.

    Raises `RangeNotSatisfiable` for a range behind the end.
    """
    whole = ByteRange(0, size, is_partial=False)
    header = headers.get("range", "")
    match = _ONE_RANGE.fullmatch(header.replace(" ", ""))
    if match is None or match.groups() == ("", "") or not may_continue(headers, etag):
        return whole
    first, last = match.groups()
    if first == "":
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), size if last == "" else min(int(last) + 1, size)
        if last and int(last) < start:
            return whole  # not a range at all
    if start == size == 0:
        return whole
    if start >= stop:
        raise RangeNotSatisfiable(f"the file has {size} bytes; {header} lies behind its end", size=size)
    return ByteRange(start, stop, is_partial=True)
