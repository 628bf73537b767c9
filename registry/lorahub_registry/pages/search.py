"""Search, as a page and as an Atom feed: what is asked, what can be taken away, and what it can be narrowed by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from fastapi import Response
from lorahub.protocol.messages.message import wire_time

from lorahub_registry.core.access import Reader, looking
from lorahub_registry.core.accounts.viewer import ViewDep
from lorahub_registry.features.catalog import service as catalog
from lorahub_registry.features.catalog.facets import AGES, SIZES, TERM_FACETS
from lorahub_registry.features.catalog.search import (
    MAX_TERMS,
    Search,
    parse_ranks,
    parse_sort,
    parse_term,
    parse_terms,
)
from lorahub_registry.infrastructure.database import now
from lorahub_registry.infrastructure.web.pages import PageRouter, render_feed
from lorahub_registry.pages import listing

router = PageRouter()


@router.page("/search")
def search(view: ViewDep, cursor: str | None = None) -> Response:
    asked = parse(view.request.query_params.multi_items())
    with looking(view.backend, view.principal) as reader:
        data = look(reader, asked, cursor)
    html = {"sorts": SORTS, "chosen_pairs": asked.chosen, "feed": asked.address(path="/search.atom"), "cursor": cursor}
    return view.render("pages/search.html", data, html=html)


@router.page("/search.atom", twin=False)
def feed(view: ViewDep) -> Response:
    """The adapters that changed last, of those the search finds."""
    asked = parse(view.request.query_params.multi_items())
    with looking(view.backend, view.principal) as reader:
        rows, _ = listing.adapters(reader, asked.as_search())
    data = {
        "rows": rows,
        "updated": rows[0]["updatedAt"] if rows else wire_time(now()),
        "address": view.chrome.url + asked.address(),
        "itself": view.chrome.url + asked.address(path="/search.atom"),
    }
    return render_feed(view.request, "pages/search.atom", data, chrome=view.chrome)


# --- what it gathers -------------------------------------------------------------------------------------------------

LABELS = {
    "base": "Base model",
    "kind": "Kind",
    "fits": "Loads in",
    "rank": "Rank",
    "target": "Targets",
    "method": "Method",
    "format": "Format",
    "task": "Task",
    "language": "Language",
    "license": "Licence",
    "size": "Parameters",
    "dtype": "Type",
    "has": "Has",
    "verdict": "Check",
    "library": "Library",
    "author": "Owner",
    "updated": "Updated",
    "alias": "Alias",
    "tag": "Tag",
    "yanked": "Withdrawn",
}
"""In the order in which they are shown."""

SORTS = {
    "lastModified": "updated last",
    "trendingScore": "used most lately",
    "downloads": "downloaded most",
    "createdAt": "newest",
}
WORDS = {
    "rank": {
        "..4": "up to 4",
        "5..8": "5 to 8",
        "9..16": "9 to 16",
        "17..32": "17 to 32",
        "33..64": "33 to 64",
        "65..": "65 and more",
    },
    "size": {"..1M": "below 1M", "1M..10M": "1M to 10M", "10M..100M": "10M to 100M", "100M..": "100M and more"},
    "updated": {"7": "last 7 days", "30": "last 30 days", "365": "last year"},
    "verdict": {"compatible": "same base", "fits": "fits, untested", "incompatible": "does not fit"},
    "kind": {"language": "language model", "diffusion": "image and video"},
    "yanked": {"1": "shown too"},
}
SEVERAL = frozenset({"fits", "target", "tag", "has", "language", "alias"})
"""Facets of which an adapter can have several values, so that several can be asked."""
MOST_WORDS = 10

Chosen = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """`chosen` are facets with a value, in the order of the address."""

    text: str
    chosen: Chosen
    sort: str

    def address(self, chosen: Chosen | None = None, *, path: str = "/search", **more: str) -> str:
        """Of this search with other choices."""
        query = [("search", self.text)] if self.text else []
        query += self.chosen if chosen is None else chosen
        query += [("sort", self.sort)] if self.sort != "lastModified" else []
        query += more.items()
        return f"{path}?{urlencode(query)}" if query else path

    def without(self, facet: str, value: str) -> Chosen:
        return [one for one in self.chosen if one != (facet, value)]

    def with_(self, facet: str, value: str) -> Chosen:
        kept = self.chosen if facet in SEVERAL else [one for one in self.chosen if one[0] != facet]
        return [*kept, (facet, value)]

    def as_search(self) -> Search:
        """Raises `InvalidInput`."""
        values: dict[str, list[str]] = {}
        for facet, value in self.chosen:
            values.setdefault(facet, []).append(parse_term(value, what=facet))
        search = Search(
            words=parse_terms([self.text.lower().replace(",", " ").replace(" ", ",")], what="words")[:MOST_WORDS],
            labels=tuple(f"{facet}:{value}" for facet, value in self.chosen if facet in TERM_FACETS),
            author=values["author"][-1] if "author" in values else None,
            hides_withdrawn=("yanked", "1") not in self.chosen,
            sort=parse_sort(self.sort),
        )
        return _bounded(search, values)


def _bounded(search: Search, values: Mapping[str, Sequence[str]]) -> Search:
    if "rank" in values:
        least, most = parse_ranks(values["rank"][-1])
        search = replace(search, least_rank=least, most_rank=most)
    if "size" in values and values["size"][-1] in SIZES:
        low, high = SIZES[values["size"][-1]]
        search = replace(search, least_parameters=low, most_parameters=high - 1 if high else None)
    if "updated" in values and values["updated"][-1] in AGES:
        search = replace(search, since=now() - AGES[values["updated"][-1]])
    return search


def parse(query: Iterable[tuple[str, str]]) -> Asked:
    """What it doesn't know in an address asks for nothing. Never raises; `as_search` does."""
    pairs = [(name, value.strip()) for name, value in query if value.strip()]
    given = dict(pairs)
    chosen = list(dict.fromkeys((name, _folded(name, value)) for name, value in pairs if name in LABELS))[:MAX_TERMS]
    return Asked(text=given.get("search", "")[:300], chosen=chosen, sort=given.get("sort", "lastModified"))


def _folded(facet: str, value: str) -> str:
    """As the catalog writes it."""
    return value.removeprefix("hf:").lower() if facet in ("base", "language", "license", "task", "library") else value


# --- results ----------------------------------------------------------------------------------------------------------


def look(reader: Reader, asked: Asked, cursor: str | None) -> dict[str, Any]:
    """A page of results with facets. Raises `InvalidInput`."""
    search = asked.as_search()
    rows, following = listing.adapters(reader, search, cursor=cursor)
    found = catalog.count(reader, search)
    withdrawn = catalog.count_withdrawn(reader, search)
    counts = {**found.counts, "yanked": {"1": withdrawn} if withdrawn else {}}
    return {
        "search": asked.text,
        "sort": asked.sort,
        "results": rows,
        "next": asked.address(cursor=following) if following else None,
        "found": found.total,
        "isCountedWhole": found.is_whole,
        "chosen": [_chip(asked, facet, value) for facet, value in asked.chosen],
        "facets": [_facet(asked, facet, counts) for facet, counts in _shown(counts)],
        "instead": [] if rows or cursor else _instead(reader, asked),
    }


def _shown(counts: Mapping[str, Mapping[str, int]]) -> Iterable[tuple[str, Mapping[str, int]]]:
    return ((facet, counts[facet]) for facet in LABELS if counts.get(facet))


def _chip(asked: Asked, facet: str, value: str) -> dict[str, Any]:
    return {
        "facet": facet,
        "label": LABELS[facet],
        "value": value,
        "words": _words(facet, value),
        "without": asked.address(asked.without(facet, value)),
    }


def _facet(asked: Asked, facet: str, counts: Mapping[str, int]) -> dict[str, Any]:
    values = [
        {
            "value": value,
            "words": _words(facet, value),
            "count": count,
            "chosen": (facet, value) in asked.chosen,
            "address": asked.address(
                asked.without(facet, value) if (facet, value) in asked.chosen else asked.with_(facet, value)
            ),
        }
        for value, count in counts.items()
    ]
    return {"name": facet, "label": LABELS[facet], "values": values}


def _words(facet: str, value: str) -> str:
    return WORDS.get(facet, {}).get(value, value)


def _instead(reader: Reader, asked: Asked) -> list[dict[str, Any]]:
    """Which condition to drop, and what would be found then."""
    ways = []
    for facet, value in asked.chosen:
        narrower = replace(asked, chosen=asked.without(facet, value))
        found = catalog.count(reader, narrower.as_search())
        if found.total:
            ways.append({**_chip(asked, facet, value), "count": found.total})
    return sorted(ways, key=lambda way: -int(str(way["count"])))
