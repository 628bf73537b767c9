"""The worker process that `lorahub serve` starts beside itself, and starts again when it ends."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

logger = logging.getLogger("lorahub")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_STEADY_SECONDS = 60.0
"""One that lived so long had begun well: the next one is started soon again."""


class Beside:
    """`python -m MODULE ARGUMENTS…`, from the beginning of a `with` block to its end."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="worker-beside", daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._turn:
            self._is_over.set()
            if self._process is not None:
                self._process.terminate()
        self._watcher.join()

    def _watch(self) -> None:
        pause = _FIRST_PAUSE
        while (process := self._start()) is not None:
            began = time.monotonic()
            status = process.wait()
            if self._is_over.is_set():
                return
            pause = _FIRST_PAUSE if time.monotonic() - began > _STEADY_SECONDS else pause
            logger.error("the worker beside this registry %s; the next one starts in %g s", _said(status), pause)
            self._is_over.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _start(self) -> subprocess.Popen[bytes] | None:
        """None where it is over."""
        with self._turn:
            if not self._is_over.is_set():
                self._process = subprocess.Popen(self._command)  # noqa: S603 (our own program, our own arguments)
                return self._process
        return None


def _said(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
