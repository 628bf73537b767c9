"""An adapter, whatever file format it came in: updates to base weights, and typed parts that are none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from types import MappingProxyType
from typing import Any

from lorahub.adapters.base_changes import BaseChange
from lorahub.adapters.findings import Finding
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.adapters.selection import Selection

UNKNOWN = "unknown"
"""In place of a format or a method."""
_MOST_LAYERS = 10_000
_MAGNITUDES = frozenset({"magnitude", "input_magnitude"})

ROLES = MappingProxyType(
    {
        "down": "(rank, in, k…), of embeddings (rank, rows), of stacks (experts, rank, in)",
        "up": "(out, rank), of embeddings (width, rank), of stacks (experts, out, rank)",
        "mid": "Tucker's core (rank, rank, k…), between up and down (rank, in)",
        "diagonal": "(rank, 1), between up and down",
        "magnitude": "DoRA's norm of each output, in any shape",
        "input_magnitude": "(1, in, 1…), LyCORIS's norm of each input",
        "up_bias": "(out), multiplied by the scale",
        "w1_a": "(out, rank), of LoHa; with cores (rank, out); of LoKr (m, rank)",
        "w1_b": "(rank, in), of LoHa; of LoKr (rank, n)",
        "w2_a": "as w1_a, of the other matrix",
        "w2_b": "as w1_b",
        "t1": "(rank, rank, k…), the core of w1_a and w1_b",
        "t2": "the core of w2_a and w2_b",
        "w1": "(m, n), a whole factor of LoKr",
        "w2": "(out / m, in / n, k…)",
        "factor": "(out) or (in), what the weight is multiplied by",
        "growth": "(out) or (in), the same less one; biases stay",
        "on_input": "there where growth is of inputs",
        "rotation": "(blocks, b(b − 1)/2), upper triangles, of OFT; (levels, blocks, b, b) of BOFT",
        "blocks": "(blocks, b, b), rotations of outputs",
        "reflections": "(in, rank), unit vectors once they are normalised",
        "lambda_b": "(out), of VeRA",
        "lambda_d": "(rank), of VeRA",
        "shared_down": "(rank, in or more), of all modules together",
        "shared_up": "(out or more, rank)",
        "values": "(n), at `indices` (2, n)",
        "indices": "rows and columns, whole numbers",
        "spectrum": "(n), of FourierFT and WaveFT",
        "strength": "(1), of DeLoRA: how far it goes, over the rank",
        "input_norm": "(in), the norms of the base's columns",
        "block": "(rank, out) of MiSS, or fewer columns that repeat; (out / rank, rank, rank) of its bat",
        "down_blocks": "(k, in / k, rank), of GraLoRA",
        "up_blocks": "(k, rank, out / k)",
        "kernel": "(out / b, in / b, b), of C3A",
        "bank": "(n, length), vectors of all modules together, of VB-LoRA",
        "down_logits": "(rank, in / length, n), over the bank's vectors",
        "up_logits": "(out / length, rank, n)",
        "down_choices": "(rank, in / length, k), numbers of vectors in place of logits",
        "down_shares": "(rank, in / length, k − 1), what each has; the last has the rest",
        "up_choices": "(out / length, rank, k)",
        "up_shares": "(out / length, rank, k − 1)",
        "lambda_r": "(rank, bases), of RandLoRA",
        "copied_down": "a module's own copy of shared_down",
        "copied_up": "a module's own copy of shared_up",
        "gamma": "(bases, in or out, whichever is smaller)",
        "places": "(n), where `values` belong, counted row by row; whole numbers",
        "down_places": "(rank, in), numbers of the bank's, of UniLoRA",
        "down_scales": "(rank, in), or what spreads to it",
        "up_places": "(out, rank)",
        "up_scales": "(out, rank)",
        "angles": "(out / 2), of RoAd, or (out) or (2 out) in its variants",
        "lengths": "as many",
        "projection": "(out, rank), of DEFT: what it spans is taken away",
        "left": "(out, rank)",
        "right": "(rank, in)",
        "weight": "the whole of what is added",
        "double": "a second copy of it",
        "alpha": "a number; the scale has it already",
        "rescale": "a number for each block of OFT",
        "ignored": "what loaders leave out",
    }
)
"""Role -> shape and meaning. PEFT's stacks of experts are matrices: `down` (experts · rank, in), expert by expert, and
`up` (out, rank · experts), rank by rank.
"""

BESIDE = _MAGNITUDES | {"up_bias", "alpha", "ignored"}
"""Roles of tensors that stand beside an update's factors, and are none."""

Shape = tuple[int | None, ...]
"""What is asked of a weight, output dimension first; None where the method leaves a dimension open."""


class Naming(StrEnum):
    """How an adapter writes the names of modules."""

    DOTTED = "dotted"  # model.layers.0.self_attn.q_proj, as in memory
    FOLDED = "folded"  # lora_unet_down_blocks_0_attentions_0: dots and underscores are one
    GGUF = "gguf"  # blk.0.attn_q
    TORCHTUNE = "torchtune"  # layers.0.attn.q_proj


class Kind(StrEnum):
    """How the weight is stored, which decides the direction of an update."""

    LINEAR = "linear"  # (out, in); (in, out) where `transposed`
    CONV = "conv"  # (out, in, k…)
    EMBEDDING = "embedding"  # (rows, width): the shape of the update as it is


@dataclass(frozen=True, slots=True)
class Update:
    """What an adapter does to one base weight.

    `shape` is that of ΔW: (out, in) for linear layers, (out, in, k…) for convolutions, (rows, width) for embeddings,
    (experts, out, in) for a parameter that holds all experts. `tensors` has the factors by role, whose names are in
    `ROLES` and mean the same whatever the format; methods that are known by name only have names of their own.
    `parameters` are the names that the weight may have in its module, of which the base has at least one; it is the
    one with the number `turn` of those that the base has.
    """

    module: str
    method: str
    tensors: Mapping[str, TensorEntry]
    shape: Shape
    rank: int | None = None
    scale: float = 1.0
    kind: Kind = Kind.LINEAR
    transposed: bool = False
    parameters: tuple[str, ...] = ("weight",)
    turn: int = 0
    number: int | None = None
    """The whole number that the method's formula needs beside its factors: terms of OFT's series, which stands for
    Cayley's transform (None for the transform itself), vectors added up of VB-LoRA, RoAd's group, FourierFT's seed.
    """
    variant: str = ""
    """The formula's variant, in the method's own word: HRA's "orthonormal", DEFT's "qr", WaveFT's wavelet."""

    @property
    def leaf(self) -> str:
        """The last name of the module: q_proj."""
        return self.module.rpartition(".")[2]

    @property
    def is_dora(self) -> bool:
        return not _MAGNITUDES.isdisjoint(self.tensors)


class PartKind(StrEnum):
    BIAS = "bias"  # replaces the base's
    BIAS_DELTA = "bias_delta"  # is added to the base's
    REPLACEMENT = "replacement"  # a whole tensor in place of the base's: modules_to_save, LayerNorm tuning
    BASE_COPY = "base_copy"  # the base's own tensor, saved beside the adapter
    TOKEN_ROWS = "token_rows"  # noqa: S105 rows of an embedding, in place of the base's
    PROMPT = "prompt"  # virtual tokens before the input
    PREFIX = "prefix"  # keys and values before those of every layer
    BOTTLENECK = "bottleneck"  # modules of its own between the base's (Houlsby, Pfeiffer)
    HEAD = "head"  # a module that the base doesn't have


MERGEABLE_PARTS = frozenset(
    {PartKind.BIAS, PartKind.BIAS_DELTA, PartKind.REPLACEMENT, PartKind.BASE_COPY, PartKind.TOKEN_ROWS}
)


@dataclass(frozen=True, slots=True)
class Part:
    """What isn't an update to a weight. `shape` is asked of `module.parameter`, or of the base's widths."""

    kind: PartKind
    module: str
    tensors: Mapping[str, TensorEntry]
    shape: Shape
    parameter: str = "weight"
    indices: tuple[int, ...] = ()
    """Which tokens, where the part is rows of tokens."""
    activation: str | None = None
    """What a bottleneck computes behind the module that it names; None in a place that only its library knows."""

    @property
    def leaf(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def name(self) -> str:
        return f"{self.module}.{self.parameter}" if self.module else self.parameter


@dataclass(frozen=True, slots=True)
class BaseClaim:
    """Which base the adapter says it was trained on. None and empty where it says nothing."""

    name: str | None = None
    revision: str | None = None
    layout: str | None = None
    weights: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the base tensors that the adapter updates, by name."""
    names_all_files: bool = True
    """Whether `files` are all of the base's, and not one of them."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a configuration says of the scales of all modules: what a runtime knows that reads no more than this."""

    rank: float
    alpha: float
    is_root: bool = False
    """alpha / √rank (rsLoRA), rather than alpha / rank."""
    has_patterns: bool = False
    """Whether some modules have a rank or an alpha of their own."""

    @property
    def plain(self) -> float:
        return self.alpha / (self.rank or 1)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What the files say, once read. `findings` are those that need no base."""

    format: str
    method: str
    updates: tuple[Update, ...] = ()
    parts: tuple[Part, ...] = ()
    naming: Naming = Naming.DOTTED
    claim: BaseClaim = field(default_factory=BaseClaim)
    base_change: BaseChange | None = None
    """What the base loses when the adapter is loaded."""
    selection: Selection | None = None
    """Which modules the configuration asks for, where there is one that says so."""
    scaling: Scaling | None = None
    replication: tuple[tuple[int, int], ...] = ()
    """The base's layers [start, stop) that the adapter's model is built of, one range after the other."""
    ties_weights: bool = False
    """Whether what is done to the embedding is meant for a head that is tied to it too."""
    asks_for_biases: bool = False
    """Whether its configuration says that biases were trained, though the base may have none."""
    is_block_diagonal: bool = False
    """Whether its factors are stacks of diagonal blocks (BD-LoRA)."""
    obstacle: str | None = None
    """The setting by which it acts on activations, and not on weights alone."""
    start: str | bool | None = None
    """How the factors began, in the configuration's words."""
    dropout: float = 0.0
    findings: tuple[Finding, ...] = ()
    weights_file: str | None = None
    tensors: tuple[str, ...] = ()
    """The name of every tensor in it."""
    dtypes: Mapping[str, int] = field(default_factory=dict)
    """Elements by dtype."""
    architecture: str | None = None
    """The base's architecture, where the file says so (GGUF)."""
    licence: str | None = None
    """What the card says."""
    training: Mapping[str, Any] | None = None
    """How it came to be, as lorahub.json states it."""

    @property
    def is_known(self) -> bool:
        """Whether every tensor is understood well enough to be compared with a base."""
        return not any(found.rule in ("LH306", "LH305", "LH308", "LH301") for found in self.findings)

    @property
    def ranks(self) -> list[int]:
        return sorted({update.rank for update in self.updates if update.rank is not None})

    @property
    def parameters(self) -> int:
        return sum(self.dtypes.values())

    @property
    def has_format(self) -> bool:
        return self.format != UNKNOWN

    @property
    def is_dora(self) -> bool:
        return any(update.is_dora for update in self.updates)

    @property
    def layers(self) -> tuple[int, ...]:
        """The base's layer for each layer of the adapter's model; empty where it replicates none."""
        numbers = (number for start, stop in self.replication for number in range(start, stop))
        return tuple(islice(numbers, _MOST_LAYERS))

    @property
    def is_mergeable(self) -> bool:
        whole = self.obstacle is None and bool(self.updates or self.parts)
        return whole and all(part.kind in MERGEABLE_PARTS for part in self.parts)
