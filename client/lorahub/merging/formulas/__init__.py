"""Each method's formula: an update and its factors -> the step that it is. docs/merging.md has them in a table.

Steps are made for the weight as (out, in); `oriented` turns them for weights stored (in, out).
"""

from collections.abc import Callable, Mapping
from math import isqrt, prod

import numpy as np

from lorahub.adapters.adapter import Kind, Update
from lorahub.adapters.base_changes import BaseChange
from lorahub.adapters.names.weight import TensorPart, Weight, WeightPlace
from lorahub.errors import NotMergeable
from lorahub.merging.factors import FactorReader
from lorahub.merging.formulas import products, sums
from lorahub.merging.formulas.case import Case
from lorahub.merging.formulas.sums import expert_factors
from lorahub.merging.steps import (
    Added,
    ColumnFactors,
    Flipped,
    Hadamard,
    Product,
    RowFactors,
    Scaled,
    Shifted,
    Sparse,
    Stacked,
    Step,
    Within,
)

__all__ = [
    "ADDITIVE",
    "MERGEABLE",
    "arrays_of",
    "at_place",
    "exact_rank",
    "expert_factors",
    "is_additive",
    "needs_whole",
    "oriented",
    "refuse_unmergeable",
    "step_of",
    "turns_bias",
    "within",
    "work_of",
]

_SUMS: Mapping[str, Callable[[Case], Step]] = {
    "lora": sums.lora,
    "adalora": sums.adalora,
    "loha": sums.loha,
    "lokr": sums.lokr,
    "vera": sums.vera,
    "pvera": sums.pvera,
    "shira": sums.shira,
    "supertuning": sums.supertuning,
    "delora": sums.delora,
    "miss": sums.miss,
    "gralora": sums.gralora,
    "c3a": sums.c3a,
    "vblora": sums.vblora,
    "unilora": sums.unilora,
    "randlora": sums.randlora,
    "fourierft": sums.fourierft,
    "waveft": sums.waveft,
    "full": sums.full,
}
_PRODUCTS: Mapping[str, Callable[[Case], Step]] = {
    "ia3": products.ia3,
    "hira": products.hira,
    "oft": products.oft,
    "boft": products.boft,
    "hra": products.hra,
    "road": products.road,
    "miss-bat": products.miss_bat,
    "deft": products.deft,
    "osf": products.osf,
    "peanut": products.peanut,
}

ADDITIVE = frozenset(_SUMS)
"""Methods whose ΔW doesn't depend on W, unless they are DoRA or change the base."""

MERGEABLE = ADDITIVE | frozenset(_PRODUCTS)
_MAKERS = {**_SUMS, **_PRODUCTS}
_ROTATIONS = {"oft": (2,), "boft": (3, 4)}
"""Dimensions of their rotations."""
_THIN = frozenset("lora adalora vera pvera hra deft peanut".split())
"""Methods whose ΔW has the rank of their factors, whatever the weight."""
_PLAIN = frozenset("lora adalora vera pvera full delora miss vblora unilora randlora".split())
"""Methods whose step is a product, or a matrix that is read."""
_NOT_LOADED = frozenset(
    "indices alpha ignored weight down_choices up_choices copied_down copied_up places down_places up_places".split()
)
_BETWEEN_ROWS = frozenset({"road", "deft", "osf", "peanut"})
"""Methods where a row of the result depends on other rows."""
_OF_WHOLE_ROWS = frozenset("oft boft hra lokr gralora c3a fourierft miss-bat supertuning".split())
"""Methods whose step goes row by row and has no twin for the transposed weight."""
_SPARSE = {"shira": "values", "supertuning": "values", "waveft": "spectrum", "fourierft": "spectrum"}
"""Methods whose numbers belong to places -> the role that has them."""
_WORK_OF_A_WAVE = 32
_WORK_OF_A_PLACE = 4000  # drawn one after another, in Python
_CONVERT = "save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"


def refuse_unmergeable(update: Update, change: BaseChange | None, *, is_stack: bool) -> None:
    """Raises `NotMergeable`, from headers alone."""
    if update.method not in MERGEABLE:
        raise NotMergeable(
            f"{update.module}: the method {update.method} isn't merged here", hint="merge it with the PEFT that made it"
        )
    if change is not None and change.taken is None:
        raise NotMergeable(f"{change.setting}: {change.why}", hint=_CONVERT)
    if "rotation" in update.tensors and not _is_rotation(update.tensors["rotation"].shape, update.method):
        shape = list(update.tensors["rotation"].shape)
        raise NotMergeable(f"{update.module}: {shape} is no shape of {update.method}'s", hint="save the adapter again")
    if is_stack and (update.method != "lora" or update.is_dora):
        raise NotMergeable(f"{update.module} is a stack of experts with {update.method}", hint="use plain LoRA")


def _is_rotation(shape: tuple[int, ...], method: str) -> bool:
    return len(shape) in _ROTATIONS[method] and (len(shape) == 2 or shape[-1] == shape[-2])


def needs_whole(update: Update, change: BaseChange | None) -> bool:
    """Whether one row of the result depends on other rows of the weight."""
    if change is not None or "blocks" in update.tensors:
        return True  # blocks turn outputs
    if update.method in _BETWEEN_ROWS:
        return True
    if update.is_dora:
        return update.transposed or update.kind is Kind.EMBEDDING or "input_magnitude" in update.tensors
    return update.transposed and update.method in _OF_WHOLE_ROWS


def turns_bias(update: Update) -> bool:
    """Whether it does to its module's bias what it does to the outputs."""
    return update.method == "road" or (
        update.method == "ia3" and update.shape[0] is not None and "factor" in update.tensors
    )


def is_additive(update: Update, change: BaseChange | None) -> bool:
    return update.method in ADDITIVE and not update.is_dora and change is None


def exact_rank(update: Update, change: BaseChange | None) -> int | None:
    """The most that ΔW's rank is, whatever the weight; None where it may be the weight's."""
    if update.is_dora or update.rank is None or update.method not in _THIN:
        return None
    return update.rank if change is None else 2 * update.rank  # what is taken away has the same rank


def work_of(update: Update, columns: int) -> tuple[int, int]:
    """Multiplications for each number of a weight of so many columns, and once for the step. From headers alone."""
    rank = update.rank or 1
    if update.method in ("oft", "boft"):
        shape = update.tensors["blocks" if "blocks" in update.tensors else "rotation"].shape
        side = shape[-1] if len(shape) > 2 else (1 + isqrt(1 + 8 * shape[1])) // 2
        count = prod(shape[:-2]) if len(shape) > 2 else shape[0]
        return side * (shape[0] if len(shape) == 4 else 1), 8 * count * side**3
    if update.method == "osf":
        return 8 * min(size or 1 for size in update.shape), 0
    if update.method in _SPARSE:
        count = prod(update.tensors[_SPARSE[update.method]].shape)
        waves = _WORK_OF_A_WAVE if update.method == "fourierft" else 0
        drawn = _WORK_OF_A_PLACE if "spectrum" in update.tensors else 0
        return rank + waves + (4 + waves) * count // columns, drawn * count
    if update.method == "hra":
        return 8 * rank, 2 * rank * prod(update.tensors["reflections"].shape)
    width = update.shape[-1] or 1
    cores = sum(prod(update.tensors[role].shape) for role in ("mid", "t1", "t2") if role in update.tensors)
    return (2 * rank if update.method == "loha" else rank), cores * width


def arrays_of(update: Update, change: BaseChange | None) -> float:
    """Memory that its step takes beside the rows it changes, as a number of such matrices of float64."""
    if change is not None or update.method == "osf":
        return 8  # a decomposition of the weight
    if update.method == "fourierft":
        return 10  # complex numbers
    if update.method in ("deft", "peanut"):
        return 2
    turned = 2 if update.transposed and needs_whole(update, change) else 0
    return turned + (1 if update.method in _PLAIN else 3)


def step_of(
    update: Update,
    factors: FactorReader,
    change: BaseChange | None,
    *,
    to: Weight,
    weight: float,
) -> Step:
    """The step of the base's weight `to`; `weight` multiplies an additive update and is 1 for others.

    Raises `NotMergeable` where factors are missing.
    """
    roles = {role: factors.load(entry) for role, entry in update.tensors.items() if role not in _NOT_LOADED}
    if len(update.shape) == 3 and update.kind is Kind.LINEAR and update.method == "lora":
        return sums.experts(update, roles, update.scale * weight, is_turned=to.turns(update.shape))
    step = _MAKERS[update.method](Case(update, roles, factors, change, to.shape, update.scale * weight))
    step = oriented(step) if update.transposed and update.kind is Kind.LINEAR else step
    if isinstance(step, Product) and None in update.shape:  # the check has held all others against the weight
        _refuse_another_shape(update, step, to)
    return step


def _refuse_another_shape(update: Update, step: Product, to: Weight) -> None:
    made, asked = (len(step.left), step.right.shape[1]), (to.shape[0], prod(to.shape[1:]))
    if made != asked:
        raise NotMergeable(
            f"{update.module}: its factors make {list(made)}, the weight is {list(to.shape)}", hint="save it again"
        )


def oriented(step: Step) -> Step:
    """The step for the transposed weight: row by row where the method allows it."""
    if isinstance(step, Product | Hadamard | Scaled | RowFactors | ColumnFactors | Sparse):
        return step.flipped
    return step if isinstance(step, Added) else Flipped(step)


def at_place(step: Step, of: Weight, place: WeightPlace, shape: tuple[int, ...]) -> Step:
    """The step for the tensor of this place and shape, of the step for the weight `of`."""
    if place.part is not None and place.part.expert is not None:
        assert isinstance(step, Product)  # whatever else was refused
        return _in_stack(step, place.part, shape, is_turned=of.is_turned)
    if place.expert is not None:
        assert isinstance(step, Stacked)  # only stacks have experts
        step = step.steps[place.expert]
    return within(_of_rows(step, place.rows), place)


def _of_rows(step: Step, rows: tuple[int, int] | None) -> Step:
    if rows is None:
        return step
    start, stop = rows
    if isinstance(step, Stacked):
        return Stacked([Shifted(one, start) for one in step.steps], stop - start)
    return Shifted(step, start) if start else step


def within(step: Step, place: WeightPlace) -> Step:
    """The step for the tensor, of which only some rows may be the weight's."""
    if place.part is None or place.part.rows is None:
        return step
    start, stop = place.part.rows
    return Within(step, start, stop - start)


def _in_stack(step: Product, part: TensorPart, shape: tuple[int, ...], *, is_turned: bool) -> Step:
    """The update of some rows of one expert, on the stack that holds it; where that is turned, they are columns."""
    assert part.expert is not None
    _, height, width = shape
    first = part.rows[0] if part.rows is not None else 0
    if not is_turned:
        return Within(step, part.expert * height + first, len(step.left))
    right = np.zeros((step.left.shape[1], width))
    right[:, first : first + len(step.left)] = step.left.T
    return Within(Product(np.ascontiguousarray(step.right.T), right), part.expert * height, height)
