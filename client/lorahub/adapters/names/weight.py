"""One weight of a base, by one of its names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lorahub.adapters.base_model import BaseTensor


@dataclass(frozen=True, slots=True)
class WeightPlace:
    """Where a weight, or some of its output rows, or one expert of it, lies on disk."""

    tensor: str
    rows: tuple[int, int] | None = None
    """The output rows [start, stop) of the weight that this tensor is; None for all."""
    expert: int | None = None
    within: tuple[int, int] | None = None
    """The output rows [start, stop) of the tensor that the weight is; None for all."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight by one of its names. `shape` as the name's owner sees it: fused and stacked where it is."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    places: tuple[WeightPlace, ...]
    is_tied: bool = False
    """An output head that is the input embedding."""


Names = Iterator[Weight]


def renamed(alias: str, name: str, tensor: BaseTensor) -> Weight:
    """The tensor `name` of a base, called `alias`."""
    return Weight(alias, tensor.shape, tensor.dtype, (WeightPlace(name),))


def joined_rows(name: str, parts: Sequence[Weight]) -> Weight:
    """One layer with the outputs of all of them, one below the other."""
    start, places = 0, []
    for part in parts:
        stop = start + part.shape[0]
        places.append(WeightPlace(part.places[0].tensor, (start, stop)))
        start = stop
    return Weight(name, (start, *parts[0].shape[1:]), parts[0].dtype, tuple(places))


def split_rows(names: Sequence[str], weight: Weight) -> Names:
    """Layers of the same size, whose outputs lie one below the other in one tensor."""
    height = weight.shape[0] // len(names)
    for number, name in enumerate(names):
        place = replace(weight.places[0], within=(number * height, (number + 1) * height))
        yield Weight(name, (height, *weight.shape[1:]), weight.dtype, (place,))
