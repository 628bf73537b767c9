"""An adapter, whatever file format it came in: updates to base weights, and typed parts that are none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lorahub.adapters.base_changes import BaseChange
from lorahub.adapters.findings import Finding
from lorahub.adapters.safetensors_header import TensorEntry

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
    (experts, out, in) for a parameter that holds all experts. `tensors` has the factors by role: for LoRA `down`
    (rank, in), `up` (out, rank), perhaps `magnitude`; other methods have their own roles. `parameters` are the names
    that the weight may have in its module, the likeliest first.
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

    @property
    def leaf(self) -> str:
        """The last name of the module: q_proj."""
        return self.module.rpartition(".")[2]


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
    """Of token rows: which tokens."""

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
    options: Mapping[str, Any] = field(default_factory=dict)
    """What changes the arithmetic or who can load it: rslora, dora, patterns, init, layer_replication, …"""
    targets: tuple[str, ...] | str | None = None
    """Which modules the configuration says it trains: names, or an expression."""
    findings: tuple[Finding, ...] = ()
    weights_file: str | None = None
    dtypes: Mapping[str, int] = field(default_factory=dict)
    """Elements by dtype."""
    architecture: str | None = None
    """Of the base, where the file says so (GGUF)."""
    licence: str | None = None
    """Of the card."""
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
    def is_mergeable(self) -> bool:
        whole = not self.options.get("not_mergeable") and bool(self.updates or self.parts)
        return whole and all(part.kind in MERGEABLE_PARTS for part in self.parts)
