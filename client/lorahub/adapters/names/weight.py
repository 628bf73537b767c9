"""One weight of a base, by one of its names."""

from collections.abc import Iterator
from dataclasses import dataclass

from lorahub.adapters.base_model import BaseTensor


@dataclass(frozen=True, slots=True)
class TensorPart:
    """One expert of a tensor that holds all of them: its output rows [start, stop), or all of it."""

    expert: int
    rows: tuple[int, int] | None = None


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
