"""What a worker computes of the weights of adapters."""

from dataclasses import dataclass

from lorahub.protocol.messages.message import Message, UnderscoredMessage


@dataclass(frozen=True, slots=True)
class ModuleStatistics(UnderscoredMessage):
    """Of one ΔW: ‖ΔW‖_F, the largest singular values, `relative` to ‖W‖_F where that is known.

    Figures of an update with NaN or infinity, of which it has `nonfinite`, are None.
    """

    frobenius: float | None
    spectral: float | None
    singular_values: tuple[float, ...]
    effective_rank: float | None
    stable_rank: float | None
    nonfinite: int
    is_zero: bool
    relative: float | None


@dataclass(frozen=True, slots=True)
class AdapterStatistics(UnderscoredMessage):
    """`layers` have ‖ΔW‖_F by number; modules that were `skipped`, why."""

    modules: dict[str, ModuleStatistics]
    layers: dict[str, float | None]
    skipped: dict[str, str]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Statistics(Message):
    """`status` is wanted, done or failed; `statistics` are there when it is done.

    `reason` is why it failed, `note` why it may wait for long.
    """

    status: str
    reason: str | None
    note: str | None
    statistics: AdapterStatistics | None


@dataclass(frozen=True, slots=True)
class ModuleOverlap(UnderscoredMessage):
    """How alike two updates of one weight are: the cosine between them, and the shares of their subspaces, beside those
    that subspaces drawn at random would have.
    """

    cosine: float | None
    input: float | None
    output: float | None
    input_chance: float | None
    output_chance: float | None


@dataclass(frozen=True, slots=True)
class WholeOverlap(ModuleOverlap):
    """Of two adapters, over so many `modules`."""

    modules: int


@dataclass(frozen=True, slots=True)
class AdapterOverlap(UnderscoredMessage):
    """Modules that were `skipped`, why."""

    whole: WholeOverlap
    modules: dict[str, ModuleOverlap]
    skipped: dict[str, str]


@dataclass(frozen=True, slots=True)
class OverlapAnswer(Message):
    """`status` is none, wanted, done or failed; `overlap` is there when it is done.

    `reason` is why it failed, `note` why it may wait for long.
    """

    status: str
    reason: str | None
    note: str | None
    overlap: AdapterOverlap | None
