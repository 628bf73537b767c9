"""What a search can be narrowed by: terms that follow from a revision's facts, and their counts. Pure.

A term is `kind:value`. Those of an adapter's check (`method:lora`, `fits:vllm`, `target:q_proj`, `verdict:fits`) are
measured; these here are said by card and configuration, and bear other names.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from lorahub_registry.features.catalog.facts import Facts

T = TypeVar("T", bound=Hashable)

MOST_VALUE_LENGTH = 96  # characters
MOST_LISTED = 12  # values of one facet

TERM_FACETS = (
    "base", "kind", "fits", "target", "method", "format", "task", "language", "license", "dtype", "has", "verdict",
    "library", "alias", "tag",
)  # fmt: skip
"""Kinds of terms that a search takes as they are."""

COUNTED = tuple(facet for facet in TERM_FACETS if facet != "tag")

RANKS = {"..4": (1, 4), "5..8": (5, 8), "9..16": (9, 16), "17..32": (17, 32), "33..64": (33, 64), "65..": (65, None)}
SIZES = {"..1M": (0, 10**6), "1M..10M": (10**6, 10**7), "10M..100M": (10**7, 10**8), "100M..": (10**8, None)}
"""Of parameters; from, and up to but without."""
AGES = {"7": timedelta(days=7), "30": timedelta(days=30), "365": timedelta(days=365)}

_RANGES: Mapping[str, Iterable[str]] = {"rank": RANKS, "size": SIZES, "updated": AGES}

_LANGUAGE_TASKS = ("text-generation", "text2text-generation", "text-classification", "token-classification",
                   "question-answering", "feature-extraction", "fill-mask", "summarization", "translation")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Match:
    """What is counted of one repository that a search found."""

    least_rank: int | None
    most_rank: int | None
    parameters: int | None
    namespace: str
    newer_than: Sequence[bool]
    """For each of `AGES`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: how many repositories have each term, and the rest of each."""

    terms: Mapping[str, int]
    matches: Sequence[Match]


def terms_of(facts: Facts) -> Iterator[str]:
    """What a search by facets finds a revision by."""
    card = facts.card_data or {}
    yield f"kind:{_kind(facts)}"
    said: dict[str, list[str]] = {
        "task": _listed(facts.pipeline_tag),
        "library": _listed(facts.library_name),
        "dtype": _listed(_dtype(facts)),
        "language": _listed(card.get("language")),
        "license": _listed(card.get("license")),
    }
    for name, values in said.items():
        yield from (f"{name}:{value.lower()}" for value in values if _is_usable(value))
    for what, is_there in (
        ("evals", card.get("model-index")),
        ("trigger words", card.get("instance_prompt")),
        ("previews", card.get("widget")),
    ):
        if is_there:
            yield f"has:{what}"


def _kind(facts: Facts) -> str:
    if facts.library_name == "diffusers" or facts.pipeline_tag in ("text-to-image", "image-to-image", "text-to-video"):
        return "diffusion"
    return "language" if facts.pipeline_tag in _LANGUAGE_TASKS else "other"


def _dtype(facts: Facts) -> str | None:
    """That of most parameters."""
    counts = (facts.safetensors or {}).get("parameters") or {}
    return max(counts, key=lambda name: counts[name]) if counts else None


def _listed(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)][:20]


def _is_usable(value: str) -> bool:
    return 0 < len(value) <= MOST_VALUE_LENGTH and value.isprintable()


def count(found: Found) -> dict[str, dict[str, int]]:
    """How many have each value, by facet; the commonest first, ranges in their own order."""
    counts: dict[str, Counter[str]] = {facet: Counter() for facet in COUNTED}
    for term, number in found.terms.items():
        kind, _, value = term.partition(":")
        if kind in COUNTED:
            counts[kind][value] += number
    matches = found.matches
    counts["author"] = Counter(match.namespace for match in matches)
    counts["rank"] = _spread(((match.least_rank, match.most_rank) for match in matches), _ranks_of)
    counts["size"] = _spread((match.parameters for match in matches), _sizes_of)
    counts["updated"] = _spread((tuple(match.newer_than) for match in matches), _ages_of)
    return {facet: _in_order(facet, among) for facet, among in counts.items()}


def _spread(values: Iterable[T], names_of: Callable[[T], Iterable[str]]) -> Counter[str]:
    """How many values have each name. A value is looked at once, however many have it."""
    spread: Counter[str] = Counter()
    for value, number in Counter(values).items():
        for name in names_of(value):
            spread[name] += number
    return spread


def _ranks_of(ranks: tuple[int | None, int | None]) -> list[str]:
    """The ranges that an adapter of ranks from the first to the second meets."""
    least, most = ranks
    if least is None or most is None:
        return []
    return [name for name, (low, high) in RANKS.items() if most >= low and (high is None or least <= high)]


def _sizes_of(size: int | None) -> list[str]:
    return [] if size is None else [n for n, (low, high) in SIZES.items() if size >= low and (not high or size < high)]


def _ages_of(newer_than: Sequence[bool]) -> list[str]:
    return [name for name, is_newer in zip(AGES, newer_than, strict=True) if is_newer]


def _in_order(facet: str, among: Counter[str]) -> dict[str, int]:
    if facet in _RANGES:
        return {name: among[name] for name in _RANGES[facet] if among[name]}
    return dict(sorted(among.items(), key=lambda item: (-item[1], item[0]))[:MOST_LISTED])
