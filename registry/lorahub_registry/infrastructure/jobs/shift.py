"""What this worker has in hand, and how it leaves: nothing is begun, what runs may end, the rest is handed back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LAST_SECONDS = 5.0
"""For work that notices the end to put down what it holds."""


class HandedBack(BaseException):
    """Ends a workflow here without an outcome, so that another worker takes it up. Every `Exception` is an outcome."""


class WorkShift:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at_work = 0
        self._is_ending = False
        self._is_over = False

    @contextmanager
    def work(self) -> Iterator[None]:
        """Something that should come to its end. Raises `HandedBack` where it isn't begun any more."""
        with self._changed:
            self.go_on()
            self._at_work += 1
        try:
            yield
        finally:
            with self._changed:
                self._at_work -= 1
                self._changed.notify_all()

    def go_on(self) -> None:
        """Asked while waiting for others. Raises `HandedBack` from the moment the worker is told to end."""
        if self._is_ending:
            raise HandedBack

    @property
    def is_over(self) -> bool:
        """Asked by long work: whether its time to come to an end is over."""
        return self._is_over

    def end(self, patience: float) -> None:
        """Returns when nothing is in hand any more, soon after `patience` seconds at the latest."""
        with self._changed:
            self._is_ending = True
            self._changed.wait_for(lambda: not self._at_work, patience)
            self._is_over = True
            self._changed.wait_for(lambda: not self._at_work, _LAST_SECONDS)


shift = WorkShift()
