"""Times on the wire: `2026-11-23T23:37:12.123Z`, the one form every client of the Hub parses."""

from datetime import UTC, datetime


def wire_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"
