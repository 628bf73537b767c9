"""What all formats share: for each module a pair of factors and a scale, ΔW = scale · up · down.

Whatever an adapter has beyond that is refused here, by name, for no other format has a place for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import NoReturn

from lorahub.adapters.adapter import Adapter, Kind, Naming, PartKind, Update
from lorahub.adapters.files import Files, header_of
from lorahub.adapters.formats import SOURCES
from lorahub.adapters.gguf_file import read_gguf
from lorahub.adapters.rules import Severity
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.conversion.arrays import Array, outline, read_array
from lorahub.errors import NotConvertible

_ROLES = frozenset({"down", "up", "magnitude", "input_magnitude", "up_bias", "alpha"})
AS_LORA = (
    "a plain LoRA comes near it: `lorahub convert` with --rank N or --keep 0.99, `lorahub pull --for` with "
    "--lossy 0.05; or merge it into its base"
)
_NAMES = {
    PartKind.BIAS: "biases",
    PartKind.BIAS_DELTA: "biases",
    PartKind.REPLACEMENT: "modules_to_save",
    PartKind.TOKEN_ROWS: "trainable_token_indices",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One module's update: `down` (rank, in[, k…]), `up` (out, rank[, 1…]), `magnitude` and `up_bias` (out).

    For an embedding, `down` is (rank, rows) and `up` (width, rank).
    """

    module: str
    down: Array
    up: Array
    scale: float
    magnitude: Array | None = None
    up_bias: Array | None = None
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def alpha(self) -> float:
        """What the scale is a quotient of: scale · rank."""
        return as_written(self.scale * self.rank)

    @property
    def leaf(self) -> str:
        return self.module.rpartition(".")[2]

    def folded(self, factor: float = 1.0) -> "Layer":
        """With scale · factor multiplied into `up` and a scale of 1 / factor."""
        return replace(self, up=self.up.times(self.scale * factor), scale=1 / factor)

    def padded(self, rank: int) -> "Layer":
        """With zeros up to this rank, which change nothing; the scale stays."""
        return replace(self, down=self.down.padded(0, rank), up=self.up.padded(1, rank))


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter of plain LoRA, or DoRA, on its way from one format to another."""

    layers: tuple[Layer, ...]
    naming: Naming
    base_name: str | None = None
    dropout: float = 0.0
    architecture: str | None = None
    of_pipeline: bool = False
    """Whether the modules' names begin with a part of a pipeline. `transformer.` alone doesn't tell: GPT-2 has it."""

    @property
    def is_dora(self) -> bool:
        return any(layer.magnitude is not None for layer in self.layers)

    def equal_ranks(self) -> tuple[Layer, ...]:
        """The layers with zeros up to the largest rank."""
        rank = max(layer.rank for layer in self.layers)
        return tuple(layer.padded(rank) for layer in self.layers)


Load = Callable[[TensorEntry], Array]


def as_written(value: float) -> float:
    """An int where it is one, so that alpha is written as 16 rather than as 16.0; rounded where only the last digits
    of the multiplication say otherwise.
    """
    near = round(value, 9)
    return int(near) if near == int(near) else value


def refuse_broken(adapter: Adapter) -> None:
    """Raises `NotConvertible` for what isn't an adapter of a format known here, or is damaged."""
    worst = next((found for found in adapter.findings if found.severity is Severity.ERROR), None)
    if worst is not None:
        raise NotConvertible(worst.message, hint=worst.hint, rule=worst.rule)
    if adapter.format not in SOURCES:
        raise NotConvertible(
            f"conversions from {adapter.format} aren't known", hint=f"they start from {', '.join(sorted(SOURCES))}"
        )
    if any(found.rule == "LH206" for found in adapter.findings):
        raise NotConvertible("tensors of no known method would be lost", hint="see `lorahub check`", rule="LH206")


def refuse_special(adapter: Adapter) -> None:
    """Raises `NotConvertible` for what changes the arithmetic in a way that factors and a scale don't tell."""
    change = adapter.base_change
    for setting, is_on, why in (
        ("" if change is None else change.setting, change is not None, "PEFT changes the base when it loads it"),
        ("use_bdlora", adapter.is_block_diagonal, "its factors are stacks of diagonal blocks"),
        (str(adapter.obstacle), adapter.obstacle is not None, "it acts on activations"),
    ):
        if is_on:
            raise NotConvertible(f"the adapter needs {setting}: {why}", hint=AS_LORA)
    methods = sorted({update.method for update in adapter.updates} - {"lora"})
    if methods or not adapter.updates:
        what = ", ".join(methods) or adapter.method
        raise NotConvertible(f"the method is {what}; only LoRA and DoRA convert", hint=AS_LORA)


def refuse_beside(adapter: Adapter) -> None:
    """Raises `NotConvertible` for whole tensors beside the updates. Copies of the base's weights may go."""
    for part in adapter.parts:
        if part.kind is not PartKind.BASE_COPY:
            what = _NAMES.get(part.kind, part.kind.value)
            raise NotConvertible(
                f"the adapter has {what}, first {part.name}; the target has no place for them",
                hint=AS_LORA,
            )
    if adapter.replication:
        raise NotConvertible(
            "layer_replication makes layers that the base of the target doesn't have", hint="keep it in PEFT's format"
        )


def read_lora(files: Files, adapter: Adapter) -> LoraAdapter:
    """The factors in memory, every module under the adapter's own name for it. Raises `NotConvertible`."""
    return lora_of(adapter, loader(files, adapter))


def lora_of(adapter: Adapter, load: Load) -> LoraAdapter:
    """The factors as `load` gives them."""
    refuse_special(adapter)
    refuse_beside(adapter)
    return LoraAdapter(
        tuple(_layer(update, load) for update in adapter.updates),
        adapter.naming,
        adapter.claim.name,
        adapter.dropout,
        adapter.architecture,
    )


def outlines(adapter: Adapter) -> Load:
    """Gives the tensors' shapes, and no numbers."""
    _refuse_quantised(adapter)
    return lambda entry: outline(entry.dtype, entry.shape)


def _refuse_quantised(adapter: Adapter) -> None:
    if "Q8_0" in adapter.dtypes:
        raise NotConvertible("the factors are quantised (Q8_0)", hint="convert the adapter that they were made from")


def loader(files: Files, adapter: Adapter) -> Load:
    """Reads tensors of the adapter's file."""
    path = adapter.weights_file
    assert path is not None  # an adapter without weights is broken
    _refuse_quantised(adapter)
    if path.endswith(".gguf"):
        start = read_gguf(lambda start, stop: files.read(path, start, stop), size=files.sizes[path]).data_start
    else:
        start = header_of(files, path, allow_empty=True).data_start
    return lambda entry: read_array(files, path, entry, data_start=start)


def _layer(update: Update, load: Load) -> Layer:
    odd = sorted(set(update.tensors) - _ROLES)
    if odd:
        raise NotConvertible(f"{update.module} has a factor of its own, {odd[0]}", hint="merge it into its base")
    if update.parameters != ("weight",) or (len(update.shape) == 3 and update.kind is Kind.LINEAR):
        raise NotConvertible(
            f"{update.module} is a stack of experts, which no other format adapts", hint="keep it in PEFT's format"
        )
    pieces = {role: load(entry) for role, entry in update.tensors.items() if role != "alpha"}
    if "input_magnitude" in pieces:
        _refuse_norms(update, pieces["input_magnitude"])
    return Layer(
        update.module,
        pieces["down"],
        pieces["up"],
        update.scale,
        _by_output(pieces["magnitude"], update) if "magnitude" in pieces else None,
        pieces.get("up_bias"),
        is_embedding=update.kind is Kind.EMBEDDING,
    )


def _by_output(magnitude: Array, update: Update) -> Array:
    """DoRA's magnitude as (out): there are files with (out), (1, out, 1…) and (out, 1…)."""
    out = update.shape[-1] if update.kind is Kind.EMBEDDING else update.shape[0]
    if not max(magnitude.shape) == prod(magnitude.shape) == out:
        _refuse_norms(update, magnitude)
    return magnitude.reshaped(prod(magnitude.shape))


def _refuse_norms(update: Update, magnitude: Array) -> NoReturn:
    raise NotConvertible(
        f"dora_scale of {update.module} is {list(magnitude.shape)}: norms of inputs; PEFT has norms of outputs",
        hint="train with wd_on_out=True",
    )


def refuse_layers(
    lora: LoraAdapter, target: str, *, dora: bool = False, up_bias: bool = False, conv: bool = False
) -> None:
    """Raises `NotConvertible` for layers that the target can't hold; the flags say what it can."""
    for layer in lora.layers:
        if layer.magnitude is not None and not dora:
            _refuse(layer, "DoRA's magnitudes", target)
        if layer.up_bias is not None and not up_bias:
            _refuse(layer, "a bias of lora_B (lora_bias)", target)
        if len(layer.down.shape) > 2 and not conv:
            _refuse(layer, "a convolution", target)
        if layer.is_embedding:
            _refuse(layer, "an update to an embedding", target)


def refuse_dtypes(layers: Iterable[Layer], target: str) -> None:
    """F64 has no place in runtimes on GPUs, and rounding it isn't exact."""
    for layer in layers:
        if "F64" in (layer.down.dtype, layer.up.dtype):
            raise NotConvertible(f"{layer.module} is F64, which {target} doesn't read", hint="save the adapter in F32")


def _refuse(layer: Layer, what: str, target: str) -> None:
    raise NotConvertible(f"{layer.module} has {what}; {target} has no place for it", hint=AS_LORA)
