"""How pages write numbers, times and digests."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: float | None) -> str:
    """Bytes, in powers of 1000.

    >>> size(83_900_000), size(512), size(1_000_000)
    ('83.9 MB', '512 B', '1.0 MB')
    """
    if count is None:
        return "–"
    for unit in _UNITS[:-1]:
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def number(count: float | None) -> str:
    """Short, for a glance.

    >>> number(999), number(1234), number(8_030_261_248)
    ('999', '1.2k', '8.0B')
    """
    if count is None:
        return "–"
    for limit, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.1f}{letter}"
    return f"{count:g}"


def exact(count: float | None) -> str:
    """With thin spaces between thousands."""
    return "–" if count is None else f"{count:,}".replace(",", "\u202f")


def day(time: str | None) -> str:
    """The day of a time as the wire has it.

    >>> day("2026-11-04T23:37:12.123Z")
    '4 Nov 2026'
    """
    if not time:
        return "–"
    at = datetime.fromisoformat(time).astimezone(UTC)
    return f"{at.day} {at:%b %Y}"


def moment(time: str | None) -> str:
    """To the minute, in UTC."""
    return "–" if not time else f"{day(time)}, {datetime.fromisoformat(time).astimezone(UTC):%H:%M} UTC"


def short(digest: str | None) -> str:
    """The first digits of a commit or a sha256."""
    return (digest or "–")[:10]


def figure(value: float | None) -> str:
    """A measured number, to four digits."""
    return "–" if value is None else f"{value:.4g}"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "size": size,
    "number": number,
    "exact": exact,
    "day": day,
    "moment": moment,
    "short": short,
    "figure": figure,
}
