"""The checker: does this adapter fit this base? From headers alone, in milliseconds.

Every finding is collected. What the adapter's own files show was found when they were read; here its modules are
looked up in the base's layout, and shapes, layers, names and digests compared.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim, Part, Update
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.comparison import Comparison
from lorahub.adapters.coverage import NOTHING, Coverage, coverage_of
from lorahub.adapters.findings import Evidence, Finding, Verdict, finding, has_errors, worst_first
from lorahub.adapters.identity import identity, same_weights
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.names.weight import Weight
from lorahub.adapters.rules import RULE_SET
from lorahub.adapters.runtimes import RuntimeVerdict


@dataclass(frozen=True, slots=True)
class AtRevision:
    """The verdict on an adapter for one of the bases that go by the name it gives."""

    revision: str | None
    verdict: Verdict
    matched: int
    of: int

    def as_json(self) -> dict[str, Any]:
        return {"revision": self.revision, "verdict": self.verdict.value, "matched": self.matched, "of": self.of}


def meant(claim: BaseClaim, known: Sequence[BaseLayout]) -> Sequence[BaseLayout]:
    """Those of the bases of its name that an adapter means: with the digest or at the revision that it records; where
    none is, or it records neither, all of them.
    """
    same = [base for base in known if claim.weights is not None and base.weights_digest == claim.weights]
    at = [base for base in known if claim.revision and (base.revision or "").startswith(claim.revision)]
    return same or at or known


def closest(judged: Sequence[AtRevision]) -> int:
    """Which of them the adapter fits best; of equals, the first."""
    order = [Verdict.COMPATIBLE, Verdict.FITS, Verdict.UNDECIDED, Verdict.INCOMPATIBLE]
    return min(range(len(judged)), key=lambda place: (order.index(judged[place].verdict), -judged[place].matched))


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. Of `of` modules, `matched` are in the base by name and shape.

    `bound` has each update with the base weight it adds to, `placed` each part that has one. `revisions` are those of
    the base that were compared, where its name stands for several; the rest of the report is of the closest. `coverage`
    counts the file's tensors. `runtimes` is filled in by who may ask the converter (`judge_runtimes`).
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    matched: int
    of: int
    runtimes: tuple[RuntimeVerdict, ...] = ()
    bound: tuple[tuple[Update, Weight], ...] = ()
    placed: tuple[tuple[Part, Weight], ...] = ()
    revisions: tuple[AtRevision, ...] = ()
    coverage: Coverage = NOTHING

    def at(self, base: BaseLayout) -> AtRevision:
        return AtRevision(base.revision, self.verdict, self.matched, self.of)

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "matched": self.matched,
            "of": self.of,
            "rule_set": RULE_SET,
            "findings": [found.as_json() for found in self.findings],
            "runtimes": [runtime.as_json() for runtime in self.runtimes],
            "revisions": [one.as_json() for one in self.revisions],
            "coverage": self.coverage.as_json(),
        }


def check(
    adapter: Adapter,
    base: BaseLayout | None,
    *,
    level: str = "shapes",
    recorded: BaseLayout | None = None,
    names: BaseNames | None = None,
) -> Report:
    """The verdict on an adapter for a base; without a base, on the adapter alone.

    `level`: `metadata` compares names, revisions and digests; `shapes` the layout too; `drift` also the bytes of the
    weights that the adapter updates, against `recorded`, the base it was trained on, where both are known. `names` are
    the base's, for who checks many adapters with it.
    """
    if base is None:
        report = _without_base(adapter)
    else:
        report = _by_name(adapter, base) if level == "metadata" else _by_shapes(adapter, base, level, recorded, names)
    return replace(report, coverage=coverage_of(adapter, report.findings))


def _by_shapes(
    adapter: Adapter, base: BaseLayout, level: str, recorded: BaseLayout | None, names: BaseNames | None
) -> Report:
    comparison = Comparison(adapter, base, names or BaseNames(base))
    findings = _causes([*adapter.findings, *comparison.findings()])
    if level == "drift":
        findings += _drift(comparison, recorded)
    verdict = _verdict(adapter, base, findings, is_clear=not comparison.packed and not comparison.unclear)
    return Report(
        verdict,
        tuple(worst_first(findings)),
        comparison.agreeing,
        len(comparison.matched) + len(comparison.unmatched) + len(comparison.unclear),
        bound=tuple((update, weight) for update, weight in comparison.matched if isinstance(update, Update)),
        placed=tuple((part, weight) for part, weight in comparison.matched if isinstance(part, Part)),
    )


def recheck(report: Report, findings: Iterable[Finding], adapter: Adapter, base: BaseLayout | None) -> Report:
    """The report with these findings instead, and the verdict that follows from them."""
    kept = worst_first(findings)
    verdict = report.verdict
    if has_errors(kept):
        verdict = Verdict.INCOMPATIBLE
    elif verdict is Verdict.INCOMPATIBLE:
        known = base is not None and is_understood(adapter, kept)
        same = base is not None and same_weights(adapter, base)
        verdict = (Verdict.COMPATIBLE if same else Verdict.FITS) if known else Verdict.UNDECIDED
    return replace(report, findings=tuple(kept), verdict=verdict)


def _by_name(adapter: Adapter, base: BaseLayout) -> Report:
    findings = [*adapter.findings, *identity(adapter, base)]
    verdict = Verdict.INCOMPATIBLE if has_errors(findings) else Verdict.UNDECIDED
    if verdict is Verdict.UNDECIDED and same_weights(adapter, base):
        verdict = Verdict.COMPATIBLE
    total = len(adapter.updates)
    return Report(verdict, tuple(worst_first(findings)), 0, total)


def _drift(comparison: Comparison, recorded: BaseLayout | None) -> list[Finding]:
    """LH109 where weights that the adapter updates have other bytes than those it was trained on."""
    if recorded is None or same_weights(comparison.adapter, comparison.base):
        return []
    names = sorted({place.tensor for _, weight in comparison.matched for place in weight.places})
    pairs = [(name, recorded.tensors.get(name), comparison.base.tensors[name]) for name in names]
    moved = [
        Evidence(name, now.sha256, before.sha256)
        for name, before, now in pairs
        if before is not None and before.sha256 and now.sha256 and before.sha256 != now.sha256
    ]
    if not moved:
        return []
    return [finding("LH109", f"{len(moved)} of {len(names)} weights that the adapter updates have other bytes", moved)]


def _without_base(adapter: Adapter) -> Report:
    findings = list(adapter.findings)
    if adapter.claim.name and not has_errors(findings):
        findings.append(
            finding("LH106", f"{adapter.claim.name[:200]} isn't known here", [Evidence(adapter.claim.name)])
        )
    verdict = Verdict.INCOMPATIBLE if has_errors(findings) else Verdict.UNDECIDED
    total = len(adapter.updates)
    return Report(verdict, tuple(worst_first(findings)), 0, total)


def _causes(findings: list[Finding]) -> list[Finding]:
    """Without consequences: a module that isn't in the base needn't be told to lie outside the targets too."""
    absent = {piece.name for found in findings if found.rule in ("LH201", "LH205", "LH210") for piece in found.evidence}

    def is_new(found: Finding) -> bool:
        return found.rule != "LH213" or not {piece.name for piece in found.evidence} <= absent

    return [found for found in findings if is_new(found)]


def is_understood(adapter: Adapter, findings: Iterable[Finding]) -> bool:
    """Whether all of the adapter could be compared with the base."""
    return adapter.is_known and not any(found.rule == "LH306" for found in findings)


def _verdict(adapter: Adapter, base: BaseLayout, findings: Collection[Finding], *, is_clear: bool) -> Verdict:
    if has_errors(findings):
        return Verdict.INCOMPATIBLE
    if not is_understood(adapter, findings) or not is_clear:
        return Verdict.UNDECIDED
    return Verdict.COMPATIBLE if same_weights(adapter, base) else Verdict.FITS
