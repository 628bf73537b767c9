"""Adapters made of adapters, and of fine-tuned models: files of a plain LoRA, with the error that a rank costs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout, read_base, weight_files
from lorahub.adapters.files import Files, header_of
from lorahub.adapters.reader import read_adapter
from lorahub.conversion.arrays import Array
from lorahub.conversion.lora import Layer, LoraAdapter, read_lora, refuse_broken
from lorahub.conversion.peft import write_peft
from lorahub.errors import InvalidBaseModel, NotMergeable
from lorahub.merging.combinations import COMBINATIONS, RANK, truncate
from lorahub.merging.recipe import Recipe
from lorahub.merging.rounding import FLOATS, exact

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix

Advance = Callable[[int], None]
_TABLES = ("embed_tokens", "wte", "wpe", "lm_head", "embeddings", "shared")


@dataclass(frozen=True, slots=True)
class Made:
    """An adapter's files. `errors` are ‖lost‖ / ‖ΔW‖ by module, `error` the same over all; `left_out` changed too."""

    files: Mapping[str, bytes]
    rank: int
    error: float
    errors: Mapping[str, float]
    left_out: tuple[str, ...] = ()


# --- of adapters ------------------------------------------------------------------------------------------------------


def combine_adapters(recipe: Recipe, sources: Sequence[Files], *, rank: int = 0) -> Made:
    """The recipe's adapters as one. A sum without `rank` is exact: its factors stand side by side.

    Raises `NotConvertible` for what isn't plain LoRA, `NotMergeable` where shapes differ.
    """
    loras = [_plain(files) for files in sources]
    modules = dict.fromkeys(layer.module for lora in loras for layer in lora.layers)
    weights = [one.weight for one in recipe.adapters]
    layers, losses = [], {}
    for module in modules:
        found = [
            (layer, weight)
            for lora, weight in zip(loras, weights, strict=True)
            for layer in lora.layers
            if layer.module == module
        ]
        if recipe.method == "sum" and not rank:
            layers.append(_side_by_side(found))
            losses[module] = (0.0, 1.0)
        else:
            layer, loss = _reduced(recipe, found, rank or int(recipe.options().of(RANK)))
            layers.append(layer)
            losses[module] = loss
    lora = replace(loras[0], layers=tuple(layers))
    return made_of(write_peft(lora, None), layers, losses)


def _plain(files: Files) -> LoraAdapter:
    adapter = read_adapter(files)
    refuse_broken(adapter)
    lora = read_lora(files, adapter)
    if lora.is_dora or any(layer.up_bias is not None for layer in lora.layers):
        raise NotMergeable(
            "DoRA and biases of lora_B don't add up in factors", hint="merge into the base: lorahub merge"
        )
    if any(layer.is_embedding or len(layer.down.shape) > 2 for layer in lora.layers):
        raise NotMergeable("embeddings and convolutions are not combined as factors", hint="merge into the base")
    return lora


def _side_by_side(found: Sequence[tuple[Layer, float]]) -> Layer:
    up = np.concatenate([layer.up.wide() * (layer.scale * weight) for layer, weight in found], axis=1)
    down = np.concatenate([layer.down.wide() for layer, _ in found], axis=0)
    return _layer(found[0][0].module, up, down)


def _reduced(recipe: Recipe, found: Sequence[tuple[Layer, float]], rank: int) -> tuple[Layer, tuple[float, float]]:
    deltas = [layer.scale * (layer.up.wide() @ layer.down.wide()) for layer, _ in found]
    if len({delta.shape for delta in deltas}) > 1:
        raise NotMergeable(f"{found[0][0].module} has several shapes", hint="combine adapters of one base")
    module = found[0][0].module
    method = "sum" if recipe.method == "svd" else recipe.method  # truncated below, where the error is measured
    total = COMBINATIONS[method].apply(deltas, [weight for _, weight in found], recipe.options(f"{module}.weight"))
    return _truncated(module, total, rank or sum(layer.rank for layer, _ in found))


def _truncated(module: str, delta: "Matrix", rank: int) -> tuple[Layer, tuple[float, float]]:
    """The layer, and (‖lost‖², ‖ΔW‖²)."""
    left, right, error = truncate(delta, min(rank, *delta.shape))
    size = float(np.sum(delta**2))
    return _layer(module, left, right), (error**2 * size, size)


def _layer(module: str, up: "Matrix", down: "Matrix") -> Layer:
    return Layer(module, Array("F32", down.astype("<f4")), Array("F32", up.astype("<f4")), 1.0)


def made_of(
    files: Mapping[str, bytes],
    layers: Sequence[Layer],
    losses: Mapping[str, tuple[float, float]],
    left_out: Sequence[str] = (),
) -> Made:
    """`losses` are (‖lost‖², ‖ΔW‖²) by module."""
    lost, size = (sum(part[index] for part in losses.values()) for index in (0, 1))
    errors = {module: (one / all_ if all_ else 0.0) ** 0.5 for module, (one, all_) in losses.items()}
    rank = max((layer.rank for layer in layers), default=0)
    return Made(files, rank, (lost / size) ** 0.5 if size else 0.0, errors, tuple(left_out))


# --- of a fine-tuned model --------------------------------------------------------------------------------------------


def extract(base: Files, tuned: Files, *, rank: int, base_name: str, advance: Advance = lambda _: None) -> Made:
    """A LoRA of this rank that comes closest to what fine-tuning changed: the truncated SVD of W' − W in float64.

    Linear layers only; what else changed is in `left_out`. Raises `InvalidBaseModel` where the layouts differ,
    `NotMergeable` where nothing changed. `advance` is called with the bytes read.
    """
    before, after = read_base(base), read_base(tuned)
    if before.layout_digest != after.layout_digest and not _same_shapes(before, after):
        raise InvalidBaseModel("the two models have other tensors", hint="extract from a fine-tune of this very base")
    layers: list[Layer] = []
    losses: dict[str, tuple[float, float]] = {}
    left_out: list[str] = []
    for name, one, two in _pairs(base, tuned):
        advance(two.nbytes)
        if np.array_equal(one, two):
            continue
        module = name.removesuffix(".weight")
        if one.ndim != 2 or module == name or module.rpartition(".")[2] in _TABLES:
            left_out.append(name)
            continue
        layer, losses[module] = _truncated(module, two - one, rank)
        layers.append(layer)
    if not layers:
        raise NotMergeable("no linear layer of the two models differs", hint="are these the right folders?")
    lora = LoraAdapter(tuple(layers), Naming.DOTTED, base_name, architecture=before.model_type)
    return made_of(write_peft(_as_stored(lora), before), layers, losses, left_out)


def _as_stored(lora: LoraAdapter) -> LoraAdapter:
    """GPT-2 stores (in, out): the factors of its ΔWᵀ change places."""
    if lora.architecture != "gpt2":
        return lora
    turned = [replace(one, down=one.up.transposed, up=one.down.transposed) for one in lora.layers]
    return replace(lora, layers=tuple(turned))


def _same_shapes(one: BaseLayout, two: BaseLayout) -> bool:
    return {name: tensor.shape for name, tensor in one.tensors.items()} == {
        name: tensor.shape for name, tensor in two.tensors.items()
    }


def _pairs(base: Files, tuned: Files) -> Iterator[tuple[str, "Matrix", "Matrix"]]:
    """(name, W, W') of every tensor of numbers, in float64."""
    places = {entry[0]: entry[1:] for entry in _places(base)}
    for name, path, start, stop, dtype, shape in _places(tuned):
        before = places.get(name)
        if before is None or dtype not in FLOATS or before[3] not in FLOATS:
            continue
        old = exact(base.read(before[0], before[1], before[2]), before[3], before[4])
        yield name, old, exact(tuned.read(path, start, stop), dtype, shape)


def _places(files: Files) -> Iterator[tuple[str, str, int, int, str, tuple[int, ...]]]:
    """(name, path, start, stop, dtype, shape) of every tensor."""
    for prefix, path in weight_files(files):
        header = header_of(files, path, allow_empty=True)
        for entry in header.tensors:
            start = header.data_start
            yield prefix + entry.name, path, start + entry.start, start + entry.stop, entry.dtype, entry.shape
