"""Updates of bare parameters, those of experts and their routers, brought to the modules of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lorahub.adapters.adapter import Update
from lorahub.adapters.findings import shape_text
from lorahub.adapters.names.weight import Weight
from lorahub.errors import AdapterDoesNotFit, NotConvertible
from lorahub.merging.factors import FactorReader
from lorahub.merging.formulas import expert_factors
from lorahub.serving.effects import ExpertPair, ParameterEffect
from lorahub.serving.slots import Effect

Bound = tuple[Update, Weight]


def parameter_effects(
    model: nn.Module, bound: Sequence[Bound], tensors: FactorReader, dtype: torch.dtype | None
) -> dict[str, Effect]:
    """One effect for each module, of the updates to its own parameters.

    Raises `AdapterDoesNotFit` for other shapes, `NotConvertible` for quantised experts and what isn't finite.
    """
    by_parameter: dict[str, list[Bound]] = {}
    for update, weight in bound:
        _refuse_shape(update, weight)
        by_parameter.setdefault(weight.places[0].tensor, []).append((update, weight))
    pairs: dict[str, dict[str, ExpertPair]] = {}
    for name, updates in by_parameter.items():
        module, _, parameter = name.rpartition(".")
        value: Any = getattr(model.get_submodule(module), parameter)
        pairs.setdefault(module, {})[parameter] = _brought(_pair(updates, tuple(value.shape), tensors), value, dtype)
    return {module: ParameterEffect(model.get_submodule(module), own) for module, own in pairs.items()}


def _refuse_shape(update: Update, weight: Weight) -> None:
    shape, there = update.shape, weight.shape
    if shape not in (there, there[1:] if there[0] == 1 else there, (there[0], *there[:0:-1])):
        raise AdapterDoesNotFit(
            f"{update.module} is {shape_text(shape)} in the adapter, {shape_text(there)} in the model",
            hint="load the adapter onto the base it was trained on",
        )


def _pair(updates: Sequence[Bound], shape: tuple[int, ...], tensors: FactorReader) -> ExpertPair:
    """What all updates of one parameter come to: the ranks of those that meet in an expert, side by side."""
    update, weight = updates[0]
    if weight.places[0].part is not None:
        return _gathered(updates, shape, tensors)
    if len(updates) > 1:
        raise AdapterDoesNotFit(f"{weight.name} is updated twice", hint="save the adapter again")
    down, up = (tensors.load(update.tensors[role]) for role in ("down", "up"))
    is_turned = False
    if len(update.shape) == 3:
        is_turned = weight.turns(update.shape)
        down, up = expert_factors(update, down, up)
    if len(down.shape) < len(shape):
        down, up = down[None], up[None]
    return ExpertPair(_tensor(down), _tensor(up * update.scale), is_turned)


def _gathered(updates: Sequence[Bound], shape: tuple[int, ...], tensors: FactorReader) -> ExpertPair:
    """One pair for updates to single experts, or to some rows of them."""
    is_turned = updates[0][1].is_turned
    experts, out, width = (shape[0], shape[2], shape[1]) if is_turned else shape
    ranks = np.zeros(experts, np.int64)
    for update, weight in updates:
        ranks[_part(weight).expert] += update.rank or 0
    a, b = np.zeros((experts, ranks.max(), width)), np.zeros((experts, out, ranks.max()))
    ranks[:] = 0
    for update, weight in updates:
        part = _part(weight)
        start, stop = part.rows or (0, out)
        first = ranks[part.expert]
        last = ranks[part.expert] = first + (update.rank or 0)
        a[part.expert, first:last] = tensors.load(update.tensors["down"])
        b[part.expert, start:stop, first:last] = tensors.load(update.tensors["up"]) * update.scale
    return ExpertPair(_tensor(a), _tensor(b), is_turned)


def _part(weight: Weight) -> Any:
    return weight.places[0].part


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _brought(pair: ExpertPair, value: torch.Tensor, dtype: torch.dtype | None) -> ExpertPair:
    """Where the parameter is, in `dtype` or its own."""
    if not value.is_floating_point() or value.dtype.itemsize < 2:
        raise NotConvertible("the experts are quantised here: nothing can be added to them", hint="load 16 bits")
    a, b = (tensor.to(value.device, dtype or value.dtype) for tensor in (pair.a, pair.b))
    if not (a.isfinite().all() and b.isfinite().all()):
        raise NotConvertible(f"factors aren't finite in {a.dtype}", hint="look for NaN; try dtype=torch.float32")
    return ExpertPair(a, b, pair.is_turned)
