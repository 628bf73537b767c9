"""What a listing asks for, parsed from what a client wrote in the query."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from lorahub.adapters.runtimes import RUNTIMES, parse_runtime
from lorahub.errors import InvalidInput

MAX_TERMS = 20
MOST_RANK = 999_999
MAX_TERM_LENGTH = 300  # characters
MOST_PARAMETERS = 2**63 - 1  # what a database compares

Sort = Literal["lastModified", "createdAt", "downloads", "likes", "trendingScore"]
"""Each descending, the newest repository first among equals."""

_SORTS: dict[str, Sort] = {
    "lastModified": "lastModified",
    "last_modified": "lastModified",
    "createdAt": "createdAt",
    "created_at": "createdAt",
    "downloads": "downloads",
    "likes": "likes",
    "trendingScore": "trendingScore",
    "trending_score": "trendingScore",
}
_APPS = {"mlx-lm": "mlx"}
"""Runtimes that the Hub calls otherwise."""

_COUNT = re.compile(r"(min|max):([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMBT]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Search:
    """Every condition must hold."""

    texts: tuple[str, ...] = ()
    """Lower case; each a part of `namespace/name`."""
    words: tuple[str, ...] = ()
    """Lower case; each a part of `namespace/name`, a tag, or the name of the base."""
    author: str | None = None
    tags: tuple[str, ...] = ()
    is_gated: bool | None = None
    least_parameters: int | None = None
    most_parameters: int | None = None
    base: str | None = None
    """The base's name, as adapters claim it."""
    labels: tuple[str, ...] = ()
    """`target:q_proj`, `fits:vllm`, `method:lora`, `verdict:fits`: what was measured of an adapter."""
    least_rank: int | None = None
    most_rank: int | None = None
    since: datetime | None = None
    """Changed at this time or after it."""
    hides_withdrawn: bool = False
    """Leaves out repositories every version of which is yanked."""
    sort: Sort = "lastModified"

    @property
    def terms(self) -> list[str]:
        """As they are written in the catalog."""
        base = [f"base:{self.base.lower()}"] if self.base is not None else []
        return [*(f"tag:{tag}" for tag in self.tags), *base, *self.labels]

    @property
    def asks_for_contents(self) -> bool:
        """Of `main`, not only of the repository itself."""
        bounds = (self.least_parameters, self.most_parameters, self.least_rank, self.most_rank)
        return bool(self.texts or self.words or self.terms) or any(bound is not None for bound in bounds)


def parse_ranks(text: str) -> tuple[int, int]:
    """Least and most rank, from `16` or `8..64`, either end left out. Raises `InvalidInput`.

    >>> parse_ranks("8..64"), parse_ranks("16"), parse_ranks("..32")
    ((8, 64), (16, 16), (1, 32))
    """
    least, dots, most = text.partition("..")
    ends = (least or "1", (most or str(MOST_RANK)) if dots else least)
    if not all(end.isascii() and end.isdecimal() and len(end) <= 6 for end in ends):
        raise InvalidInput(f"not a range of ranks: {text[:40]!a}", hint="write 16, 8..64, 8.. or ..64")
    return int(ends[0]), int(ends[1])


def parse_sort(text: str, direction: int | None = None) -> Sort:
    """`direction` is -1 in what older clients write. Raises `InvalidInput`."""
    if text not in _SORTS:
        known = ", ".join(dict.fromkeys(_SORTS.values()))
        raise InvalidInput(f"can't sort by {text[:80]!a}", hint=f"sort by one of: {known}")
    if direction not in (None, -1):
        raise InvalidInput("`direction` is -1: lists begin with the most, or the newest", hint="leave it out")
    return _SORTS[text]


def parse_apps(values: Iterable[str]) -> tuple[str, ...]:
    """The runtimes that the Hub's apps are. Raises `InvalidInput` for one that nothing is checked for."""
    runtimes = tuple(_APPS.get(app.lower(), app.lower()) for app in parse_terms(values, what="apps"))
    unknown = [runtime for runtime in runtimes if runtime not in RUNTIMES]
    if unknown:
        raise InvalidInput(
            f"`apps` takes no {unknown[0][:80]!a}: adapters aren't checked for it",
            hint=f"it takes: {', '.join(RUNTIMES)}",
        )
    return runtimes


def parse_fits(values: Iterable[str]) -> tuple[str, ...]:
    """Runtimes, at a version where one is named: as `vllm@0.32.0` in the catalog. Raises `InvalidUsage`."""
    return tuple(_at_version(term) if "@" in term else term for term in parse_terms(values, what="fits"))


def _at_version(term: str) -> str:
    asked = parse_runtime(term)
    if asked.quantisation is not None:
        raise InvalidInput("the catalog knows no quantised bases", hint=f"search for {asked.runtime.name} alone")
    return str(asked)


def parse_terms(values: Iterable[str], *, what: str) -> tuple[str, ...]:
    """The distinct terms of repeated and comma-separated values. Raises `InvalidInput` for too many, or too long."""
    terms = tuple(dict.fromkeys(term.strip() for value in values for term in value.split(",") if term.strip()))
    if len(terms) > MAX_TERMS:
        raise InvalidInput(f"{len(terms)} values of {what}; at most {MAX_TERMS} are taken")
    return tuple(parse_term(term, what=what) for term in terms)


def parse_term(text: str, *, what: str) -> str:
    """Raises `InvalidInput` for what no stored text can equal, and for what a database can't be asked."""
    if len(text) > MAX_TERM_LENGTH or not text.isprintable():
        raise InvalidInput(
            f"not a usable value of {what}: {text[:80]!a}", hint=f"use at most {MAX_TERM_LENGTH} printable characters"
        )
    return text


def parse_parameters(text: str) -> tuple[int | None, int | None]:
    """Least and most number of parameters, from `min:6B,max:128B` or one half of it. Raises `InvalidInput`.

    >>> parse_parameters("min:0.5B"), parse_parameters("min:1K,max:2M")
    ((500000000, None), (1000, 2000000))
    """
    bounds: dict[str, int] = {}
    for part in text.split(",", 2):
        match = _COUNT.fullmatch(part.strip())
        if match is None:
            raise InvalidInput(
                f"not a number of parameters: {text[:80]!a}", hint="write min:6B,max:128B or one of the two"
            )
        bounds[match[1].lower()] = min(int(float(match[2]) * _UNITS[match[3].upper()]), MOST_PARAMETERS)
    return bounds.get("min"), bounds.get("max")
