"""Training's progress on standard error: a bar where somebody looks, a line now and then where nobody does.

That of bytes is the client's own, `lorahub.hub.progress`.
"""

import json
import sys
import time
from typing import Any

from lorahub.hub.progress import PLAIN_SECONDS, PLAIN_TENTHS
from lorahub.hub.showing import size_text


def chosen_for_training(mode: str, *, is_quiet: bool) -> "Steps":
    """The same choice as `chosen`, for steps instead of bytes."""
    if mode == "auto":
        mode = "none" if is_quiet else "bar" if sys.stderr.isatty() else "plain"
    kinds: dict[str, type[Steps]] = {"bar": StepBar, "plain": PlainSteps, "json": JsonSteps, "none": Steps}
    return kinds[mode]()


class Steps:
    """Called after every step of a training run; shows nothing."""

    def __call__(self, step: Any) -> None: ...

    def close(self) -> None: ...


class StepBar(Steps):
    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._eval_loss: float | None = None

    def __call__(self, step: Any) -> None:
        if self._bar is None:
            self._begin(step.steps)
        self._eval_loss = step.eval_loss if step.eval_loss is not None else self._eval_loss
        self._bar.update(self._task, completed=step.step, said=_said(step, self._eval_loss))

    def _begin(self, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("  training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=steps, said="")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class PlainSteps(Steps):
    """A line at each evaluation, at each tenth, and twice a minute."""

    def __init__(self) -> None:
        self._said_at, self._said_tenth = time.monotonic(), 0

    def __call__(self, step: Any) -> None:
        tenth = step.step * PLAIN_TENTHS // step.steps
        is_late = time.monotonic() - self._said_at > PLAIN_SECONDS
        if tenth > self._said_tenth or step.eval_loss is not None or is_late:
            self._said_at, self._said_tenth = time.monotonic(), tenth
            left = f", {step.seconds_left:.0f} s left" if step.seconds_left else ""
            print(f"  step {step.step}/{step.steps}: {_said(step, step.eval_loss)}{left}", file=sys.stderr, flush=True)


class JsonSteps(Steps):
    def __call__(self, step: Any) -> None:
        from dataclasses import asdict

        print(json.dumps({"event": "step", **asdict(step)}), file=sys.stderr, flush=True)


def _said(step: Any, eval_loss: float | None) -> str:
    parts = [
        "" if step.loss is None else f"loss {step.loss:.4f}",
        "" if eval_loss is None else f"eval {eval_loss:.4f}",
        f"{step.tokens_per_second:,.0f} tokens/s" if step.loss is not None else "",
        size_text(step.peak_memory),
    ]
    return ", ".join(part for part in parts if part)
