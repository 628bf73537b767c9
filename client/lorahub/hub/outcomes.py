"""A row of a check, and what becomes of it: the one function from which every report and the exit status follow.

Whatever an entry is, deleted, private, yanked, damaged or not to be reached, it has a row: what couldn't be checked is
undecided by LH506, which says why.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from lorahub.adapters.check import AtRevision, Report
from lorahub.adapters.findings import Evidence, Finding, Verdict, finding, worst_first
from lorahub.adapters.rules import Severity
from lorahub.errors import InvalidUsage, LorahubError
from lorahub.hub.showing import html_table
from lorahub.protocol.references import is_local

FAIL_ON = ("incompatible", "undecided", "warning", "never")

_DOUBTS = frozenset({"LH104", "LH105", "LH106", "LH107", "LH306", "LH506"})
"""What leaves it open whether an adapter fits."""


@dataclass(frozen=True, slots=True)
class CheckedFacts:
    """What the adapter is."""

    format: str
    method: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProjectLine:
    """A line of a file of the project that findings are shown at."""

    path: str
    number: int = 1


@dataclass(frozen=True, slots=True)
class Checked:
    """One adapter against one base.

    `facts` are None of what couldn't be read. `unmet` is what is asked of it beside that it fits: runtimes, and the
    limits of an environment. `ignored` are findings that the project has set aside, with their reasons. `newer` has the
    verdicts for bases that came after the one a lock pins.

    >>> [checked] = hub.check("./out", "./narrow")
    >>> checked.verdict.value, [found.rule for found in checked.report.findings]
    ('incompatible', ['LH202'])
    """

    adapter: str
    base: str | None
    report: Report
    facts: CheckedFacts | None = None
    at: ProjectLine | None = None
    unmet: tuple[Finding, ...] = ()
    ignored: tuple[tuple[Finding, str], ...] = ()
    wanted: tuple[str, ...] = ()
    """Runtimes that were asked for."""
    environment: str | None = None
    newer: tuple[AtRevision, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return self.report.verdict

    @property
    def findings(self) -> list[Finding]:
        """All that count, worst first."""
        return worst_first((*self.report.findings, *self.unmet))

    @property
    def is_undecided(self) -> bool:
        return self.verdict is Verdict.UNDECIDED or any(found.rule == "LH506" for found in self.findings)

    @property
    def target(self) -> str:
        """What it was checked against, for people."""
        base = self.base or "no base"
        return base if self.environment is None else f"{base} for {self.environment}"

    def as_json(self) -> dict[str, object]:
        return {
            "adapter": self.adapter,
            "base": self.base,
            **self.report.as_json(),
            "findings": [found.as_json() for found in self.findings],
            "facts": None if self.facts is None else asdict(self.facts),
            "place": None if self.at is None else self.at.path,
            "line": None if self.at is None else self.at.number,
            "environment": self.environment,
            "newer": [one.as_json() for one in self.newer],
            "ignored": [{**found.as_json(), "reason": reason} for found, reason in self.ignored],
        }

    def _repr_html_(self) -> str:
        """In a notebook: the verdict, and what was found."""
        findings = [(found.rule, found.severity.value, found.message, found.hint or "") for found in self.findings]
        table = html_table(["rule", "severity", "finding", "hint"], findings) if findings else ""
        return Checks([self])._repr_html_() + table


class Checks(list[Checked]):
    """One for each base; in a notebook, a table."""

    def _repr_html_(self) -> str:
        rows = (
            (
                one.adapter,
                one.base or "no base",
                one.verdict.value,
                f"{one.report.matched} of {one.report.of}",
                ", ".join(dict.fromkeys(found.rule for found in one.findings)),
            )
            for one in self
        )
        return html_table(["adapter", "base", "verdict", "modules", "rules"], rows)


# --- what becomes of it -----------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    FAILED = "failed"
    UNDECIDED = "undecided"
    PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Judgement:
    """`because` are the findings that make it fail, worst first."""

    checked: Checked
    outcome: Outcome
    because: tuple[Finding, ...] = ()

    def level(self, found: Finding) -> Severity:
        """What a finding counts here: an error is what makes the row fail, and nothing else."""
        if found in self.because:
            return Severity.ERROR
        return Severity.WARNING if found.severity is Severity.ERROR else found.severity


def judge(checked: Checked, fail_on: str) -> Judgement:
    """What becomes of a row by what is said to fail: `FAIL_ON`."""
    because = tuple(found for found in checked.findings if _fails(checked, found, fail_on))
    if because:
        return Judgement(checked, Outcome.FAILED, because)
    return Judgement(checked, Outcome.UNDECIDED if checked.is_undecided else Outcome.PASSED)


def _fails(checked: Checked, found: Finding, fail_on: str) -> bool:
    if fail_on == "never":
        return False
    if found.severity is Severity.ERROR:
        return True
    if fail_on == "undecided":
        return checked.is_undecided and found in _doubts(checked)
    return fail_on == "warning" and found.severity is Severity.WARNING


def _doubts(checked: Checked) -> list[Finding]:
    return [found for found in checked.findings if found.rule in _DOUBTS] or checked.findings


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Every row of a run with what becomes of it, and the exit status that follows."""

    rows: tuple[Judgement, ...]
    fail_on: str

    @classmethod
    def of(cls, results: Iterable[Checked], fail_on: str) -> "Outcomes":
        """Where nothing at all could be read, nothing was checked: that is never green, unless nothing is to fail."""
        rows = tuple(results)
        strict = "undecided" if all(map(is_unread, rows)) and fail_on == "incompatible" else fail_on
        return cls(tuple(judge(checked, strict) for checked in rows), fail_on)

    @property
    def exit_code(self) -> int:
        """2 where there was nothing to check."""
        if not self.rows:
            return InvalidUsage.exit_code
        return 1 if any(row.outcome is Outcome.FAILED for row in self.rows) else 0

    @property
    def worst_first(self) -> list[Judgement]:
        outcomes, verdicts = list(Outcome), [*map(Verdict, ("incompatible", "undecided", "fits", "compatible"))]
        return sorted(
            self.rows,
            key=lambda row: (outcomes.index(row.outcome), verdicts.index(row.checked.verdict), row.checked.adapter),
        )

    def summary(self) -> dict[str, int]:
        """How many of each verdict."""
        return {verdict.value: sum(row.checked.verdict is verdict for row in self.rows) for verdict in Verdict}

    def outcomes(self) -> dict[str, int]:
        return {outcome.value: sum(row.outcome is outcome for row in self.rows) for outcome in Outcome}

    def breaking(self) -> dict[str, tuple[int, int]]:
        """Of each newer base of what is locked: how many would break there, of how many."""
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            for one in row.checked.newer:
                name = f"{row.checked.base}@{one.revision or '?'}"
                broken, of = found.get(name, (0, 0))
                found[name] = (broken + (one.verdict is Verdict.INCOMPATIBLE), of + 1)
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "checks": [
                {**row.checked.as_json(), "outcome": row.outcome.value, "failed_by": [f.rule for f in row.because]}
                for row in self.rows
            ],
            "summary": self.summary(),
            "outcomes": self.outcomes(),
            "fail_on": self.fail_on,
            "exit_code": self.exit_code,
            "newer": [{"base": base, "breaks": broken, "of": of} for base, (broken, of) in self.breaking().items()],
        }


# --- rows of what can't be checked ------------------------------------------------------------------------------------


def is_unread(checked: Checked) -> bool:
    """Whether nothing of it could be read."""
    return checked.facts is None and checked.is_undecided


def obstacle(error: LorahubError | OSError) -> Finding:
    """LH506: what kept it from being checked."""
    if isinstance(error, LorahubError):
        return finding("LH506", error.message, [Evidence(error.code)], hint=error.hint, code=error.code)
    told = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return finding("LH506", told, [Evidence(type(error).__name__)], code=type(error).__name__)


def undecided(adapter: str, base: str | None, found: Finding, **more: Any) -> Checked:
    """The row of what couldn't be checked."""
    return Checked(adapter, base, Report(Verdict.UNDECIDED, (found,), 0, 0), **more)


# --- the same finding in another run ----------------------------------------------------------------------------------


def fingerprints(checked: Checked, findings: Sequence[Finding]) -> Iterator[str]:
    """One for each finding: the same in every run that finds it, whatever commits adapter and base have by then."""
    seen: dict[str, int] = {}
    for found in findings:
        first = found.evidence[0].name if found.evidence else ""
        parts = (
            found.rule,
            plain_name(checked.adapter),
            plain_name(checked.base or ""),
            checked.environment or "",
            str(found.facts.get("runtime", "")),
            first if found.rule != "LH506" else "",
        )
        whole = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
        seen[whole] = seen.get(whole, 0) + 1
        yield whole if seen[whole] == 1 else hashlib.sha256(f"{whole}\n{seen[whole]}".encode()).hexdigest()


def plain_name(name: str) -> str:
    """A reference without its revision; a folder's path as it is written.

    >>> plain_name("acme/sql@v3"), plain_name("./adapters/a@b/")
    ('acme/sql', 'adapters/a@b')
    """
    if is_local(name):
        return name.removeprefix("./").rstrip("/")
    return name.partition("@")[0].rstrip("/")
