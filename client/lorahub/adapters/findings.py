"""What the checker observes: findings, each with a stable rule, and the verdict they add up to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lorahub.adapters.rules import RULES, Severity

_MOST_SHOWN = 200
_LONGEST = 1000  # characters: names and settings are somebody's, and findings are stored and shown


class Verdict(StrEnum):
    """Whether an adapter and a base belong together."""

    COMPATIBLE = "compatible"  # everything fits, and these are the weights it was trained on
    FITS = "fits"  # every shape agrees; whether the weights are the same is unknown, or they differ
    INCOMPATIBLE = "incompatible"
    UNDECIDED = "undecided"  # the base or the method isn't known


@dataclass(frozen=True, slots=True)
class Evidence:
    """One tensor or setting behind a finding: what is there, and what was expected instead."""

    name: str
    found: str | None = None
    expected: str | None = None

    def as_json(self) -> dict[str, str | None]:
        return {"name": _short(self.name), "found": _short(self.found), "expected": _short(self.expected)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation. `rule` is a key of `rules.RULES`, whose page says cause and cure.

    `more` pieces of evidence are not among those that are here: a registry sends the first of many.
    """

    rule: str
    message: str
    evidence: tuple[Evidence, ...] = ()
    hint: str | None = None
    severity: Severity = Severity.ERROR
    facts: Mapping[str, Any] = field(default_factory=dict)
    more: int = 0

    @property
    def count(self) -> int:
        """How many pieces of evidence there are, sent or not."""
        return len(self.evidence) + self.more

    def as_json(self) -> dict[str, Any]:
        """At most 200 pieces of evidence; `count` says how many there are."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "title": RULES[self.rule].title,
            "message": self.message,
            "hint": self.hint,
            "count": self.count,
            "evidence": [piece.as_json() for piece in self.evidence[:_MOST_SHOWN]],
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def finding(
    rule: str,
    message: str,
    evidence: Iterable[Evidence] = (),
    *,
    hint: str | None = None,
    severity: Severity | None = None,
    **facts: Any,
) -> Finding:
    """A finding with the rule's own severity and cure, unless said otherwise."""
    known = RULES[rule]
    return Finding(rule, message[:_LONGEST], tuple(evidence), hint or known.cure, severity or known.severity, facts)


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.severity is Severity.ERROR for finding in findings)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    order = list(Severity)
    return sorted(findings, key=lambda found: (order.index(found.severity), found.rule))


def shape_text(shape: Iterable[int | None] | None) -> str:
    """Write a shape for people.

    >>> shape_text((4096, None))
    '[4096, any]'
    """
    return "nothing" if shape is None else f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
