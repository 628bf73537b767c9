"""Several acts of one caller at once, in threads that all callers share."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 8  # of one caller: who has few to do needn't wait behind all of who has thousands
_THREADS = 32


class Several:
    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)

    def each(self, act: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What each act gives, in order. Raises the first failure; what hasn't begun by then, doesn't."""
        begun: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(begun) == _AT_ONCE:
                    yield begun.popleft().result()
                begun.append(self._threads.submit(act, item))
            while begun:
                yield begun.popleft().result()
        finally:
            for one in begun:
                one.cancel()

    def all(self, act: Callable[[Item], object], items: Iterable[Item]) -> None:
        """As `each`, of acts that give nothing."""
        for _ in self.each(act, items):
            pass
