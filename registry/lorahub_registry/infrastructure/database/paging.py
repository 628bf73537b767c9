"""Statements about many values: so many of them at a time as a database takes in one."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Text = TypeVar("Text", bound=str)

_NAMED_AT_ONCE = 500


def pages(values: Iterable[Text]) -> Iterator[list[Text]]:
    """Each value once, and in order: transactions that lock the same rows wait for each other in the same order."""
    wanted = sorted(set(values))
    for start in range(0, len(wanted), _NAMED_AT_ONCE):
        yield wanted[start : start + _NAMED_AT_ONCE]
