"""How long work reports itself: to whoever listens, or to nobody. The command line brings the bars."""

from typing import Protocol


class Progress(Protocol):
    """One piece of work at a time, measured in bytes. Called from several threads."""

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, count: int) -> None:
        """`count` more bytes; negative where a try has to begin again."""

    def end(self) -> None: ...


class Silence:
    """Reports nothing."""

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def end(self) -> None:
        pass
