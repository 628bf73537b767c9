"""How people are shown what the SDK and the command line answer: sizes, times, and tables for notebooks."""

import html
import re
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


_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""What a terminal obeys instead of showing it, what has no width, what turns the order round; halves of characters."""
_TO_A_RUNNER = re.compile(r"^(\s*):(?=:)|##(?=[a-z]*\[)")
"""What CI systems take for a command of theirs: `::error` and `##[` GitHub, `##vso[` Azure, `##teamcity[` TeamCity."""


def visible(text: str) -> str:
    r"""In one line, as it may be shown to people, whoever it came from: what isn't seen is written as its escape.

    >>> visible("two\nlines, \x1b[31mred")
    'two\\nlines, \\x1b[31mred'
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown_line(text: str) -> str:
    r"""A line as it may be written to a terminal or a CI system's log: it commands neither.

    >>> print(shown_line("::error::forged"))
    \::error::forged
    """
    return _TO_A_RUNNER.sub(lambda found: f"{found[1] or ''}\\:" if ":" in found[0] else "#\\#", visible(text))


def shown_text(text: str) -> str:
    """Several lines, each as `shown_line`, with the tabs that lay them out."""
    return "\n".join("\t".join(map(shown_line, line.split("\t"))) for line in text.split("\n"))


def shown_json(document: str) -> str:
    """The same document, in which a CI system that reads the log finds no command of its own."""
    return document.replace("##", "#\\u0023")
