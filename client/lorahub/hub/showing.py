"""How people are shown what the SDK and the command line answer: sizes, times, and tables for notebooks."""

from datetime import UTC, datetime


def size_text(size: int) -> str:
    """Bytes for people, in powers of ten as disks and networks count them.

    >>> size_text(83_900_000)
    '83.9 MB'
    """
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def time_text(time: datetime) -> str:
    """For people: `2026-11-23 23:37 UTC`."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
