"""What an adapter was made from, and what was made from it: three columns, and lines between them."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from lorahub_registry.pictures.picture import Picture, canvas, drawn, label, mark

MOST_IN_A_COLUMN = 12
_BOX, _GAP, _LINE = 220, 60, 34


def lineage(name: str, parents: Sequence[str], children: Sequence[str]) -> Picture:
    title = f"Where {name} comes from"
    finding = (
        f"{name} names {_count(len(parents), 'model')} as its base, and {_count(len(children), 'repository')} here"
    )
    finding += f" {'names' if len(children) == 1 else 'name'} it as theirs."
    columns = [list(parents)[:MOST_IN_A_COLUMN], [name], list(children)[:MOST_IN_A_COLUMN]]
    height = _LINE * max(1, *map(len, columns)) + 8
    root = canvas(title, finding, 3 * _BOX + 2 * _GAP + 4, height)
    middle = height / 2
    for index, heights in ((0, _heights(columns[0], height)), (2, _heights(columns[2], height))):
        x1, x2 = (_BOX, _BOX + _GAP) if index == 0 else (2 * _BOX + _GAP, 2 * _BOX + 2 * _GAP)
        for y in heights:
            start, end = (y, middle) if index == 0 else (middle, y)
            bend = (x1 + x2) / 2
            mark(root, "path", "link", d=f"M{x1} {start:.1f}C{bend} {start:.1f} {bend} {end:.1f} {x2} {end:.1f}")
    for index, names in enumerate(columns):
        for one, y in zip(names, _heights(names, height), strict=True):
            _box(root, one, index * (_BOX + _GAP) + 1, y, "node here" if index == 1 else "node")
    rows = [[one, "base"] for one in parents] + [[one, "made from it"] for one in children]
    return Picture(title, finding, drawn(root), ["Name", "Relation"], rows)


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def _heights(names: Sequence[str], height: float) -> list[float]:
    first = height / 2 - _LINE * (len(names) - 1) / 2
    return [first + _LINE * index for index in range(len(names))]


def _box(root: Element, name: str, x: float, y: float, kind: str) -> None:
    mark(root, "rect", kind, value=name, tip=name, x=x, y=y - 13, width=_BOX - 2, height=26, rx=5)
    label(root, name if len(name) <= 32 else "…" + name[-31:], x + 10, y + 4)
