"""How long work reports itself: to whoever listens, as the setting `progress` says, on standard error.

bar      where somebody looks; in a notebook, a bar of HTML
plain    a line now and then, for logs
json     an object a line, for programs
none     nothing
"""

import html
import json
import sys
import threading
import time
from typing import Any, Protocol

from lorahub.hub.showing import size_text

PLAIN_SECONDS = 30
PLAIN_TENTHS = 10
PLAIN_BYTES = 5_000_000
"""Less is told of only once it has taken a second: many small files do."""
_NOTEBOOK_SECONDS = 0.2


class Progress(Protocol):
    """One piece of work at a time, measured in bytes. Called from several threads."""

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, count: int) -> None:
        """`count` more bytes; negative where a try has to begin again."""

    def end(self) -> None: ...


def shown(mode: str, *, off_terminal: str = "none") -> Progress:
    """As one of the modes; `auto` is a bar in a notebook and on a terminal, and `off_terminal` elsewhere."""
    if mode == "auto":
        mode = "notebook" if is_notebook() else "bar" if sys.stderr.isatty() else off_terminal
    kinds: dict[str, type[Progress]] = {
        "notebook": NotebookBar,
        "bar": Bar,
        "plain": Plain,
        "json": JsonLines,
        "none": Silence,
    }
    return kinds[mode]()


def is_notebook() -> bool:
    """Whether what is displayed goes to a page: in Jupyter and what is like it, not in IPython's terminal."""
    interactive: Any = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


class Silence:
    """Reports nothing."""

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def end(self) -> None:
        pass


class Counted:
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


class Bar(Counted):
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


class NotebookBar(Counted):
    """The same in a notebook, without widgets: a piece of HTML that is written anew."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None
        self._said_at = 0.0

    def show_begin(self) -> None:
        from IPython.display import display

        self._said_at = self.started
        self._handle = display(self, display_id=True)

    def show(self) -> None:
        if time.monotonic() - self._said_at > _NOTEBOOK_SECONDS:
            self._update()

    def show_end(self) -> None:
        self._update()

    def _update(self) -> None:
        self._said_at = time.monotonic()
        self._handle.update(self)

    def __repr__(self) -> str:
        return f"{self.what}: {size_text(self.count)} of {size_text(self.total)}, {self.rate}"

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.count}" max="{self.total}"></progress>'
        return f"<div>{bar} {html.escape(repr(self))}</div>"


class Plain(Counted):
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


class JsonLines(Counted):
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
