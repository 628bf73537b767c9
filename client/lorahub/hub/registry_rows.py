"""The registry's own verdicts on many adapters, asked for in one request: it keeps those that it made before, and reads
adapters where they lie.
"""

from collections.abc import Iterable, Mapping, Sequence

from lorahub.adapters.check import AtRevision, Report
from lorahub.adapters.coverage import NOTHING, Coverage
from lorahub.adapters.findings import Evidence, Finding, Verdict, finding
from lorahub.adapters.rules import RULE_SET, RULES, Severity
from lorahub.adapters.runtimes import RUNTIMES, Loads, RuntimeVerdict
from lorahub.errors import InvalidInput, InvalidReference, Refusal, Unavailable
from lorahub.hub.sources import OWN, Sources, local_place
from lorahub.protocol.messages.checks import CheckedRevision, CheckFinding, RefusedCheck, Verdicts
from lorahub.protocol.messages.message import parse
from lorahub.protocol.references import Reference

MANY = 4
"""Adapters; fewer are read as quickly."""
_MOST_PAIRS = 1000

Answers = Mapping[tuple[str, str | None], CheckedRevision | RefusedCheck]
"""By adapter and base, as they were asked for."""


def registry_reference(source: str, sources: Sources) -> str | None:
    """How the configured registry calls it; None for what is here, on the Hub or on another registry."""
    if local_place(source) is not None or source.startswith("sha256:"):
        return None
    try:
        reference = sources.reference(source)
    except InvalidReference:
        return None
    is_ours = reference.scheme == "lorahub" and sources.origin_of(reference).endpoint == sources.endpoint
    return str(Reference("lorahub", None, reference.repository, reference.revision)) if is_ours else None


def ask(sources: Sources, adapters: Sequence[str], bases: Sequence[str], runtimes: Iterable[str]) -> Answers:
    """Of every adapter and base. What the registry can't or won't tell isn't in the answer: an earlier version of it
    tells nothing, and so does one that is asked by nobody whom it knows.
    """
    origin = sources.origin_of(None)
    if origin.closed_by is not None:
        return {}
    most = max(1, _MOST_PAIRS // max(1, len(bases)))
    found: dict[tuple[str, str | None], CheckedRevision | RefusedCheck] = {}
    body = {"bases": list(bases), "runtimes": sorted(runtimes), "in_rows": True}
    for start in range(0, len(adapters), most):
        some = list(adapters[start : start + most])
        try:
            answer = origin.connect().json("POST", f"{OWN}/checks", body={**body, "adapters": some})
            said = parse(Verdicts, answer, "verdicts")
        except InvalidInput:
            if len(some) == 1:
                return found
            half = len(some) // 2  # names of bases that stand for many
            found |= ask(sources, some[:half], bases, runtimes)
            found |= ask(sources, some[half:], bases, runtimes)
            continue
        except (Refusal, Unavailable):
            return found
        for refused in said.refused:
            found[refused.adapter, refused.base if bases else None] = refused
        for row in said.checks:
            if row.rule_set == RULE_SET and row.digest is not None:
                found[row.adapter, row.base if bases else None] = row
    return found


def refused_finding(refused: RefusedCheck) -> Finding:
    """LH506, as `obstacle` makes it of what was refused here."""
    return finding("LH506", refused.message, [Evidence(refused.code)], hint=refused.hint, code=refused.code)


def report_of(row: CheckedRevision) -> Report | None:
    """None where it says something that these rules don't know."""
    known = {severity.value for severity in Severity}
    if any(found.rule not in RULES or found.severity not in known for found in row.findings):
        return None
    try:
        covered = row.coverage
        return Report(
            Verdict(row.verdict),
            tuple(map(_finding, row.findings)),
            row.matched,
            row.of,
            tuple(
                RuntimeVerdict(
                    one.runtime,
                    Loads(one.loads),
                    tuple((r.rule, r.message) for r in one.reasons),
                    one.needs,
                    one.version,
                )
                for one in row.runtimes
                if one.runtime in RUNTIMES
            ),
            revisions=tuple(
                AtRevision(one.revision, Verdict(one.verdict), one.matched, one.of) for one in row.revisions
            ),
            coverage=NOTHING if covered is None else Coverage(covered.used, covered.named, covered.of),
        )
    except ValueError:
        return None


def _finding(said: CheckFinding) -> Finding:
    evidence = tuple(Evidence(piece.name, piece.found, piece.expected) for piece in said.evidence)
    more = max(0, said.count - len(evidence))
    return Finding(said.rule, said.message, evidence, said.hint, Severity(said.severity), said.facts or {}, more)
