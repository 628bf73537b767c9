"""What an adapter was made from, and what was made from it, over several levels, as far as the visitor may see.

A name that leads to nothing he may see ends its line, whether it is of elsewhere, private, or of nobody.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lorahub.errors import InvalidName
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.access import Reader
from lorahub_registry.features.catalog import service as catalog
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.pages import listing
from lorahub_registry.pages.adapter.gathered import AdapterPage

MOST_CHILDREN = 60
MOST_NODES = 60
MOST_LEVELS = 4
"""In each direction."""


@dataclass(slots=True)
class Line:
    """`edges` go from what was named to who names it. Levels below 0: what it comes from; above: what comes of it."""

    name: str
    levels: dict[str, int] = field(default_factory=dict)
    edges: set[tuple[str, str]] = field(default_factory=set)
    is_whole: bool = True

    def take(self, name: str, level: int) -> bool:
        """Whether it is new and there is room for it."""
        if name in self.levels:
            return False
        if len(self.levels) >= MOST_NODES:
            self.is_whole = False
            return False
        self.levels[name] = level
        return True

    def as_json(self) -> dict[str, Any]:
        nodes = sorted(self.levels.items(), key=lambda item: (item[1], item[0]))
        return {
            "nodes": [{"name": name, "level": level} for name, level in nodes],
            "edges": [list(edge) for edge in sorted(self.edges) if self.levels.keys() >= set(edge)],
            "isWhole": self.is_whole,
        }


def around(reader: Reader, page: AdapterPage) -> dict[str, Any]:
    """`parents` are names, here or elsewhere; `children` rows of this registry that name it as their base.

    `line` has all levels.
    """
    search = Search(tags=(f"base_model:{page.shown['id']}",))
    children, more = listing.adapters(reader, search, limit=MOST_CHILDREN)
    named = list(dict.fromkeys(filter(None, [page.shown["base"], *page.model.facts.base_models])))
    line = Line(page.shown["id"])
    line.take(line.name, 0)
    _ascend(reader, line, named)
    _descend(reader, line)
    _lay_out(line)
    return {"parents": named, "children": children, "more": more is not None, "line": line.as_json()}


def _ascend(reader: Reader, line: Line, named: Iterable[str]) -> None:
    names = {line.name: list(named)}
    for depth in range(1, MOST_LEVELS + 1):
        line.edges |= {(parent, child) for child, parents in names.items() for parent in parents if parent != child}
        new = [name for parents in names.values() for name in parents if line.take(name, -depth)]
        if depth == MOST_LEVELS or not new:
            return
        names = _bases_of(reader, new)


def _bases_of(reader: Reader, names: Iterable[str]) -> dict[str, list[str]]:
    """By name as it is written here; nothing of what is no repository that the visitor may see."""
    parsed = {name: known for name in names if (known := _parsed(name))}
    found = {one.name.lower(): one.base_models for one in catalog.bases_of(reader, list(parsed.values()))}
    return {name: found[known.key] for name, known in parsed.items() if known.key in found}


def _parsed(name: str) -> RepositoryName | None:
    try:
        return RepositoryName.parse(name)
    except InvalidName:
        return None


def _descend(reader: Reader, line: Line) -> None:
    level = [line.name]
    for depth in range(1, MOST_LEVELS + 1):
        found = catalog.made_from(reader, level, limit=MOST_NODES + 1)
        line.is_whole &= len(found) <= MOST_NODES
        named = {one.name: one.base_models for one in found[:MOST_NODES]}
        line.edges |= {
            (base, child) for child, bases in named.items() for base in bases if base in level and base != child
        }
        level = [child for child in named if line.take(child, depth)]
        if not level:
            return


def _lay_out(line: Line) -> None:
    """Each stands beyond all that it comes from, as far as there are levels; what goes in a circle ends there too."""
    levels = line.levels
    known = [(parent, child) for parent, child in sorted(line.edges) if parent in levels and child in levels]
    for _ in range(MOST_LEVELS):
        for parent, child in known:
            if levels[parent] < levels[child]:
                continue
            if levels[parent] > 0 and levels[child] > 0:
                levels[child] = min(levels[parent] + 1, MOST_LEVELS)
            elif levels[parent] < 0 and levels[child] < 0:
                levels[parent] = max(levels[child] - 1, -MOST_LEVELS)
