"""What an adapter was made from, and what was made from it: a column for each level, and lines between them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from xml.etree.ElementTree import Element

from lorahub_registry.pictures.picture import Picture, canvas, drawn, label, mark

MOST_IN_A_COLUMN = 12
_BOX, _GAP, _LINE = 220, 60, 34

Place = tuple[float, float]


def lineage(name: str, levels: Mapping[str, int], edges: Iterable[Sequence[str]]) -> Picture:
    """`levels` by name, of `name` 0, of what it comes from below; an edge goes from what was named to who names it."""
    title = f"Where {name} comes from"
    above, below = (sum(sign * level > 0 for level in levels.values()) for sign in (-1, 1))
    finding = f"{name} comes from {_count(above, 'model')}, and {_count(below, 'repository')} here "
    finding += f"{'comes' if below == 1 else 'come'} from it."
    ordered = sorted(levels, key=lambda one: (levels[one], one))
    columns = [list(group) for _, group in groupby(ordered, key=lambda one: levels[one])]
    edges = [(one, other) for one, other in edges]
    height = _LINE * max(min(len(column), MOST_IN_A_COLUMN + 1) for column in columns) + 8
    if any(levels.get(other, 0) - levels.get(one, 0) > 1 for one, other in edges):
        height += 2 * _LINE
    root = canvas(title, finding, len(columns) * (_BOX + _GAP) - _GAP + 4, height)
    places = _places(columns, height)
    for one, other in edges:
        if one in places and other in places and places[one][0] < places[other][0]:
            _link(root, places[one], places[other])
    for one, (x, y) in places.items():
        _box(root, one, x, y, "node here" if one == name else "node")
    for number, column in enumerate(columns):
        if len(column) > MOST_IN_A_COLUMN:
            y = _heights(MOST_IN_A_COLUMN + 1, height)[-1]
            label(root, f"+{len(column) - MOST_IN_A_COLUMN} more", number * (_BOX + _GAP) + 11, y + 4)
    rows = [[one, _words(levels[one]), ", ".join(sorted(a for a, b in edges if b == one))] for one in ordered]
    return Picture(title, finding, drawn(root), ["Name", "Where", "Made from"], rows)


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def _words(level: int) -> str:
    if level == 0:
        return "this one"
    return f"{_count(abs(level), 'level')} {'up' if level < 0 else 'down'}"


def _places(columns: Sequence[Sequence[str]], height: float) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for number, column in enumerate(columns):
        heights = _heights(min(len(column), MOST_IN_A_COLUMN + 1), height)
        for one, y in zip(column[:MOST_IN_A_COLUMN], heights, strict=False):
            places[one] = (number * (_BOX + _GAP) + 1, y)
    return places


def _heights(count: int, height: float) -> list[float]:
    first = height / 2 - _LINE * (count - 1) / 2
    return [first + _LINE * index for index in range(count)]


def _link(root: Element, start: Place, end: Place) -> None:
    """One that passes over columns goes in a bow, so that no box hides it."""
    (x1, y1), (x2, y2) = (start[0] + _BOX - 2, start[1]), end
    bow = 0 if x2 - x1 < _BOX else 1.6 * _LINE
    bend = (x2 - x1) / 2 if bow == 0 else _GAP
    points = [(x1, y1), (x1 + bend, y1 + bow), (x2 - bend, y2 + bow), (x2, y2)]
    first, *others = (f"{x:.1f} {y:.1f}" for x, y in points)
    mark(root, "path", "link", d=f"M{first}C{' '.join(others)}")


def _box(root: Element, name: str, x: float, y: float, kind: str) -> None:
    mark(root, "rect", kind, value=name, tip=name, x=x, y=y - 13, width=_BOX - 2, height=26, rx=5)
    label(root, name if len(name) <= 32 else "…" + name[-31:], x + 10, y + 4)
