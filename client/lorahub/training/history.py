"""What happened at each step: a line in history.jsonl, a value for whoever listens, a curve in lorahub.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HISTORY = "history.jsonl"
MOST_POINTS = 200


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """After `step` steps of `steps`; step 0 is the evaluation before the first. `loss` is nats a token."""

    step: int
    steps: int
    tokens: int
    """So far, padding excluded."""
    loss: float | None
    eval_loss: float | None
    lr: float
    grad_norm: float | None
    tokens_per_second: float
    peak_memory: int
    """Bytes."""
    seconds: float
    """So far."""

    @property
    def seconds_left(self) -> float | None:
        return None if not self.step else self.seconds / self.step * (self.steps - self.step)


class History:
    """The file, and the steps in it. A run that goes on begins behind the step it was saved at."""

    def __init__(self, folder: Path, *, until: int | None = None) -> None:
        """`until` keeps the steps up to it; None begins anew."""
        self._path = folder / HISTORY
        self.steps: list[TrainingStep] = (
            [] if until is None else [s for s in read_history(self._path) if s.step <= until]
        )
        write_history(self._path, self.steps)

    def add(self, step: TrainingStep) -> None:
        self.steps.append(step)
        with self._path.open("a") as file:
            file.write(_line(step))


def write_history(path: Path, steps: Sequence[TrainingStep]) -> None:
    path.write_text("".join(map(_line, steps)))


def read_history(path: Path) -> list[TrainingStep]:
    """Without the half of a line that a killed run may leave at the end."""
    steps = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            steps.append(TrainingStep(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return steps


def curve(steps: Sequence[TrainingStep]) -> list[list[float | int | None]]:
    """[step, loss, eval loss] of at most 200 steps: evenly spread, and every evaluation as far as there is room."""
    evaluated = [s for s in steps if s.eval_loss is not None][-(MOST_POINTS // 2) :]
    room = MOST_POINTS - len(evaluated)
    trained = [s for s in steps if s.loss is not None and s.eval_loss is None]
    stride = max(-(-len(trained) // room), 1)
    chosen = {s.step: s for s in [*trained[::stride], *evaluated]}
    return [[s.step, _rounded(s.loss), _rounded(s.eval_loss)] for _, s in sorted(chosen.items())]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _line(step: TrainingStep) -> str:
    facts: dict[str, Any] = asdict(step)
    return json.dumps(facts) + "\n"
