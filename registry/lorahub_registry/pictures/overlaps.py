"""How alike updates are: of two adapters by layer and module, of several adapters by pair.

Figures are those of an overlap: `cosine`, and for each side the share of directions with what chance would make it. A
colour stands for the same number in every picture, from −1 to 1 and from 0 to 1.
"""

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from lorahub_registry.pictures.maps import Colour, by_layer, diverging, scale, shade, width_of
from lorahub_registry.pictures.picture import Picture, canvas, clean, drawn, figure, label, mark

Figures = Mapping[str, float]
Pair = tuple[int, int]

SIDES = {"input": "listen to", "output": "write"}
"""What updates do in the directions of each side."""
_COSINES = (
    ("n4", "−1"),
    ("n3", ""),
    ("n2", ""),
    ("n1", ""),
    ("z0", "0"),
    ("p1", ""),
    ("p2", ""),
    ("p3", ""),
    ("p4", "1"),
)
_HARDLY = 0.1
"""A cosine below this is hardly one: more than 84° apart."""
_CELL = 30


# --- two adapters, by module ------------------------------------------------------------------------------------------


def cosine_map(modules: Mapping[str, Figures], whole: Figures) -> Picture:
    """`whole` is of all modules together."""
    cosines = {module: one["cosine"] for module, one in modules.items()}
    finding = f"Taken together, the two change {_modules(modules)} {_way(whole['cosine'])}: cosine"
    finding += f" {figure(whole['cosine'])}{_ends(cosines, figure)}."
    title = "Cosine of the two updates by layer and module"
    svg = by_layer(title, clean(finding), cosines, _signed)
    rows = [[module, figure(cosine)] for module, cosine in cosines.items()]
    return Picture(title, clean(finding), svg, ["Module", "cosine"], rows, _COSINES)


def share_map(modules: Mapping[str, Figures], whole: Figures, side: str) -> Picture:
    """`side` is input or output; `whole` has the means."""
    shares = {module: one[side] for module, one in modules.items()}
    finding = (
        f"On average the two share {whole[side]:.0%} of the directions that they {SIDES[side]}, where chance would"
    )
    finding += f" make it {whole[f'{side}_chance']:.0%}{_ends(shares, '{:.0%}'.format)}."
    title = f"Shared {side} directions by layer and module"
    svg = by_layer(title, clean(finding), shares, _shaded)
    rows = [[module, figure(one[side]), figure(one[f"{side}_chance"])] for module, one in modules.items()]
    return Picture(title, clean(finding), svg, ["Module", "shared", "by chance"], rows, scale(1.0))


def _modules(modules: Mapping[str, Figures]) -> str:
    return "one module" if len(modules) == 1 else f"{len(modules)} modules"


def _way(cosine: float) -> str:
    if abs(cosine) < _HARDLY:
        return "in directions nearly at right angles"
    how = "almost" if abs(cosine) > 1 - _HARDLY else "partly"
    return f"{how} the same way" if cosine > 0 else f"{how} in opposite ways"


def _ends(values: Mapping[str, float], text: Callable[[float], str]) -> str:
    if len(values) < 2:
        return ""
    high, low = (choose(values, key=lambda module: values[module]) for choose in (max, min))
    return f"; highest in {high} ({text(values[high])}), lowest in {low} ({text(values[low])})"


def _signed(cosine: float) -> str:
    return diverging(cosine, 1.0)


def _shaded(share: float) -> str:
    return shade(share, 1.0)


# --- several adapters, by pair ----------------------------------------------------------------------------------------


def cosine_pairs(names: Sequence[str], wholes: Mapping[Pair, Figures]) -> Picture:
    """`wholes` by the places of two adapters in `names`, the earlier first."""
    cosines = {pair: whole["cosine"] for pair, whole in wholes.items()}
    low, high = (choose(cosines, key=lambda pair: cosines[pair]) for choose in (min, max))
    if cosines[low] <= -_HARDLY:
        finding = f"{_both(names, low)} pull against each other most: cosine {figure(cosines[low])}."
    else:
        finding = f"No two pull against each other; closest are {_both(names, high)}: cosine {figure(cosines[high])}."
    title = "Cosine of each two adapters"
    svg = _triangle(title, clean(finding), names, cosines, _signed)
    return Picture(title, clean(finding), svg, ["Pair", "cosine"], _rows(names, wholes, "cosine"), _COSINES)


def share_pairs(names: Sequence[str], wholes: Mapping[Pair, Figures], side: str) -> Picture:
    shares = {pair: whole[side] for pair, whole in wholes.items()}
    high = max(shares, key=lambda pair: shares[pair])
    finding = (
        f"{_both(names, high)} overlap most in what they {SIDES[side]}: {shares[high]:.0%} of these directions are"
    )
    finding += f" shared, where chance would make it {wholes[high][f'{side}_chance']:.0%}."
    title = f"Shared {side} directions of each two adapters"
    svg = _triangle(title, clean(finding), names, shares, _shaded)
    rows = _rows(names, wholes, side, f"{side}_chance")
    return Picture(title, clean(finding), svg, ["Pair", "shared", "by chance"], rows, scale(1.0))


def _both(names: Sequence[str], pair: Pair) -> str:
    return f"{names[pair[0]]} and {names[pair[1]]}"


def _rows(names: Sequence[str], wholes: Mapping[Pair, Figures], *columns: str) -> list[list[str]]:
    return [[_both(names, pair), *(figure(whole[column]) for column in columns)] for pair, whole in wholes.items()]


def _triangle(title: str, finding: str, names: Sequence[str], values: Mapping[Pair, float], kind: Colour) -> Markup:
    """A row for each adapter, with a cell for each of those before it."""
    labels = [f"{name}  {number}" for number, name in enumerate(names, 1)]
    left = width_of(labels) + 10
    root = canvas(title, finding, left + _CELL * (len(names) - 1) + 4, 22 + _CELL * len(names) + 4)
    for x in range(len(names) - 1):
        label(root, str(x + 1), left + _CELL * (x + 0.5), 14, anchor="middle")
    for y, text in enumerate(labels):
        label(root, text, left - 8, 22 + _CELL * (y + 0.6), anchor="end")
    for (x, y), value in values.items():
        place = {"x": left + _CELL * x, "y": 22.0 + _CELL * y, "width": _CELL - 2.0, "height": _CELL - 2.0}
        mark(root, "rect", f"cell {kind(value)}", value=value, tip=f"{_both(names, (x, y))}: {figure(value)}", **place)
    return drawn(root)
