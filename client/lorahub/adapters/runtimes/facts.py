"""What runtimes ask of an adapter, and the reasons that several of them share."""

from collections.abc import Iterable, Iterator
from copy import copy
from enum import StrEnum

from lorahub.adapters.adapter import Adapter, PartKind
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.findings import Finding
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

_OF_IMAGES = ("Pipeline", "Transformer2DModel", "UNet2DConditionModel")
_EDGES = frozenset("lm_head embed_tokens wte embed_out embed_in".split())


class RuntimeFacts:
    """What runtimes ask about."""

    def __init__(
        self,
        adapter: Adapter,
        base: BaseLayout | None,
        findings: Iterable[Finding] = (),
        quantisation: str | None = None,
    ) -> None:
        """`findings` are those of the check against the base, `quantisation` that of the base, where it is another."""
        rules = {found.rule for found in (*adapter.findings, *findings)}
        self.adapter = adapter
        self.format = adapter.format
        self.base = base
        self.quantisation = quantisation or (base.quantisation if base is not None else None)
        self.kinds = {part.kind for part in adapter.parts} - {PartKind.BASE_COPY}
        self.is_lora = adapter.method == "lora" and not self.kinds & {
            PartKind.PROMPT,
            PartKind.PREFIX,
            PartKind.BOTTLENECK,
        }
        self.has_dora = adapter.is_dora
        self.is_block_diagonal = adapter.is_block_diagonal
        self.has_up_bias = any("up_bias" in update.tensors for update in adapter.updates)
        self.has_bias = bool(self.kinds & {PartKind.BIAS, PartKind.BIAS_DELTA})
        self.asks_for_biases = self.has_bias or adapter.asks_for_biases
        self.saved = sorted({part.leaf for part in adapter.parts if part.kind is PartKind.REPLACEMENT})
        self.has_rows = PartKind.TOKEN_ROWS in self.kinds
        self.rank = max(adapter.ranks, default=0)
        self.scales = {round(update.scale, 9) for update in adapter.updates}
        self.new_rows = _new_rows(adapter, base)
        self.edges = sorted({update.leaf for update in adapter.updates} & _EDGES)
        self.is_image = is_of_images(adapter, base)
        self.is_replicated = bool(adapter.replication)
        self.changes_base = adapter.base_change is not None
        self.is_renamed = "LH221" in rules
        self.has_experts = any(len(update.shape) == 3 for update in adapter.updates)
        self.has_router = any(update.leaf in ("gate", "router") for update in adapter.updates)
        self.is_root = adapter.scaling is not None and adapter.scaling.is_root
        self.has_ranks = len(adapter.ranks) > 1
        self.is_normal = self.is_converted = False
        self.of_experts = base is not None and "num_experts_per_tok" in base.text_config

    @property
    def model_type(self) -> str | None:
        """What transformers calls the language model's architecture: qwen2."""
        found = self.base.text_config.get("model_type") if self.base is not None else None
        return found if isinstance(found, str) else None

    @property
    def obstacle(self) -> str | None:
        """The setting that changes what is computed. PEFT goes by QALoRA's on quantised layers only."""
        found = self.adapter.obstacle
        is_plain = found == "use_qalora" and self.base is not None and self.quantisation is None
        return None if is_plain else found

    @property
    def has_lonely_biases(self) -> bool:
        """Whether one of q, k and v has a bias and no update, while another one has one."""
        stacked = {"q_proj", "k_proj", "v_proj"}
        updated = {update.leaf for update in self.adapter.updates} & stacked
        biased = {part.leaf for part in self.adapter.parts if part.kind is PartKind.BIAS} & stacked
        return bool(updated) and bool(biased - updated)

    def converted(self, form: str) -> "RuntimeFacts":
        """The same adapter's in another form: one rank and one scale, where the form is the normal one."""
        made = copy(self)
        made.is_converted = True
        made.format = "peft" if form == "peft-normalized" else form
        if form == "peft-normalized":
            made.is_normal, made.is_root, made.has_ranks = True, False, False
            made.asks_for_biases = self.has_bias
        return made

    @property
    def is_uneven(self) -> bool:
        """Whether a runtime that computes lora_alpha / r once gets a module wrong."""
        scaling = self.adapter.scaling
        if scaling is None or self.is_normal or not scaling.has_patterns:
            return False
        return len(self.scales | {round(scaling.plain, 9)}) > 1

    @property
    def layers_by_leaf(self) -> dict[str, set[int]]:
        """Layer type → the layers that have tensors of it."""
        layers: dict[str, set[int]] = {}
        for update in self.adapter.updates:
            index = layer_index(update.module)
            if index is not None:
                layers.setdefault(update.leaf, set()).add(index)
        return layers

    @property
    def uncovered_types(self) -> list[str]:
        """Layer types with tensors in some layers only."""
        layers = self.layers_by_leaf
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
    if base is not None and (base.architecture or "").endswith(_OF_IMAGES):
        return True
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


def of_another_format(facts: RuntimeFacts, why: str) -> Reason:
    """Whether it can be converted is the converter's to say."""
    return Loads.NO, "LH405", f"{why}; this is {facts.format}"


def of_a_language_model(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    """Why not, where the adapter is for something else."""
    if facts.is_image:
        yield Loads.NO, "LH406", f"{name} runs language models"
    elif facts.base is not None and facts.base.architecture and not facts.base.is_language_model:
        yield Loads.NO, "LH406", f"{name} has no adapters for {facts.base.architecture[:60]}"


def of_an_image_model(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    if not facts.is_image:
        yield Loads.NO, "LH406", f"{name} runs image models"


def of_lora(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    if not facts.is_lora:
        yield Loads.NO, "LH409", f"{name} loads LoRA only, this is {facts.adapter.method}"


def of_its_vocabulary(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    if facts.new_rows is not None:
        yield Loads.NO, "LH224", f"{name} keeps the base's vocabulary, the adapter has {facts.new_rows} tokens"


def where(loads: Loads, *rows: tuple[bool, str, str]) -> Iterator[Reason]:
    """The reasons of those rows, (whether it is so, rule, sentence), that are so."""
    for is_so, rule, sentence in rows:
        if is_so:
            yield loads, rule, sentence
