"""eval.json: what an adapter was measured to do on some rows, beside its files; and the same as the card's model-index.

loss          nats a token that is predicted, over all of them
perplexity    e to that
exact_match   share of rows whose every such token is the most likely one: what greedy decoding would write
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lorahub.adapters.findings import Evidence, Finding, finding
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.manifest import is_sha256
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidInput

EVALUATION = "eval.json"
SCHEMA = 1

_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*$\r?\n?", re.DOTALL | re.MULTILINE)
_INDEX = re.compile(r"^model-index:.*\n(?:[ \t-].*\n|\n)*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Score:
    """What one model reached on all rows."""

    loss: float
    exact_match: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # beyond it there is no float64

    def as_json(self) -> dict[str, float]:
        return {"loss": self.loss, "perplexity": self.perplexity, "exact_match": self.exact_match}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`scores` by `base`, `adapter` and, where it can be, `merged`; `weights` is the sha256 of the adapter's file.

    `data` has the name, sha256, format, rows and tokens; `settings` what else the numbers depend on.
    """

    scores: Mapping[str, Score]
    weights: str
    data: Mapping[str, Any]
    base: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "scores": {name: score.as_json() for name, score in self.scores.items()},
            "weights": self.weights,
            "data": dict(self.data),
            "base": dict(self.base),
            "settings": dict(self.settings),
        }

    def as_bytes(self) -> bytes:
        return (json.dumps(self.as_json(), indent=2, sort_keys=True) + "\n").encode()


def parse_evaluation(raw: bytes) -> Evaluation:
    """Raises `InvalidInput` for what isn't an eval.json of this schema."""
    value = parse_json(raw, error=InvalidInput, max_bytes=LIMITS.config_bytes)
    fields: Mapping[str, Any] = value if isinstance(value, dict) else {}
    scores, data, base, settings = (fields.get(key) for key in ("scores", "data", "base", "settings"))
    is_whole = all(isinstance(part, dict) for part in (scores, data, base, settings))
    if fields.get("schema") != SCHEMA or not is_whole or not is_sha256(fields.get("weights")):
        raise InvalidInput(f"{EVALUATION} is none of this version", hint="lorahub eval writes it anew")
    assert isinstance(scores, dict)
    found = {str(name): Score(*_numbers(score)) for name, score in scores.items()}
    if "adapter" not in found:
        raise InvalidInput(f"{EVALUATION} has no score of the adapter", hint="lorahub eval writes it anew")
    return Evaluation(found, fields["weights"], data or {}, base or {}, settings or {})


def _numbers(score: Any) -> Iterator[float]:
    for name in ("loss", "exact_match"):
        number = score.get(name) if isinstance(score, dict) else None
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise InvalidInput(f"{EVALUATION} has no usable {name}", hint="lorahub eval writes it anew")
        yield float(number)


# --- compared ---------------------------------------------------------------------------------------------------------


def regressions(recorded: Evaluation, now: Evaluation, tolerance: float) -> list[Finding]:
    """LH504 where the adapter is worse than what is recorded: a loss higher by more than the share `tolerance`, or
    fewer rows exact by more than that share of all. LH505 where the two can't be compared.
    """
    for what, before, after in (
        ("rows", recorded.data.get("sha256"), now.data.get("sha256")),
        ("weights", recorded.weights, now.weights),
        ("settings", recorded.settings, now.settings),
    ):
        if before != after:
            evidence = [Evidence(what, str(after), str(before))]
            return [finding("LH505", f"what is recorded was measured with other {what}", evidence)]
    before, after = recorded.scores["adapter"], now.scores["adapter"]
    worse = []
    if after.loss > before.loss * (1 + tolerance):
        worse.append(Evidence("loss", f"{after.loss:.4f}", f"{before.loss:.4f}"))
    if after.exact_match < before.exact_match - tolerance:
        worse.append(Evidence("exact_match", f"{after.exact_match:.1%}", f"{before.exact_match:.1%}"))
    if not worse:
        return []
    said = ", ".join(f"{piece.name} {piece.found}, recorded {piece.expected}" for piece in worse)
    return [finding("LH504", f"{said}; tolerance {tolerance:.1%}", worse)]


# --- on the card ------------------------------------------------------------------------------------------------------


def model_index(name: str, evaluation: Evaluation) -> list[dict[str, Any]]:
    """As the Hub's cards have it."""
    metrics = [
        {"type": metric, "name": title, "value": round(value, 6)}
        for (metric, value), title in zip(
            evaluation.scores["adapter"].as_json().items(), ("Loss", "Perplexity", "Exact match"), strict=True
        )
    ]
    data = str(evaluation.data.get("name"))
    dataset = {"name": data, "type": "jsonl", "args": {"sha256": evaluation.data.get("sha256")}}
    results = [{"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}]
    return [{"name": name, "results": results}]


def card_with(card: str, name: str, evaluation: Evaluation) -> str:
    """The card with this evaluation as its model-index, and nothing else changed."""
    import yaml

    index = {"model-index": model_index(name, evaluation)}
    block = yaml.safe_dump(index, sort_keys=False, allow_unicode=True, default_flow_style=False)
    front = _FRONT.match(card)
    kept = _INDEX.sub("", front[1]) if front else ""
    return f"---\n{kept}{block}---\n{card[front.end() :] if front else chr(10) + card}"
