"""Rows of a JSONL file: read one line at a time, checked, split. Needs no torch.

{"messages": [{"role": …, "content": …}, …]}   chat; trained on the assistant's turns
{"prompt": …, "completion": …}                 completion; texts, or lists of messages; trained on the completion
{"text": …}                                    text; trained on all of it
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorahub.training.config import Format

RowFormat = Literal["chat", "completion", "text"]


@dataclass(frozen=True, slots=True)
class Row:
    """One checked line, counted from 1. `content` has exactly the keys of its format."""

    line: int
    format: RowFormat
    content: dict[str, Any]


def read_rows(path: Path, format: Format = "auto") -> Iterator[Row]:  # noqa: A002
    """Every row of the file, in order. Raises `InvalidTrainingData` with the line number of every problem."""
    raise NotImplementedError
