"""The modules of a model under the names that adapters use, and adapters brought to them: their factors, or a refusal.

Names are looked up as for a check or a merge, in `BaseNames`; here the base's layout is the model's own, in memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lorahub.adapters.adapter import Adapter, Kind, Naming, PartKind, Update
from lorahub.adapters.base_model import BaseLayout, BaseTensor
from lorahub.adapters.files import Files
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.names.weight import Weight
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.rules import Severity
from lorahub.conversion.gguf import from_gguf
from lorahub.conversion.lora import Layer, LoraAdapter, read_lora, refuse_broken
from lorahub.errors import AdapterDoesNotFit, NotConvertible
from lorahub.merging.factors import FactorReader
from lorahub.serving.experts import parameter_effects
from lorahub.serving.fronts import Front
from lorahub.serving.kinds import AdapterReader, kind_of, moved, rescaled
from lorahub.serving.slots import Effect, FactorPair

_BESIDE = {
    PartKind.BIAS: "biases",
    PartKind.BIAS_DELTA: "biases",
    PartKind.REPLACEMENT: "whole modules (modules_to_save)",
    PartKind.TOKEN_ROWS: "rows of an embedding (trainable_token_indices)",
}


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter in memory, on its model's device. All factors are views of one buffer for each device and dtype.

    Plain LoRA is `pairs` and nothing else.
    """

    source: str
    pairs: Mapping[str, FactorPair]
    effects: Mapping[str, Effect] = field(default_factory=dict)
    front: Front | None = None
    method: str = "lora"

    @property
    def modules(self) -> set[str]:
        return {*self.pairs, *self.effects}

    @property
    def rank(self) -> int:
        """The largest; 0 without factors."""
        return max((pair.rank for pair in self.pairs.values()), default=0)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors())

    @property
    def shown(self) -> str:
        """In a few words."""
        if self.front is not None:
            return f"{self.method}, {self.front.length} tokens"
        return f"{f'rank {self.rank}' if self.pairs else self.method}, {len(self.modules)} modules"

    def _tensors(self) -> Iterator[Tensor]:
        for pair in self.pairs.values():
            yield from (pair.a, pair.b)
        for effect in self.effects.values():
            yield from effect.tensors
        if self.front is not None:
            yield from self.front.tensors


class Targets:
    """The linear layers and embeddings of `model`, and what other modules have of bare parameters, by name."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        self._model = model
        self._dtype = dtype
        self.modules = {name: module for name, module in model.named_modules() if _shape(module) is not None}
        self._bare = dict(_bare_parameters(model, self.modules))
        tensors = {f"{name}.weight": BaseTensor("F32", _widths(module)) for name, module in self.modules.items()}
        tensors |= {name: BaseTensor("F32", tuple(value.shape)) for name, value in self._bare.items()}
        config: Any = getattr(model, "config", None)
        self._base = BaseLayout(tensors, config.to_dict() if hasattr(config, "to_dict") else {})
        self._names = BaseNames(self._base)

    def read(self, files: Files, source: str) -> LoadedAdapter:
        """Raises `NotConvertible` for what can't act on modules alone, `AdapterDoesNotFit`, `InvalidAdapter`."""
        adapter = read_adapter(files)
        kind = kind_of(adapter)
        if kind is None:
            return self._factors(files, adapter, source)
        _refuse_errors(adapter)
        reader = AdapterReader(self._model, adapter, FactorReader(files, adapter), self._dtype)
        if kind == "front":
            return LoadedAdapter(source, {}, front=reader.front(), method=adapter.method)
        return LoadedAdapter(source, {}, reader.effects(), method=adapter.method)

    def _factors(self, files: Files, adapter: Adapter, source: str) -> LoadedAdapter:
        refuse_broken(adapter)
        _refuse_special(adapter)
        inside = [(update, weight) for update, weight in self._found(adapter) if weight.places[0].tensor in self._bare]
        known = {id(update) for update, _ in inside}
        plain = replace(adapter, updates=tuple(update for update in adapter.updates if id(update) not in known))
        layers = self._layers(files, plain) if plain.updates else {}
        pairs = {name: _factors(layer) for name, layer in layers.items()}
        effects: dict[str, Effect] = {
            name: moved(
                rescaled(pairs.pop(name), _wide(layer.magnitude), self.modules[name]), self.modules[name], self._dtype
            )
            for name, layer in layers.items()
            if layer.magnitude is not None
        }
        method = "dora" if effects else "experts" if inside else "lora"
        effects |= parameter_effects(self._model, inside, FactorReader(files, adapter), self._dtype)
        return LoadedAdapter(source, self.resident(pairs), effects, method=method)

    def _found(self, adapter: Adapter) -> Iterator[tuple[Update, Weight]]:
        resolved = self._names.resolve([update.module for update in adapter.updates], adapter.naming).modules
        for update in adapter.updates:
            weight = self._names.find(resolved.get(update.module, update.module), update.parameters, update.turn)
            if weight is not None:
                yield update, weight

    def _layers(self, files: Files, adapter: Adapter) -> dict[str, Layer]:
        """The updates of linear layers and embeddings, by the model's own names of these."""
        lora = read_lora(files, adapter)
        if lora.naming is Naming.GGUF:
            lora = from_gguf(lora, self._base)
        layers = self._placed(lora)
        self._refuse_shapes(layers)
        return layers

    def resident(self, pairs: Mapping[str, FactorPair]) -> dict[str, FactorPair]:
        """The pairs in one buffer for each device and dtype of the modules. Raises `NotConvertible` for an overflow."""
        groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
        for name in pairs:
            groups.setdefault(self._home(name), []).append(name)
        moved: dict[str, FactorPair] = {}
        for (device, dtype), names in groups.items():
            tensors = [tensor for name in names for tensor in (pairs[name].a, pairs[name].b)]
            flat = torch.cat([tensor.to(dtype).flatten() for tensor in tensors]).to(device)
            if not flat.isfinite().all():
                raise NotConvertible(f"factors aren't finite in {dtype}", hint="look for NaN; try dtype=torch.float32")
            pieces = iter(torch.split(flat, [tensor.numel() for tensor in tensors]))
            for name in names:
                a, b = pairs[name].a, pairs[name].b
                moved[name] = FactorPair(
                    next(pieces).view(a.shape), next(pieces).view(b.shape), pairs[name].is_embedding
                )
        return moved

    def _home(self, name: str) -> tuple[torch.device, torch.dtype]:
        """Where a module's factors live: beside its weight, in its dtype; F32 beside a quantised one."""
        weight: Any = self.modules[name].weight
        own = weight.dtype if weight.dtype.is_floating_point and weight.dtype.itemsize > 1 else torch.float32
        return weight.device, self._dtype or own

    def _placed(self, lora: LoraAdapter) -> dict[str, Layer]:
        """Layers by the model's own names of their modules."""
        resolved = self._names.resolve([layer.module for layer in lora.layers], lora.naming).modules
        placed: dict[str, Layer] = {}
        for layer in lora.layers:
            weight = self._names.find(resolved.get(layer.module, layer.module), ("weight",))
            whole = weight is not None and weight.places[0].is_whole
            name = weight.places[0].tensor.removesuffix(".weight") if weight is not None and whole else None
            if name is None or name in placed:
                raise AdapterDoesNotFit(
                    f"the model has no linear layer or embedding {layer.module}" + (" of its own" if name else ""),
                    hint="see `lorahub check`; load the adapter onto the base it was trained on",
                )
            placed[name] = layer
        return placed

    def _refuse_shapes(self, layers: Mapping[str, Layer]) -> None:
        for name, layer in layers.items():
            module = self.modules[name]
            ours, theirs = _shape(module), (layer.up.shape[0], layer.down.shape[1])
            if layer.is_embedding:
                theirs = theirs[::-1]
            if ours != theirs or layer.is_embedding != isinstance(module, nn.Embedding):
                raise AdapterDoesNotFit(
                    f"{layer.module} is {list(theirs)} in the adapter, {list(ours or ())} in the model",
                    hint="load the adapter onto the base it was trained on",
                )


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """(out, in), of an embedding (rows, width); None for what a slot can't stand before.

    An embedding that scales would scale the update too, and a router that is a linear layer gives something else than
    its output. An attention of torch's own never calls its `out_proj`: with PEFT as here, an update of it acts only
    once it is merged.
    """
    if _is_router(module):
        return None
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward:
        return module.num_embeddings, module.embedding_dim
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers', of GPT-2
        rows, columns = module.weight.shape  # type: ignore[misc]
        return int(columns), int(rows)
    return None


def _is_router(module: nn.Module) -> bool:
    is_own = type(module).__module__.startswith("transformers.models.")
    return is_own and isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward


def _bare_parameters(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Matrices, and stacks of them, that belong to no layer: those of experts and their routers."""
    for name, module in model.named_modules():
        is_layer = isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d) and not _is_router(
            module
        )
        if name not in layers and not is_layer:
            for parameter, value in module.named_parameters(recurse=False):
                if value.ndim in (2, 3):
                    yield f"{name}.{parameter}", value


def _widths(module: nn.Module) -> tuple[int, ...]:
    """As the weight is stored, were it not quantised."""
    shape = _shape(module)
    assert shape is not None  # it is a target
    return shape[::-1] if type(module).__name__ == "Conv1D" else shape


def _factors(layer: Layer) -> FactorPair:
    """As float64, the scale in `b`: they are rounded once, to the dtype they live in."""
    down, up = _wide(layer.down), _wide(layer.up)
    return FactorPair(down.T if layer.is_embedding else down, up.T * layer.scale, layer.is_embedding)


def _wide(array: Any) -> Tensor:
    return torch.from_numpy(array.wide())


# --- refusals ---------------------------------------------------------------------------------------------------------


def _refuse_errors(adapter: Adapter) -> None:
    worst = next((found for found in adapter.findings if found.severity is Severity.ERROR), None)
    if worst is not None or not adapter.is_known:
        found = worst or adapter.findings[0]
        raise NotConvertible(found.message, hint=found.hint, rule=found.rule)


def _refuse_special(adapter: Adapter) -> None:
    found = next(_obstacles(adapter), None)
    if found is not None:
        hint = "fold it into the base instead: lorahub merge BASE ADAPTER -o FOLDER"
        raise NotConvertible(
            f"the adapter has {found}, which can't be swapped",
            hint=hint if adapter.is_mergeable else "load it with PEFT",
        )


def _obstacles(adapter: Adapter) -> Iterator[str]:
    """What (x·A)·B behind the modules of the base doesn't say, named as its user knows it."""
    if not adapter.updates:
        yield f"no updates to weights ({adapter.method})"
    for update in adapter.updates:
        what = _obstacle(update)
        if what is not None:
            yield f"{what}, first for {update.module}"
    for part in adapter.parts:
        if part.kind is not PartKind.BASE_COPY:
            yield f"{_BESIDE.get(part.kind, part.kind.value)}, first {part.name}"
    if adapter.replication:
        yield "layer_replication"
    if adapter.ties_weights:
        yield "ensure_weight_tying"


def _obstacle(update: Update) -> str | None:
    if update.method != "lora":
        return f"updates of {update.method}"
    if update.is_dora and update.kind is not Kind.LINEAR:
        return "DoRA's magnitudes of an embedding or a convolution"
    if "up_bias" in update.tensors:
        return "biases (lora_bias)"
    if update.kind is Kind.CONV:
        return "updates to convolutions"
    return None
