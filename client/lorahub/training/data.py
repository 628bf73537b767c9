"""Rows of a file: read one at a time, checked, split. Needs no torch.

What a row may look like is told in `shapes`, what it may be written in in `files`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidTrainingData
from lorahub.training.config import Format
from lorahub.training.files import DataFile
from lorahub.training.shapes import Recognised, RowFormat, recognise, unread

MOST_PROBLEMS = 100

Problem = tuple[int, InvalidTrainingData]
"""A line or row, counted from 1, and what is wrong with it."""

_ROWS = (
    'rows are {"messages": […]}, {"prompt": …, "completion": …}, {"question": …, "answer": …}, {"text": …} or others '
    "that docs/training.md lists, all of one kind"
)


@dataclass(frozen=True, slots=True)
class DataRow:
    """One checked row, counted from 1. `content` has exactly the keys of its format."""

    line: int
    format: RowFormat
    content: dict[str, Any]
    plain: tuple[str, str] | None = None
    """A prompt and a completion as texts, for a base without a chat template."""

    @property
    def digest(self) -> bytes:
        """The same for the same content, whatever the order of its keys: 32 bytes."""
        return hashlib.sha256(
            json.dumps(self.content, sort_keys=True, ensure_ascii=False, default=str).encode()
        ).digest()

    @property
    def gist(self) -> bytes:
        """The same for contents that differ in case and white space only: 32 bytes."""
        texts = (" ".join(text.casefold().split()) for text in _texts(self.content))
        return hashlib.sha256("\0".join(texts).encode()).digest()

    def is_held_out(self, share: float) -> bool:
        """Whether it is for evaluation: by content, so that another order of rows gives the same split."""
        return int.from_bytes(self.digest[:8], "big") < share * 2.0**64

    def times(self, weight: float) -> int:
        """How often it is trained on in an epoch; the rest of the weight is a chance that its content draws."""
        whole, rest = divmod(weight, 1)
        return int(whole) + (int.from_bytes(self.digest[8:16], "big") < rest * 2.0**64)


@dataclass(slots=True)
class RowFile:
    """A file of rows; what is known of the whole file stands here once all of it was read."""

    file: DataFile
    wanted: Format = "auto"
    columns: tuple[str, ...] = ()
    format: RowFormat | None = None
    rows: int = 0
    size: int = 0
    sha256: str = ""
    ignored: dict[str, int] = field(default_factory=dict)
    """Keys that nothing reads: how many rows have them."""

    @property
    def name(self) -> str:
        return self.file.path.name

    def __iter__(self) -> Iterator[DataRow]:
        """Every row, in order. Raises `InvalidTrainingData` at the end, with every problem and its line."""
        self.format = None if self.wanted == "auto" else self.wanted
        self.rows, self.ignored = 0, {}
        problems: list[Problem] = []
        for number, raw in self.file.rows():
            if isinstance(raw, bytes) and not raw.strip():
                continue
            if len(problems) >= MOST_PROBLEMS:
                break
            self.rows += 1
            try:
                yield self._row(number, raw)
            except InvalidTrainingData as error:
                problems.append((number, error))
        self.size, self.sha256 = self.file.digest()
        if problems or not self.rows:
            raise self.refusal(problems)

    def _row(self, number: int, raw: Any) -> DataRow:
        value = parse_json(raw, error=InvalidTrainingData) if isinstance(raw, bytes) else raw
        if not isinstance(value, dict):
            raise InvalidTrainingData("not a JSON object")
        found = recognise(value, self.wanted, self.columns)
        if self.format not in (None, found.format):
            raise InvalidTrainingData(f"is a row of {found.format}; those before it are rows of {self.format}")
        self.format = found.format
        for key in self._ignored(value, found):
            self.ignored[key] = self.ignored.get(key, 0) + 1
        return DataRow(number, found.format, found.content, found.plain)

    @staticmethod
    def _ignored(value: dict[str, Any], found: Recognised) -> set[str]:
        return {*(key for key in value.keys() - found.read if value[key] is not None), *unread(found.content, value)}

    def refusal(self, problems: list[Problem]) -> InvalidTrainingData:
        path, unit = self.file.path, self.file.unit
        if not problems:
            return InvalidTrainingData(f"{path} has no rows", hint="one JSON object a line")
        shown = "".join(f"\n    {unit} {line}: {error.message}" for line, error in problems[:20])
        many = f"{len(problems)}{'+' if len(problems) >= MOST_PROBLEMS else ''}"
        rest = f"\n    … and {len(problems) - 20} more" if len(problems) > 20 else ""
        return InvalidTrainingData(
            f"{many} {unit if len(problems) == 1 else f'{unit}s'} of {path} can't be used{shown}{rest}",
            hint=next((error.hint for _, error in problems if error.hint), _ROWS),
            problems=[{"line": line, "message": error.message} for line, error in problems],
        )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _texts(value[key])
