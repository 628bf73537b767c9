"""One weight of a base, by one of its names."""

from collections.abc import Iterator
from dataclasses import dataclass

from lorahub.adapters.base_model import BaseTensor


@dataclass(frozen=True, slots=True)
class WeightPlace:
    """Where a weight, or some of its output rows, or one expert of it, lies on disk."""

    tensor: str
    rows: tuple[int, int] | None = None
    """The output rows [start, stop) of the weight that this tensor is; None for all."""
    expert: int | None = None
    at: int | None = None
    """Which of the tensor's rows is the first of them; None where they are the whole tensor."""


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
