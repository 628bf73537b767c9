"""How people are shown what the SDK and the command line answer: sizes, times, and tables for notebooks."""

import html
from collections.abc import Iterable, Sequence
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


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """For notebooks; whoever wrote the cells, they are text.

    >>> html_table(["name"], [["<b>"]])
    '<table><thead><tr><th>name</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_line(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"
