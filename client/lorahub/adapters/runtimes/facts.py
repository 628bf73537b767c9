"""What runtimes ask of an adapter, and the reasons that several of them share."""

from collections.abc import Iterator
from enum import StrEnum

from lorahub.adapters.adapter import Adapter, PartKind
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.formats import IMAGE_FORMATS
from lorahub.adapters.patterns import layer_index


class Loads(StrEnum):
    YES = "yes"
    WITH = "with"  # with the option or after the conversion that `needs` names
    WRONG = "wrong"  # loads without a word, and computes something else
    NO = "no"
    UNKNOWN = "unknown"


Reason = tuple[Loads, str, str]
"""(what follows, rule, sentence)"""

DEFAULT_RANK = 16
"""The largest that vLLM and SGLang take without being told."""
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes (vLLM 0.11 `LoRAConfig`)."""

PEFT = frozenset({"peft"})
"""The formats that most servers of language models read."""
GGUF = frozenset({"gguf"})
IMAGES = frozenset({"diffusers", "kohya"})
"""Those that image programs read."""

_LLM = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSequenceClassification")
_EDGES = frozenset("lm_head embed_tokens wte embed_out embed_in".split())


class RuntimeFacts:
    """What runtimes ask about."""

    def __init__(self, adapter: Adapter, base: BaseLayout | None) -> None:
        self.adapter = adapter
        self.kinds = {part.kind for part in adapter.parts} - {PartKind.BASE_COPY}
        self.is_lora = adapter.method == "lora" and not self.kinds & {
            PartKind.PROMPT,
            PartKind.PREFIX,
            PartKind.BOTTLENECK,
        }
        self.has_dora = adapter.is_dora
        self.has_bias = bool(self.kinds & {PartKind.BIAS, PartKind.BIAS_DELTA}) or any(
            "up_bias" in update.tensors for update in adapter.updates
        )
        self.has_saved = PartKind.REPLACEMENT in self.kinds
        self.has_rows = PartKind.TOKEN_ROWS in self.kinds
        self.rank = max(adapter.ranks, default=0)
        self.scales = {round(update.scale, 9) for update in adapter.updates}
        self.new_rows = _new_rows(adapter, base)
        self.edges = sorted({update.leaf for update in adapter.updates} & _EDGES)
        self.is_image = is_of_images(adapter, base)
        self.architecture = base.architecture if base is not None else None
        self.is_replicated = bool(adapter.replication)
        self.changes_base = any(found.rule == "LH216" for found in adapter.findings)
        self.has_convolutions = any(len(update.shape) > 3 for update in adapter.updates)
        self.has_experts = any(len(update.shape) == 3 for update in adapter.updates)
        self.is_root = adapter.scaling is not None and adapter.scaling.is_root

    @property
    def is_uneven(self) -> bool:
        """Whether a runtime that computes lora_alpha / r once gets a module wrong."""
        scaling = self.adapter.scaling
        return scaling is not None and scaling.has_patterns and len(self.scales | {round(scaling.plain, 9)}) > 1

    @property
    def uncovered_types(self) -> list[str]:
        """Layer types with tensors in some layers only."""
        layers: dict[str, set[int]] = {}
        for update in self.adapter.updates:
            index = layer_index(update.module)
            if index is not None:
                layers.setdefault(update.leaf, set()).add(index)
        every = set().union(*layers.values()) if layers else set()
        full = set(range(max(every) + 1)) if every else set()
        return sorted(leaf for leaf, numbers in layers.items() if numbers != full)


def _new_rows(adapter: Adapter, base: BaseLayout | None) -> int | None:
    """The size of the vocabulary that the adapter brings, where the base has another one."""
    tables = [] if base is None else [one for name, one in base.tensors.items() if _leaf(name) in _EDGES]
    known = {one.shape[0] for one in tables if one.shape}
    whole = (PartKind.REPLACEMENT, PartKind.BASE_COPY)
    brought = {part.shape[0] for part in adapter.parts if part.kind in whole and part.leaf in _EDGES and part.shape}
    return next(iter(brought - known), None) if known else None


def _leaf(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]


def is_of_images(adapter: Adapter, base: BaseLayout | None) -> bool:
    if adapter.format in IMAGE_FORMATS:
        return True
    names = list(base.tensors) if base is not None else []
    return any(
        name.startswith(
            ("unet.", "transformer_blocks.", "single_transformer_blocks.", "down_blocks.", "model.diffusion_model.")
        )
        for name in names
    )


def reserved_rank(rank: int) -> int:
    """What `--max-lora-rank` has to be."""
    return next((most for most in VLLM_RANKS if most >= rank), rank)


# --- reasons that several share ---------------------------------------------------------------------------------------


def of_another_format(facts: RuntimeFacts, why: str, *, is_convertible: bool) -> Reason:
    loads = Loads.WITH if is_convertible else Loads.NO
    return loads, "LH405", f"{why}; this is {facts.adapter.format}"


def of_a_language_model(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    """Why not, where the adapter is for something else."""
    if facts.is_image:
        yield Loads.NO, "LH406", f"{name} runs language models"
    elif facts.architecture is not None and not facts.architecture.endswith(_LLM):
        yield Loads.NO, "LH406", f"{name} has no adapters for {facts.architecture[:60]}"


def of_an_image_model(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    if not facts.is_image:
        yield Loads.NO, "LH406", f"{name} runs image models"


def of_its_vocabulary(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    if facts.new_rows is not None:
        yield Loads.NO, "LH224", f"{name} keeps the base's vocabulary, the adapter has {facts.new_rows} tokens"


def of_a_server(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    """What vLLM and SGLang have in common: PEFT's LoRA on language models, and nothing beside it."""
    yield from of_a_language_model(facts, name)
    if facts.adapter.format not in PEFT:
        yield of_another_format(
            facts, f"{name} reads PEFT's files", is_convertible=facts.is_lora and not facts.is_image
        )
    if not facts.is_lora:
        yield Loads.NO, "LH409", f"{name} loads LoRA only, this is {facts.adapter.method}"
    if facts.has_dora:
        yield Loads.NO, "LH402", f"{name} refuses DoRA"
    if facts.has_saved:
        yield Loads.NO, "LH403", f"{name} refuses whole modules (modules_to_save)"
    if facts.has_bias:
        yield Loads.NO, "LH404", f"{name} refuses biases"
    yield from of_its_vocabulary(facts, name)
    if facts.has_rows:
        yield Loads.NO, "LH410", f"{name} has no trained token rows"
    if facts.is_replicated:
        yield Loads.NO, "LH219", f"{name} doesn't replicate layers"
    if facts.changes_base:
        yield Loads.WRONG, "LH216", f"{name} adds the update to the unchanged base"
    if facts.is_uneven:
        yield Loads.WRONG, "LH407", f"{name} computes one scale from r and lora_alpha"


def of_gguf(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    """llama.cpp, and what is built on it."""
    yield from of_a_language_model(facts, name)
    is_read = facts.adapter.format in GGUF
    if not facts.is_lora:
        yield Loads.NO, "LH409", f"{name} loads LoRA only, this is {facts.adapter.method}"
    if facts.has_dora:
        yield Loads.NO, "LH402", f"{name} has no DoRA"
    if facts.has_saved or facts.has_rows:
        yield Loads.NO, "LH403", f"{name} has no whole modules or token rows in adapters"
    yield from of_its_vocabulary(facts, name)
    if facts.has_bias:
        yield Loads.NO, "LH404", f"{name} has no biases in adapters"
    if facts.edges and not is_read:
        yield Loads.NO, "LH406", f"its converter refuses {', '.join(facts.edges)}"
    if facts.changes_base:
        yield Loads.WRONG, "LH216", f"{name} adds the update to the unchanged base"
    if not is_read:
        yield of_another_format(facts, f"{name} reads GGUF", is_convertible=facts.is_lora and not facts.has_experts)
