"""Grids: how large each update is, how two adapters differ, which adapter fits which revision of a base."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree.ElementTree import Element

from lorahub.adapters.patterns import layer_index
from markupsafe import Markup

from lorahub_registry.pictures.picture import Picture, canvas, clean, drawn, figure, label, mark

STEPS = 10
MOST_CELLS = 4000
_CELL = 18
_LETTER = 6.4
_OUTSIDE = "–"
"""The column of modules that belong to no layer."""

Grid = dict[str, dict[str, float | None]]
"""By row, by column."""
Colour = Callable[[float], str]
"""The class of a value."""


def norm_map(norms: Mapping[str, float | None]) -> Picture:
    """`norms` by module; None for one with NaN or infinity."""
    known = {module: norm for module, norm in norms.items() if norm is not None}
    return _sequential("‖ΔW‖ by layer and module", _largest(known, len(norms)), norms)


def relative_map(ratios: Mapping[str, float]) -> Picture:
    """‖ΔW‖ / ‖W‖ by module."""
    if not ratios:
        finding = "Nothing is known of the base’s own weights."
    else:
        module, middle = max(ratios, key=lambda name: ratios[name]), median(ratios.values())
        finding = f"Against the weight it is added to, {module} is the largest with {figure(ratios[module])};"
        finding += f" half of the updates are below {figure(middle)}."
    return _sequential("‖ΔW‖ / ‖W‖ by layer and module", finding, ratios)


def _sequential(title: str, finding: str, norms: Mapping[str, float | None]) -> Picture:
    known = {module: norm for module, norm in norms.items() if norm is not None}
    top = max(known.values(), default=0.0)
    svg = by_layer(title, finding, norms, lambda value: shade(value, top))
    rows = [[module, figure(norm)] for module, norm in norms.items()]
    return Picture(title, finding, svg, ["Module", "‖ΔW‖"], rows, scale(top))


def _largest(known: Mapping[str, float], count: int) -> str:
    if not known or max(known.values()) == 0:
        return f"None of {count} updates changes anything."
    square = sum(norm**2 for norm in known.values())
    module = max(known, key=lambda name: known[name])
    bad = count - len(known)
    share = known[module] ** 2 / square
    broken = f" {bad} of them hold NaN or infinity." if bad else ""
    return (
        f"The largest of {count} updates is {module} with {figure(known[module])}, {share:.0%} of the whole change;"
        f" the whole has norm {figure(math.sqrt(square))}.{broken}"
    )


def difference_map(
    first: Mapping[str, float | None], second: Mapping[str, float | None], names: tuple[str, str]
) -> Picture:
    """Norms of the second less those of the first, by module; a module that one of them lacks counts as zero there."""
    modules = list(dict.fromkeys([*first, *second]))
    pairs = {module: (first.get(module, 0.0), second.get(module, 0.0)) for module in modules}
    changes = {module: None if a is None or b is None else b - a for module, (a, b) in pairs.items()}
    known = {module: change for module, change in changes.items() if change is not None}
    top = max((abs(change) for change in known.values()), default=0.0)
    finding = _difference(known, names)
    title = f"‖ΔW‖ of {names[1]} less that of {names[0]}"
    svg = by_layer(title, finding, changes, lambda value: diverging(value, top))
    rows = [[module, *map(figure, pairs[module]), figure(changes[module])] for module in modules]
    key = (("n4", f"−{figure(top)}"), ("z0", "0"), ("p4", f"+{figure(top)}"))
    return Picture(title, finding, svg, ["Module", names[0], names[1], "difference"], rows, key)


def _difference(known: Mapping[str, float], names: tuple[str, str]) -> str:
    larger = sum(change > 0 for change in known.values())
    smaller = sum(change < 0 for change in known.values())
    if not larger and not smaller:
        return f"All {len(known)} updates have the same norm in both."
    module = max(known, key=lambda name: abs(known[name]))
    return (
        f"Of {len(known)} updates {larger} are larger in {names[1]} and {smaller} in {names[0]};"
        f" they differ most in {module}, by {figure(abs(known[module]))}."
    )


def diverging(value: float, top: float) -> str:
    if value == 0 or top == 0:
        return "z0"
    return f"{'p' if value > 0 else 'n'}{min(4, 1 + int(abs(value) / top * 4))}"


# --- layers and modules -----------------------------------------------------------------------------------------------


def _grid(values: Mapping[str, float | None]) -> Grid:
    """Rows are modules with `*` for their layer, columns layers. What all rows begin with is left out."""
    places = {module: _place(module) for module in values}
    rows = list(dict.fromkeys(row for row, _ in places.values()))
    common = rows[0].partition("*")[0] + "*." if rows else ""
    is_common = len(common) > 2 and all(row.startswith(common) for row in rows)
    grid: Grid = {}
    for module, value in values.items():
        row, column = places[module]
        grid.setdefault(row.removeprefix(common) if is_common else row, {})[column] = value
    return grid


def _place(module: str) -> tuple[str, str]:
    index = layer_index(module)
    steps = module.split(".")
    if index is None or str(index) not in steps:
        return module, _OUTSIDE
    at = steps.index(str(index))
    return ".".join([*steps[:at], "*", *steps[at + 1 :]]), str(index)


def _columns(grid: Grid) -> list[str]:
    found = {column for row in grid.values() for column in row}
    layers = sorted((column for column in found if column != _OUTSIDE), key=int)
    return layers + ([_OUTSIDE] if _OUTSIDE in found else [])


def by_layer(title: str, finding: str, values: Mapping[str, float | None], kind: Colour) -> Markup:
    """`values` by module, drawn as layers × modules; `kind` gives the colour of one."""
    grid = _grid(values)
    columns = _columns(grid)
    rows = list(grid)[: max(1, MOST_CELLS // max(1, len(columns)))]
    left = width_of(rows) + 8
    root = canvas(title, finding, left + _CELL * max(1, len(columns)) + 4, 22 + _CELL * max(1, len(rows)) + 4)
    every = max(1, math.ceil(len(columns) / 16))
    for x, column in enumerate(columns):
        if x % every == 0:
            label(root, column, left + _CELL * (x + 0.5), 14, anchor="middle")
    for y, row in enumerate(rows):
        label(root, row, left - 8, 22 + _CELL * (y + 0.7), anchor="end")
        for x, column in enumerate(columns):
            if column in grid[row]:
                _cell(root, left + _CELL * x, 22 + _CELL * y, grid[row][column], f"{row}, layer {column}", kind)
    return drawn(root)


def _cell(root: Element, x: float, y: float, value: float | None, where: str, kind: Colour) -> None:
    shape = "cell broken" if value is None else f"cell {kind(value)}"
    told = "NaN or infinity" if value is None else figure(value)
    mark(root, "rect", shape, value=value, tip=f"{where}: {told}", x=x, y=y, width=_CELL - 2, height=_CELL - 2)


def width_of(names: Sequence[str]) -> float:
    return _LETTER * min(44, max((len(name) for name in names), default=1))


def shade(value: float, top: float) -> str:
    return f"q{0 if top == 0 else min(STEPS - 1, int(value / top * STEPS))}"


def scale(top: float) -> tuple[tuple[str, str], ...]:
    ends = {0: "0", STEPS - 1: figure(top)}
    return tuple((f"q{step}", ends.get(step, "")) for step in range(STEPS))


# --- fit --------------------------------------------------------------------------------------------------------------

SIGNS = {"compatible": "✓", "fits": "≈", "incompatible": "✗", "undecided": "?"}


@dataclass(frozen=True, slots=True)
class MapVerdict:
    adapter: str
    revision: str
    verdict: str


def fit_matrix(verdicts: Sequence[MapVerdict], *, title: str = "Which adapter fits which revision") -> Picture:
    """A sign and a colour for each adapter and revision; where nobody looked yet, neither."""
    adapters = list(dict.fromkeys(one.adapter for one in verdicts))
    revisions = list(dict.fromkeys(one.revision for one in verdicts))
    found = {(one.adapter, one.revision): one.verdict for one in verdicts}
    counts = {verdict: sum(one.verdict == verdict for one in verdicts) for verdict in SIGNS}
    finding = (
        f"{_count(adapters, 'adapter')} × {_count(revisions, 'revision')}:"
        f" {counts['compatible']} same base, {counts['fits']} fit,"
        f" {counts['incompatible']} do not, {counts['undecided']} undecided."
    )
    left, wide = width_of(adapters) + 8, 78
    root = canvas(title, finding, left + wide * max(1, len(revisions)) + 4, 24 + 24 * max(1, len(adapters)))
    for x, revision in enumerate(revisions):
        label(root, revision[:10], left + wide * (x + 0.5), 14, anchor="middle")
    for y, adapter in enumerate(adapters):
        label(root, adapter, left - 8, 24 + 24 * y + 15, anchor="end")
        for x, revision in enumerate(revisions):
            verdict = found.get((adapter, revision))
            if verdict is not None:
                place = {"x": left + wide * x + 2, "y": 24.0 + 24 * y + 1, "width": wide - 4.0, "height": 22.0}
                tip = f"{adapter} at {revision}: {verdict}"
                known = verdict if verdict in SIGNS else "undecided"
                mark(root, "rect", f"cell {known}", value=verdict, tip=tip, **place)
                label(root, SIGNS[known], left + wide * (x + 0.5), 24 + 24 * y + 17, anchor="middle", kind="sign")
    rows = [[adapter, *(found.get((adapter, revision)) for revision in revisions)] for adapter in adapters]
    key = tuple((verdict, f"{SIGNS[verdict]} {verdict}") for verdict in SIGNS)
    return Picture(title, clean(finding), drawn(root), ["Adapter", *revisions], rows, key)


def _count(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
