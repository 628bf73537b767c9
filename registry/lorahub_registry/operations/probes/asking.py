"""Questions to what may hang: asked in a thread of their own, so that no request's is held."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from typing import Generic, TypeVar

__all__ = ["Asking", "NotInTime"]

Answer = TypeVar("Answer")


class Asking(Generic[Answer]):
    """One question, under way once at a time: while it hangs, whoever asks again gets no answer either."""

    def __init__(self, name: str, question: Callable[[], Answer]) -> None:
        self._question = question
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"asking-{name}")
        self._pending: Future[Answer] | None = None

    def ask(self) -> Future[Answer]:
        if self._pending is None or self._pending.done():
            self._pending = self._thread.submit(self._question)
        return self._pending

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
