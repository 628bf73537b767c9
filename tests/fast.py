"""What holds in `make fast`: no test starts a program or imports PyTorch, and none takes seconds of a processor.

A test that does has a mark that is not true, see marks.py; or it is slow, and says so with `@pytest.mark.slow`.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from marks import LIBRARIES

MOST_SECONDS = 5.0
"""Of a processor, for one test without what it shares with others: usual ones take a hundredth."""
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})


class Fast:
    """Watches one run of the tests."""

    def __init__(self) -> None:
        import registry_thread  # noqa: F401 (a library of the registry's starts a program when it is imported)

        self._running: str | None = None
        self._is_collecting = False
        sys.addaudithook(self._look)  # none can be removed: it looks on until the process ends

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS and self._running:
            raise AssertionError(f"{self._running} starts a program, and is not marked `process`: {arguments[:2]}")
        if event == "import" and LIBRARIES.get(arguments[0]) == "torch" and arguments[0] not in sys.modules:
            assert not self._is_collecting, f"{arguments[0]} is imported by what is no `torch` at first sight"
            assert self._running is None, f"{self._running} imports {arguments[0]}, and is not marked `torch`"

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        self._is_collecting = True
        try:
            return (yield)
        finally:
            self._is_collecting = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._running = item.nodeid
        try:
            return (yield)
        finally:
            self._running = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        began = time.process_time()
        result = yield
        took = time.process_time() - began
        assert took < MOST_SECONDS, f"it took {took:.1f} s of a processor, a fast test takes {MOST_SECONDS:g} at most"
        return result
