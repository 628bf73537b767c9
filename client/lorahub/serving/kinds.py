"""Adapters that are no pairs of factors, brought to the modules of a model: bottlenecks, biases, IA3, DoRA, prompts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lorahub.adapters.adapter import Adapter, Part, PartKind, Update
from lorahub.adapters.base_model import BaseLayout, BaseTensor
from lorahub.adapters.formats import format_of
from lorahub.adapters.names.base_names import BaseNames
from lorahub.errors import AdapterDoesNotFit, NotConvertible
from lorahub.merging.factors import FactorReader as Tensors
from lorahub.serving.effects import BottleneckEffect, FactorEffect, Rescaled, ShiftEffect
from lorahub.serving.fronts import Front
from lorahub.serving.slots import Effect, FactorPair

_FRONTS = (PartKind.PROMPT, PartKind.PREFIX)
_FRONT_METHODS = ("prompt_tuning", "p_tuning", "prefix_tuning")
_HINT = "load the adapter onto the base it was trained on"


def kind_of(adapter: Adapter) -> str | None:
    """`bitfit`, `bottleneck`, `ia3`, `front`; None for what is read as factors."""
    row = format_of(adapter)
    if row is None:
        return None
    if row.stands_beside:
        return adapter.method
    if row.is_convertible and _is_ia3(adapter):
        return "ia3"
    return "front" if _is_front(adapter) else None


def _is_ia3(adapter: Adapter) -> bool:
    """And nothing else."""
    factors = [update for update in adapter.updates if update.method == "ia3" and "factor" in update.tensors]
    return bool(factors) and len(factors) == len(adapter.updates) and not adapter.parts


def _is_front(adapter: Adapter) -> bool:
    """And nothing else, of which is known how its numbers lie."""
    if adapter.method not in _FRONT_METHODS or adapter.updates or len(adapter.parts) != 1:
        return False
    return adapter.parts[0].kind in _FRONTS and None not in adapter.parts[0].shape


@dataclass(frozen=True)
class AdapterReader:
    """One adapter on its way onto `model`; its tensors come as float64, and go to `dtype` or their module's own."""

    model: Any
    adapter: Adapter
    tensors: Tensors
    dtype: torch.dtype | None

    def effects(self) -> dict[str, Effect]:
        """Raises `AdapterDoesNotFit`, `NotConvertible` for what isn't finite."""
        made: dict[str, Effect] = {}
        for piece, name in self._placed():
            effect = self._effect(piece, self.model.get_submodule(name))
            made[name] = moved(effect, self.model.get_submodule(name), self.dtype)
        return made

    def front(self) -> Front:
        """Raises `AdapterDoesNotFit`."""
        part = self.adapter.parts[0]
        values = self._load(part, "embeddings")
        table = self.model.get_input_embeddings().weight
        if part.kind is PartKind.PROMPT:
            _require(part.shape[-1] == table.shape[1], "the prompt's width", part.shape[-1], table.shape[1])
            front = Front(values, None)
        else:
            front = Front(None, self._states(values))
        made: Front = moved(front, self.model.get_input_embeddings(), self.dtype)
        return made

    def _states(self, values: Tensor) -> Tensor:
        """(layers, 2, heads, length, width), of (length, layers · 2 · heads · width) as PEFT keeps them."""
        config = self.model.config.get_text_config()
        layers, heads = config.num_hidden_layers, getattr(config, "num_key_value_heads", config.num_attention_heads)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        _require(
            values.shape[1] == layers * 2 * heads * width,
            "the prefix's width",
            values.shape[1],
            layers * 2 * heads * width,
        )
        return values.view(-1, layers, 2, heads, width).permute(1, 2, 3, 0, 4).contiguous()

    # --- one module ---------------------------------------------------------------------------------------------------

    def _effect(self, piece: Update | Part, module: Any) -> Effect:
        if isinstance(piece, Update):
            of_input = piece.shape[0] is None
            return FactorEffect(self._sized(piece, "factor", _widths(module)[of_input]), of_input)
        if piece.kind is PartKind.BOTTLENECK:
            width = _widths(module)[0] if hasattr(module, "weight") else self.model.config.get_text_config().hidden_size
            _require(piece.shape[0] == width, piece.module, piece.shape[0], width)
            down_bias, up_bias = (
                self._load(piece, role) if role in piece.tensors else None for role in ("down_bias", "up_bias")
            )
            factors = (self._load(piece, "down"), self._load(piece, "up"), down_bias, up_bias)
            return BottleneckEffect(*factors, str(piece.activation))
        bias = self._sized(piece, "bias", module.bias.numel())
        return ShiftEffect(bias if piece.kind is PartKind.BIAS_DELTA else bias - module.bias.detach().cpu().double())

    def _sized(self, piece: Update | Part, role: str, size: int) -> Tensor:
        values = self._load(piece, role).flatten()
        _require(values.numel() == size, piece.module, values.numel(), size)
        return values

    def _load(self, piece: Update | Part, role: str) -> Tensor:
        return torch.from_numpy(self.tensors.load(piece.tensors[role]).copy())

    # --- where --------------------------------------------------------------------------------------------------------

    def _placed(self) -> Iterator[tuple[Update | Part, str]]:
        pieces: list[Update | Part] = [*self.adapter.updates, *self.adapter.parts]
        parameter = "bias" if self.adapter.method == "bitfit" else "weight"
        names = BaseNames(_layout(self.model, parameter))
        modules = {name for name, _ in self.model.named_modules()}
        resolved = names.resolve([piece.module for piece in pieces], self.adapter.naming).modules
        for piece in pieces:
            module = resolved.get(piece.module, piece.module)
            weight = names.find(module, (parameter,))
            if weight is not None:
                yield piece, weight.places[0].tensor.removesuffix(f".{parameter}")
            elif self.adapter.method == "bottleneck" and module in modules:
                yield piece, module  # one that holds others, such as an mlp
            else:
                what = "bias of" if parameter == "bias" else "module"
                raise AdapterDoesNotFit(f"the model has no {what} {piece.module}", hint=_HINT)


def _layout(model: nn.Module, parameter: str) -> BaseLayout:
    """The model's own parameters of this name, in memory."""
    config: Any = getattr(model, "config", None)
    return BaseLayout(
        {
            name: BaseTensor("F32", tuple(value.shape))
            for name, value in model.named_parameters()
            if name.endswith(f".{parameter}")
        },
        config.to_dict() if hasattr(config, "to_dict") else {},
    )


def rescaled(pair: FactorPair, magnitude: Tensor, module: Any) -> Effect:
    """DoRA on a linear layer. Raises `NotConvertible` where its weight is quantised."""
    weight, bias = module.weight.detach(), getattr(module, "bias", None)
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise NotConvertible("DoRA needs the norms of weights that are quantised here", hint="load the base in 16 bits")
    wide = weight.cpu().double()
    wide = wide.T if type(module).__name__ == "Conv1D" else wide
    return Rescaled.of(pair, magnitude.flatten(), wide, None if bias is None else bias.detach().cpu().double())


def moved(piece: Any, module: nn.Module, dtype: torch.dtype | None) -> Any:
    """The effect or front with its tensors where the module's weight is, in `dtype` or the weight's own."""
    weight: Any = getattr(module, "weight", None)
    weight = next(module.parameters()) if weight is None else weight
    own = weight.dtype if weight.dtype.is_floating_point and weight.dtype.itemsize > 1 else torch.float32

    def brought(value: Any) -> Any:
        if isinstance(value, FactorPair):
            return replace(value, a=brought(value.a), b=brought(value.b))
        if not isinstance(value, Tensor):
            return value
        there = value.to(weight.device, dtype or own)
        if not there.isfinite().all():
            raise NotConvertible(f"values aren't finite in {there.dtype}", hint="look for NaN; try dtype=torch.float32")
        return there

    return replace(piece, **{name: brought(getattr(piece, name)) for name in piece.__dataclass_fields__})


def _widths(module: Any) -> tuple[int, int]:
    """(out, in)."""
    rows, columns = module.weight.shape
    if hasattr(module, "in_features"):
        return int(module.out_features), int(module.in_features)
    return (int(columns), int(rows)) if type(module).__name__ == "Conv1D" else (int(rows), int(columns))


def _require(holds: bool, what: str, ours: Any, theirs: Any) -> None:  # noqa: FBT001 (a condition)
    if not holds:
        raise AdapterDoesNotFit(f"{what} is {ours} in the adapter, {theirs} in the model", hint=_HINT)
