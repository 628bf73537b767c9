"""SIGINT and SIGTERM ask a run to stop behind the step it is in; the second one ends it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """`signal` is the name of what came, None as long as nothing did."""

    signal: str | None = None


@contextmanager
def asked_to_stop() -> Iterator[StopRequest]:
    """Handlers are set in the main thread, where Python lets them be set, and put back at the end."""
    wish = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: FrameType | None) -> None:
        wish.signal = signal.Signals(number).name
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
