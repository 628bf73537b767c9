"""The registry itself."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message, Time


@dataclass(frozen=True, slots=True)
class Server(Message):
    """Who answers, and what time it is there."""

    name: str
    version: str
    time: Time


@dataclass(frozen=True, slots=True)
class ProbedPart(Message):
    ok: bool
    fault: str | None
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Health(Message):
    """`status` is ok, degraded (it answers, and something is missing), unavailable or stopping.

    `checks` are by what was looked at.
    """

    status: str
    checks: dict[str, ProbedPart]

    @property
    def is_up(self) -> bool:
        return self.status in ("ok", "degraded")

    @property
    def faults(self) -> dict[str, str]:
        return {name: part.fault or "not ok" for name, part in self.checks.items() if not part.ok}


@dataclass(frozen=True, slots=True)
class Alive(Message):
    status: str
