"""What was found out by trying: one line of `lorahub admin doctor`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lorahub.errors import LorahubError

Level = Literal["ok", "note", "error"]


@dataclass(frozen=True, slots=True)
class Observation:
    """`note`: lorahub can do without it. `error`: it can't."""

    subject: str
    level: Level
    text: str


class NotAsExpected(Exception):
    """An answer that differs from what is needed; the message says how."""


def observe(subject: str, act: Callable[[], str], *, otherwise: Level = "error") -> Observation:
    """`act` says what it saw, or raises; whatever it raises is the finding."""
    try:
        return Observation(subject, "ok", act())
    except Exception as error:  # noqa: BLE001 (a doctor reports every symptom)
        return Observation(subject, otherwise, _symptom(error))


def _symptom(error: Exception) -> str:
    if isinstance(error, LorahubError):
        return str(error.__cause__ or error.message)
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def expect(condition: object, what: str) -> None:
    """Raises `NotAsExpected`."""
    if not condition:
        raise NotAsExpected(what)
