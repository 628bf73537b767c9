"""How diffusers, and how the models' authors, call the weights of image and video models.

image_names.json has it, which tools/image_names.py writes with diffusers' own converters: for each class its modules,
and for each name of an author's what its rows are among diffusers', in order. `x.*` is a module, its weight and its
bias; `{}` a block's number, `{last}` the last one's; `y#1/2` the second half of y's rows; of pieces of several sizes,
`y=in` has as many rows as the weight has columns.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

from lorahub.adapters.names.weight import TensorPart, Weight, WeightPlace

_NUMBER = re.compile(r"(?<![^.])(block)?\d+(?![^.])")
_PIECE = re.compile(r"([^#=]+)(?:#(\d+)/(\d+))?(=in)?")
_PARAMETERS = ("weight", "bias")
_SAMPLE = 64
_ENOUGH = 0.9
"""The share of a model's modules that a family has to know."""


def canonical(name: str) -> str:
    """The name without its numbers.

    >>> canonical("blocks.block3.blocks.0.block.attn.to_q.1")
    'blocks.block{}.blocks.{}.block.attn.to_q.{}'
    """
    return _NUMBER.sub(r"\1{}", name)


@dataclass(frozen=True, slots=True)
class RowShare:
    """Some rows of a tensor of diffusers': part `part` of `of` equal ones."""

    name: str
    part: int = 0
    of: int = 1
    is_square: bool = False


@dataclass(frozen=True, slots=True)
class Spelling:
    """A tensor of an author's, and the pieces that it is, in the order of its rows."""

    theirs: str
    pieces: tuple[RowShare, ...]
    is_last: bool = False
    """For the last block only."""
    but_last: bool = False

    def fits(self, number: str, last: int) -> bool:
        if not number:
            return True
        return (int(number) == last) if self.is_last else not (self.but_last and int(number) == last)

    def sizes(self, rows: int, columns: int | None) -> list[int] | None:
        """How many rows each piece has; None where they can't be told, or don't add up."""
        squares = sum(piece.is_square for piece in self.pieces)
        rest = len(self.pieces) - squares
        left = rows - squares * (columns or 0)
        if (squares and columns is None) or left < rest or (left % rest if rest else left):
            return None
        return [columns or 0 if piece.is_square else left // rest for piece in self.pieces]


@dataclass(frozen=True)
class Family:
    """One class of diffusers'. `modules` are its own, `rules` the names of authors."""

    name: str
    modules: frozenset[str]
    rules: tuple[Spelling, ...]

    @cached_property
    def authors(self) -> frozenset[str]:
        """The modules of authors' names, and those that they share with diffusers."""
        return self.modules | {canonical(_module(rule.theirs)) for rule in self.rules}


# --- the table --------------------------------------------------------------------------------------------------------


@cache
def families() -> tuple[Family, ...]:
    table = json.loads(files(__package__).joinpath("image_names.json").read_text("utf-8"))
    return tuple(
        Family(name, frozenset(one["names"]), tuple(_rules(one["renames"]))) for name, one in table["families"].items()
    )


def _rules(renames: Mapping[str, list[str]]) -> Iterator[Spelling]:
    for key, pieces in renames.items():
        but_last = "{}" in key and key.replace("{}", "{last}") in renames
        for parameter in _PARAMETERS if key.endswith(".*") else ("",):
            yield Spelling(
                key.replace("{last}", "{}").replace(".*", f".{parameter}"),
                tuple(_piece(piece.replace(".*", f".{parameter}")) for piece in pieces),
                is_last="{last}" in key,
                but_last=but_last,
            )


def _piece(text: str) -> RowShare:
    match = _PIECE.fullmatch(text)
    assert match is not None  # the table is ours
    return RowShare(match[1], int(match[2] or 0), int(match[3] or 1), is_square=bool(match[4]))


@cache
def _known(*, authors: bool) -> Mapping[str, frozenset[str]]:
    """Module -> the families that have it."""
    found: dict[str, set[str]] = {}
    for family in families():
        for module in family.authors if authors else family.modules:
            found.setdefault(module, set()).add(family.name)
    return {module: frozenset(names) for module, names in found.items()}


def families_with(modules: Iterable[str], *, authors: bool) -> frozenset[str]:
    """The classes that have all these modules: by diffusers' names, or by an author's as well."""
    known = _known(authors=authors)
    found: frozenset[str] | None = None
    for module in {canonical(module) for module in modules}:
        here = known.get(module, frozenset())
        found = here if found is None else found & here
        if not found:
            break
    return found or frozenset()


def family_of(names: Iterable[str], *, hint: str | None = None) -> Family | None:
    """The class whose weights have these names, by diffusers' or by an author's; None where none knows most of them.

    Of classes that know them equally well the one that `hint` names, else the smallest.
    """
    names = list(names)
    known = _known(authors=True)
    sample = names[:: max(1, len(names) // _SAMPLE)]
    if sum(canonical(_module(name)) in known for name in sample) * 2 < len(sample) or not sample:
        return None  # most bases are language models, with a hundred thousand names perhaps
    modules = {canonical(_module(name)) for name in names}

    def fitness(family: Family) -> tuple[int, bool, int]:
        most = max(len(modules & family.modules), len(modules & family.authors))
        return most, family.name == hint, -len(family.modules)

    best = max(families(), key=fitness)
    return best if fitness(best)[0] >= _ENOUGH * len(modules) else None


def _module(name: str) -> str:
    module, _, _ = name.rpartition(".")
    return module or name


# --- from one to the other --------------------------------------------------------------------------------------------


def translated(family: Family, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The weights by all other names that the family has for them: diffusers' first, then the authors'."""
    own = _own(family, weights)
    own = {name: weight for name, weight in own.items() if name not in weights}
    return {**own, **_of_authors(family, {**own, **weights})}


def _of_authors(family: Family, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    index = _Index(weights)
    found: dict[str, Weight] = {}
    for rule in family.rules:
        last = index.last(rule.pieces[0].name)
        for number in index.numbers(rule.pieces[0].name):
            name = rule.theirs.replace("{}", number)
            parts = [(weights.get(piece.name.replace("{}", number)), piece) for piece in rule.pieces]
            if name in weights or not rule.fits(number, last) or not all(weight for weight, _ in parts):
                continue
            found[name] = joined(name, [_part(weight, piece) for weight, piece in parts if weight])
    return found


def _part(weight: Weight, piece: RowShare) -> tuple[Weight, int, int]:
    rows = weight.shape[0] if weight.shape else 1
    return weight, rows * piece.part // piece.of, rows * (piece.part + 1) // piece.of


def _own(family: Family, weights: Mapping[str, Weight]) -> dict[str, Weight]:
    index = _Index(weights)
    parts: dict[str, dict[int, tuple[Weight, int, int]]] = {}
    wanted: dict[str, int] = {}
    for rule in family.rules:
        last = index.last(rule.theirs)
        for number in index.numbers(rule.theirs):
            weight = weights[rule.theirs.replace("{}", number)]
            sizes = rule.sizes(weight.shape[0] if weight.shape else 1, _columns(weight, weights))
            if not rule.fits(number, last) or sizes is None:
                continue
            start = 0
            for piece, size in zip(rule.pieces, sizes, strict=True):
                name = piece.name.replace("{}", number)
                parts.setdefault(name, {})[piece.part] = (weight, start, start + size)
                wanted[name] = piece.of
                start += size
    return {
        name: joined(name, [have[number] for number in sorted(have)])
        for name, have in parts.items()
        if len(have) == wanted[name]
    }


def _columns(weight: Weight, weights: Mapping[str, Weight]) -> int | None:
    """How many columns the weight has, or the weight that it is the bias of."""
    beside = weights.get(f"{weight.name.rpartition('.')[0]}.weight", weight)
    return beside.shape[1] if len(beside.shape) > 1 else None


class _Index:
    """Names by what they are without their numbers."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[str, list[str]] = {}
        for name in names:
            self._names.setdefault(canonical(name), []).append(name)
        self._last: dict[str, int] = {}

    def numbers(self, template: str) -> list[str]:
        """What `{}` is where there is such a name; an empty text where the template has none."""
        before, mark, behind = template.partition("{}")
        names = self._names.get(canonical(template), ())
        if not mark:
            return [""] if template in names else []
        return [
            name[len(before) : len(name) - len(behind)]
            for name in names
            if name.startswith(before)
            and name.endswith(behind)
            and name[len(before) : len(name) - len(behind)].isdecimal()
        ]

    def last(self, template: str) -> int:
        """The number of the last block, of those that the template is about."""
        before, mark, _ = template.partition("{}")
        if mark and before not in self._last:
            inside = (
                name[len(before) :] for names in self._names.values() for name in names if name.startswith(before)
            )
            numbers = (rest.partition(".")[0] for rest in inside)
            self._last[before] = max((int(number) for number in numbers if number.isdecimal()), default=0)
        return self._last.get(before, 0)


def joined(name: str, parts: Iterable[tuple[Weight, int, int]]) -> Weight:
    """One weight of the rows [start, stop) of others, one below the other."""
    parts = list(parts)
    places: list[WeightPlace] = []
    height = 0
    for weight, start, stop in parts:
        for place in _between(weight, start, stop):
            low, high = place.rows or (0, 0)
            places.append(WeightPlace(place.tensor, (height + low, height + high), place.expert, place.part))
        height += stop - start
    first = parts[0][0]
    if len(places) == 1:
        places = [WeightPlace(places[0].tensor, None, places[0].expert, places[0].part)]
    shape = (height, *first.shape[1:]) if first.shape else ()
    return Weight(name, shape, first.dtype, tuple(places))


def _between(weight: Weight, start: int, stop: int) -> Iterator[WeightPlace]:
    """The weight's places of the rows [start, stop), counted from start."""
    for place in weight.places:
        first, last = place.rows or (0, weight.shape[0] if weight.shape else 1)
        low, high = max(first, start), min(last, stop)
        if low < high:
            part = place.part
            if part is not None or (low, high) != (first, last):
                before = part.rows[0] if part is not None and part.rows is not None else 0
                part = TensorPart(rows=(before + low - first, before + high - first))
            yield WeightPlace(place.tensor, (low - start, high - start), place.expert, part)
