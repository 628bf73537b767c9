"""One weight of a base, by one of its names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lorahub.adapters.base_model import BaseTensor


@dataclass(frozen=True, slots=True)
class TensorPart:
    """What of a tensor a weight is: some of its output rows, one expert of a stack, or some output rows of that one."""

    expert: int | None = None
    rows: tuple[int, int] | None = None
    """[start, stop)."""


@dataclass(frozen=True, slots=True)
class WeightPlace:
    """Where a weight, or some of its output rows, or one expert of it, lies on disk."""

    tensor: str
    rows: tuple[int, int] | None = None
    """The output rows [start, stop) of the weight, of a stack those of each expert, that this tensor is; None: all."""
    expert: int | None = None
    """Which expert of the weight this tensor is; None for all."""
    part: TensorPart | None = None
    """What of the tensor the weight is; None for all of it."""

    @property
    def is_whole(self) -> bool:
        """Whether the tensor is the weight."""
        return self.rows is None and self.expert is None and self.part is None


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight by one of its names. `shape` as the name's owner sees it: fused and stacked where it is."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    places: tuple[WeightPlace, ...]
    is_tied: bool = False
    """An output head that is the input embedding."""
    is_turned: bool = False
    """A stack of experts that its model takes as (experts, in, out): where in and out are equal, shapes don't tell."""

    def turns(self, shape: tuple[int | None, ...]) -> bool:
        """Whether a stack's update (experts, out, in) has to be transposed for it."""
        is_square = self.shape[1:] == self.shape[:0:-1]
        return self.is_turned if is_square else self.shape[1:] != shape[1:]


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
        place = replace(weight.places[0], part=TensorPart(rows=(number * height, (number + 1) * height)))
        yield Weight(name, (height, *weight.shape[1:]), weight.dtype, (place,))
