"""Progress on standard error: a bar where somebody looks, a line now and then where nobody does."""

import json
import sys
import threading
import time
from typing import Any

from lorahub.cli.output import size_text
from lorahub.hub.progress import Progress, Silence

PLAIN_SECONDS = 30
PLAIN_TENTHS = 10
PLAIN_BYTES = 5_000_000  # less is told of only once it has taken a second: many small files do


def chosen(mode: str, *, is_quiet: bool) -> Progress:
    """`auto` is a bar on a terminal, plain lines elsewhere, nothing where only ids are wanted."""
    if mode == "auto":
        mode = "none" if is_quiet else "bar" if sys.stderr.isatty() else "plain"
    kinds: dict[str, type[Progress]] = {"bar": Bar, "plain": Plain, "json": JsonLines, "none": Silence}
    return kinds[mode]()


class _Counted:
    """Counts under a lock; a kind says how it shows the count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.what, self.total, self.count, self.started = "", 0, 0, 0.0

    def begin(self, what: str, total: int) -> None:
        self.what, self.total, self.count, self.started = what, total, 0, time.monotonic()
        if total:
            self.show_begin()

    def advance(self, count: int) -> None:
        with self._lock:
            self.count += count
            if self.total:
                self.show()

    def end(self) -> None:
        if self.total:
            self.show_end()

    @property
    def rate(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-3)
        return f"{size_text(int(self.count / seconds))}/s"

    def show_begin(self) -> None: ...

    def show(self) -> None: ...

    def show_end(self) -> None: ...


class Bar(_Counted):
    """One bar of bytes for the whole transfer."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._task: Any = None

    def show_begin(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("  {task.description:<24}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self.what, total=self.total)

    def show(self) -> None:
        self._bar.update(self._task, completed=self.count)

    def show_end(self) -> None:
        self._bar.stop()


class Plain(_Counted):
    """A line at the start, at every tenth or half minute, and at the end: for logs. None of what is over at once."""

    def __init__(self) -> None:
        super().__init__()
        self._said_tenth, self._said_at, self._is_told = 0, 0.0, False

    def show_begin(self) -> None:
        self._said_tenth, self._said_at, self._is_told = 0, self.started, False
        if self.total >= PLAIN_BYTES:
            self._tell()

    def _tell(self) -> None:
        self._is_told = True
        self._say(f"{self.what}: {size_text(self.total)}")

    def show(self) -> None:
        if not self._is_told and time.monotonic() - self.started > 1:
            self._tell()
        if not self._is_told:
            return
        tenth = self.count * PLAIN_TENTHS // self.total
        is_late = time.monotonic() - self._said_at > PLAIN_SECONDS
        is_news = tenth > self._said_tenth and time.monotonic() - self._said_at > 1
        if (is_news or is_late) and self.count < self.total:
            self._said_tenth, self._said_at = tenth, time.monotonic()
            self._say(f"{self.what}: {self.count * 100 // self.total} %, {self.rate}")

    def show_end(self) -> None:
        if self._is_told and self.count >= self.total:
            self._say(f"{self.what}: done, {self.rate}")

    @staticmethod
    def _say(text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)


class JsonLines(_Counted):
    """One object a line, for programs that show progress themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at = 0.0

    def show_begin(self) -> None:
        self._say("begin")

    def show(self) -> None:
        if time.monotonic() - self._said_at > 0.2:
            self._say("progress")

    def show_end(self) -> None:
        self._say("end")

    def _say(self, event: str) -> None:
        self._said_at = time.monotonic()
        line = {"event": event, "what": self.what, "bytes": self.count, "total": self.total}
        print(json.dumps(line), file=sys.stderr, flush=True)


# --- training ---------------------------------------------------------------------------------------------------------


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
