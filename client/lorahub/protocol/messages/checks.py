"""Verdicts on adapters, and where bytes are."""

from dataclasses import dataclass
from typing import Any

from lorahub.protocol.messages.message import Message, UnderscoredMessage


@dataclass(frozen=True, slots=True)
class FindingEvidence(UnderscoredMessage):
    """One tensor or setting: what is there, and what was expected."""

    name: str
    found: str | None
    expected: str | None


@dataclass(frozen=True, slots=True)
class CheckFinding(UnderscoredMessage):
    """`count` pieces of evidence there are, of which the first are shown."""

    rule: str
    severity: str
    title: str
    message: str
    hint: str | None
    count: int
    evidence: tuple[FindingEvidence, ...]
    facts: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RuntimeReason(UnderscoredMessage):
    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class RuntimeLoads(UnderscoredMessage):
    """Whether a runtime loads it: yes, with (what it `needs`), wrong, no or unknown. `version` is the one that this was
    measured of, the newest that was.
    """

    runtime: str
    loads: str
    reasons: tuple[RuntimeReason, ...]
    needs: str | None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class StatedBase(UnderscoredMessage):
    """Which base an adapter names."""

    name: str | None
    revision: str | None
    layout: str | None
    weights: str | None


@dataclass(frozen=True, slots=True)
class MeasuredFacts(UnderscoredMessage):
    """What an adapter's header shows; `training` is what its maker states. The rest is known of an adapter that was
    checked without a base.
    """

    format: str
    method: str
    rank: int | None
    ranks: tuple[int, ...]
    scales: tuple[float, ...]
    targets: tuple[str, ...]
    modules: int
    parts: tuple[str, ...]
    dtypes: tuple[str, ...]
    parameters: int
    training: dict[str, Any] | None
    base: StatedBase | None = None
    options: dict[str, Any] | None = None
    mergeable: bool | None = None
    matched: int | None = None
    runtimes: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class CoveredTensors(UnderscoredMessage):
    """The tensors of an adapter's file: `used` are part of an update, `named` in a finding, of all that there are."""

    used: int
    named: int
    of: int


@dataclass(frozen=True, slots=True)
class VerdictAtRevision(UnderscoredMessage):
    """The verdict for one of the bases that go by the same name."""

    revision: str | None
    verdict: str
    matched: int
    of: int


@dataclass(frozen=True, slots=True)
class CheckedRevision(UnderscoredMessage):
    """The verdict on an adapter for a base. Of `of` modules, `matched` are there by name and shape.

    Where the base's name stands for several, `revisions` has the verdict for each; the rest is of the closest. `kept`:
    it was known.
    """

    adapter: str
    commit: str
    base: str | None
    verdict: str
    matched: int
    of: int
    rule_set: int
    findings: tuple[CheckFinding, ...]
    runtimes: tuple[RuntimeLoads, ...]
    facts: MeasuredFacts
    kept: bool
    revisions: tuple[VerdictAtRevision, ...] = ()
    coverage: CoveredTensors | None = None
    digest: str | None = None
    """The revision's; it and `yanked`, the reason, are told where rows were asked for."""
    yanked: str | None = None


@dataclass(frozen=True, slots=True)
class RefusedCheck(UnderscoredMessage):
    """An adapter and a base that couldn't be checked, and why."""

    adapter: str
    base: str | None
    code: str
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Verdicts(UnderscoredMessage):
    """`summary` counts the checks by verdict; `refused` couldn't be checked, where rows were asked for."""

    checks: tuple[CheckedRevision, ...]
    summary: dict[str, int]
    refused: tuple[RefusedCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckPolicy(Message):
    """`refuse` or `warn`: what happens to an adapter that doesn't fit the base it names."""

    policy: str


@dataclass(frozen=True, slots=True)
class FilePlace(Message):
    """Where bytes are, among what one may read."""

    reference: str
    repository: str
    commit: str
    version: str | None
    path: str


# --- what a maker states of a training, as far as it is shown ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatedLosses(UnderscoredMessage):
    first: Any | None
    last: Any | None


@dataclass(frozen=True, slots=True)
class StatedRun(UnderscoredMessage):
    steps: int | None
    loss: StatedLosses | None


@dataclass(frozen=True, slots=True)
class StatedRows(UnderscoredMessage):
    rows: int | None


@dataclass(frozen=True, slots=True)
class StatedData(UnderscoredMessage):
    train: StatedRows | None


@dataclass(frozen=True, slots=True)
class StatedTraining(UnderscoredMessage):
    run: StatedRun | None
    data: StatedData | None
