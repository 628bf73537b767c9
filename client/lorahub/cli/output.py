"""One result, shown as people, scripts and agents want it. Standard output has the result, standard error all else.

human   sentences and tables
json    exactly one document, on success and on failure
quiet   one id or path a line
agent   tab-separated, nothing cut
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, TextIO

from lorahub.errors import LorahubError
from lorahub.hub.showing import shown_json, shown_line, shown_text
from lorahub.protocol.documents import document_of, document_of_failure
from lorahub.protocol.messages.message import wire_time

FORMATS = ("human", "json", "quiet", "agent")


@dataclass(frozen=True, slots=True)
class Result:
    """What a command found or did. `exit_code` 1 is an answer "no"."""

    data: Any
    """JSON-ready, but for times."""
    human: str | Sequence[str]
    """As lines, where what a line says comes from files: then none of it makes a line of its own."""
    ids: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    notes: Sequence[str] = ()
    """Said on standard error."""
    exit_code: int = 0


class Output:
    def __init__(self, command: str, *, format: str = "human", color: str = "auto") -> None:  # noqa: A002
        self.command = command
        self.format = format
        self.color = color

    @classmethod
    def for_failure(cls, arguments: Sequence[str]) -> "Output":
        """Where parsing didn't come far: what the arguments and the environment ask for."""
        return cls(_asked_command(arguments), format=_asked_format(arguments))

    def success(self, result: Result) -> int:
        """The exit status."""
        for note in result.notes:
            self.note(note)
        if self.format == "json":
            self._write(document_of(self.command, result.data, exit_code=result.exit_code))
        elif self.format == "quiet":
            _print("\n".join(map(shown_line, result.ids)))
        elif self.format == "agent":
            _print("\n".join("\t".join(shown_line(_cell(cell)) for cell in row) for row in result.rows))
        elif isinstance(result.human, str):
            _print(self._styled(shown_text(result.human), sys.stdout))
        else:
            _print(self._styled("\n".join(map(shown_line, result.human)), sys.stdout))
        return result.exit_code

    def failure(self, error: LorahubError) -> int:
        """The exit status."""
        if self.format == "json":
            self._write(document_of_failure(self.command, error))
        lines = [f"✗ {error.message}", *self._findings(error)]
        if error.hint:
            lines.append(f"  Hint: {error.hint}")
        if error.request_id:
            lines.append(f"  Request: {error.request_id}")
        print(self._styled("\n".join(map(shown_line, lines)), sys.stderr), file=sys.stderr)
        return error.exit_code

    @staticmethod
    def _findings(error: LorahubError) -> list[str]:
        findings = error.facts.get("findings")
        if not isinstance(findings, list) or len(findings) < 2:
            return []
        return [f"    {one.get('path')}: {one.get('message')}" for one in findings if isinstance(one, dict)]

    def note(self, text: str) -> None:
        print(self._styled(shown_text(text), sys.stderr), file=sys.stderr)

    @staticmethod
    def _write(document: dict[str, Any]) -> None:
        _print(shown_json(json.dumps(document, default=_as_text)))

    def _styled(self, text: str, stream: TextIO) -> str:
        if not self._has_color(stream):
            return text
        text = text.replace("✓", "\033[32m✓\033[0m").replace("✗", "\033[31m✗\033[0m")
        return _MARKED.sub(lambda found: f"\033[32m{found[1]}\033[0m", text)

    def _has_color(self, stream: TextIO) -> bool:
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def _asked_command(arguments: Sequence[str]) -> str:
    """`org.ls` of `--timeout 5 org ls acme`: the longest name of a command that stands there."""
    from lorahub.cli.examples import SHOWN

    words = [word for word in arguments if not word.startswith("-")]
    for start in range(len(words)):
        for end in range(len(words), start, -1):
            if " ".join(words[start:end]) in SHOWN:
                return ".".join(words[start:end])
    return words[0] if words else "lorahub"


def _asked_format(arguments: Sequence[str]) -> str:
    if "--json" in arguments or "--format=json" in arguments:
        return "json"
    for flag, value in pairwise(arguments):
        if flag == "--format" and value in FORMATS:
            return value
    return os.environ.get("LORAHUB_FORMAT", "human")


_MARKED = re.compile("⟦([^⟦⟧]*)⟧")
"""What a command marks: green where there are colours."""


def _print(text: str) -> None:
    if text:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return wire_time(value)
    return "" if value is None else str(value).replace("\t", " ").replace("\n", " ")


def _as_text(value: Any) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} in a result")
    return wire_time(value)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell.

    >>> print(table(["name", "size"], [["v1", 10]]))
    name  size
    v1    10
    """
    cells = [list(header), *[[_cell(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)
