"""Who can load an adapter, and what they need for it: one verdict for each runtime, from the same facts.

What each runtime takes and gets wrong is in docs/runtimes.md, with the sources.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lorahub.adapters.adapter import Adapter, PartKind
from lorahub.adapters.base_model import BaseModel
from lorahub.adapters.patterns import layer_index


class Loads(StrEnum):
    YES = "yes"
    WITH = "with"  # with the option or after the conversion that `needs` names
    WRONG = "wrong"  # loads without a word, and computes something else
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RuntimeVerdict:
    """`reasons` are (rule, sentence); `needs` is an option or a command."""

    runtime: str
    loads: Loads
    reasons: tuple[tuple[str, str], ...] = ()
    needs: str | None = None

    @property
    def is_usable(self) -> bool:
        return self.loads in (Loads.YES, Loads.WITH)

    def as_json(self) -> dict[str, Any]:
        return {
            "runtime": self.runtime,
            "loads": self.loads.value,
            "reasons": [{"rule": rule, "message": message} for rule, message in self.reasons],
            "needs": self.needs,
        }


RUNTIMES = ("peft", "vllm", "sglang", "lorax", "llama.cpp", "ollama", "diffusers", "comfyui", "mlx")

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes (vLLM 0.11 `LoRAConfig`)."""

_DEFAULT_RANK = 16
_LLM = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSequenceClassification")
_EDGES = frozenset("lm_head embed_tokens wte embed_out embed_in".split())

Reason = tuple[Loads, str, str]


def judge_runtimes(adapter: Adapter, base: BaseModel | None) -> Iterator[RuntimeVerdict]:
    """All of `RUNTIMES`. An adapter that can't be read gets none."""
    if not adapter.has_format:
        return
    facts = _Facts(adapter, base)
    for runtime in RUNTIMES:
        yield _judge(runtime, list(_REASONS[runtime](facts)), facts)


def _judge(runtime: str, reasons: list[Reason], facts: "_Facts") -> RuntimeVerdict:
    order = [Loads.NO, Loads.WRONG, Loads.UNKNOWN, Loads.WITH, Loads.YES]
    worst = min((loads for loads, _, _ in reasons), key=order.index, default=Loads.YES)
    needs = _needs(runtime, reasons, facts) if worst in (Loads.WITH, Loads.WRONG) else None
    return RuntimeVerdict(runtime, worst, tuple((rule, message) for _, rule, message in reasons), needs)


def _needs(runtime: str, reasons: Iterable[Reason], facts: "_Facts") -> str | None:
    rules = {rule for _, rule, _ in reasons}
    if "LH405" in rules:
        return f"lorahub pull --for {runtime}"
    if rules & {"LH407", "LH408"}:
        return "lorahub convert --to peft-normalized"
    if "LH401" in rules:
        return f"--max-lora-rank {facts.reserved_rank}"
    return None


class _Facts:
    """What runtimes ask about."""

    def __init__(self, adapter: Adapter, base: BaseModel | None) -> None:
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
        self.edges = sorted({update.leaf for update in adapter.updates} & _EDGES)
        self.is_image = _is_image(adapter, base)
        self.architecture = base.architecture if base is not None else None
        self.is_replicated = bool(adapter.replication)
        self.changes_base = any(found.rule == "LH216" for found in adapter.findings)
        self.has_convolutions = any(len(update.shape) > 3 for update in adapter.updates)
        self.has_experts = any(len(update.shape) == 3 for update in adapter.updates)
        self.is_root = adapter.scaling is not None and adapter.scaling.is_root

    @property
    def reserved_rank(self) -> int:
        return next((rank for rank in VLLM_RANKS if rank >= self.rank), self.rank)

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


def _is_image(adapter: Adapter, base: BaseModel | None) -> bool:
    if adapter.format in ("kohya", "diffusers"):
        return True
    names = list(base.tensors) if base is not None else []
    return any(
        name.startswith(
            ("unet.", "transformer_blocks.", "single_transformer_blocks.", "down_blocks.", "model.diffusion_model.")
        )
        for name in names
    )


# --- one runtime each -------------------------------------------------------------------------------------------------


def _peft(facts: _Facts) -> Iterator[Reason]:
    if facts.adapter.format != "peft":
        yield _format(
            facts,
            "PEFT reads adapter_config.json and adapter_model.safetensors",
            facts.adapter.format in ("kohya", "diffusers", "mlx", "gguf", "loralib", "torchtune") and facts.is_lora,
        )
    if not facts.adapter.is_known:
        yield Loads.UNKNOWN, "LH306", "the method isn't known here"


def _served(facts: _Facts, name: str) -> Iterator[Reason]:
    """What vLLM and SGLang have in common: PEFT's LoRA on language models, and nothing beside it."""
    yield from _language_model(facts, name)
    if facts.adapter.format != "peft":
        yield _format(facts, f"{name} reads PEFT's files", facts.is_lora and not facts.is_image)
    if not facts.is_lora:
        yield Loads.NO, "LH409", f"{name} loads LoRA only, this is {facts.adapter.method}"
    if facts.has_dora:
        yield Loads.NO, "LH402", f"{name} refuses DoRA"
    if facts.has_saved:
        yield Loads.NO, "LH403", f"{name} refuses whole modules (modules_to_save)"
    if facts.has_bias:
        yield Loads.NO, "LH404", f"{name} refuses biases"
    if facts.has_rows:
        yield Loads.NO, "LH410", f"{name} has no trained token rows"
    if facts.is_replicated:
        yield Loads.NO, "LH219", f"{name} doesn't replicate layers"
    if facts.changes_base:
        yield Loads.WRONG, "LH216", f"{name} adds the update to the unchanged base"
    if facts.is_uneven:
        yield Loads.WRONG, "LH407", f"{name} computes one scale from r and lora_alpha"


def _vllm(facts: _Facts) -> Iterator[Reason]:
    yield from _served(facts, "vLLM")
    if facts.rank > VLLM_RANKS[-1]:
        yield Loads.NO, "LH401", f"rank {facts.rank}; vLLM takes at most {VLLM_RANKS[-1]}"
    elif facts.rank > _DEFAULT_RANK and facts.is_lora:
        yield Loads.WITH, "LH401", f"rank {facts.rank} needs --max-lora-rank {facts.reserved_rank}"
    if facts.has_experts and facts.is_root:
        yield Loads.WRONG, "LH408", "vLLM ignores rsLoRA in experts"


def _sglang(facts: _Facts) -> Iterator[Reason]:
    yield from _served(facts, "SGLang")
    if facts.rank > _DEFAULT_RANK and facts.is_lora:
        yield Loads.WITH, "LH401", f"rank {facts.rank} needs --max-lora-rank {facts.rank}, if others are loaded first"
    if facts.is_root:
        yield Loads.WRONG, "LH408", "SGLang divides alpha by the rank"


def _lorax(facts: _Facts) -> Iterator[Reason]:
    yield from _language_model(facts, "LoRAX")
    if facts.adapter.format != "peft":
        yield _format(facts, "LoRAX reads PEFT's files", facts.is_lora and not facts.is_image)
    if not facts.is_lora:
        yield Loads.NO, "LH409", f"LoRAX loads LoRA only, this is {facts.adapter.method}"
    ignored = (
        (facts.has_dora, "LH402", "the magnitudes"),
        (facts.has_saved, "LH403", "whole modules"),
        (facts.has_bias, "LH404", "biases"),
        (facts.has_rows, "LH410", "token rows"),
    )
    for is_there, rule, what in ignored:
        if is_there:
            yield Loads.WRONG, rule, f"LoRAX ignores {what}"
    if facts.is_uneven:
        yield Loads.WRONG, "LH407", "LoRAX computes one scale from r and lora_alpha"
    if facts.changes_base:
        yield Loads.WRONG, "LH216", "LoRAX adds the update to the unchanged base"
    if facts.uncovered_types:
        yield Loads.WRONG, "LH411", f"LoRAX drops {', '.join(facts.uncovered_types[:5])}: some layers have no tensors"


def _llama_cpp(facts: _Facts, name: str = "llama.cpp") -> Iterator[Reason]:
    yield from _language_model(facts, name)
    if not facts.is_lora:
        yield Loads.NO, "LH409", f"{name} loads LoRA only, this is {facts.adapter.method}"
    if facts.has_dora:
        yield Loads.NO, "LH402", f"{name} has no DoRA"
    if facts.has_saved or facts.has_rows:
        yield Loads.NO, "LH403", f"{name} has no whole modules or token rows in adapters"
    if facts.has_bias:
        yield Loads.NO, "LH404", f"{name} has no biases in adapters"
    if facts.edges and facts.adapter.format != "gguf":
        yield Loads.NO, "LH406", f"its converter refuses {', '.join(facts.edges)}"
    if facts.changes_base:
        yield Loads.WRONG, "LH216", f"{name} adds the update to the unchanged base"
    if facts.adapter.format != "gguf":
        yield _format(facts, f"{name} reads GGUF", facts.is_lora and not facts.has_experts)


def _ollama(facts: _Facts) -> Iterator[Reason]:
    yield from _llama_cpp(facts, "Ollama")


def _diffusers(facts: _Facts) -> Iterator[Reason]:
    yield from _image_model(facts, "diffusers")
    if facts.adapter.format == "kohya" and facts.adapter.method != "lora":
        yield Loads.NO, "LH409", f"diffusers loads LoRA from such files, this is {facts.adapter.method}"
    if facts.adapter.format not in ("diffusers", "kohya"):
        yield _format(facts, "diffusers reads its own files and kohya's", facts.is_lora)


def _comfyui(facts: _Facts) -> Iterator[Reason]:
    yield from _image_model(facts, "ComfyUI")
    if facts.adapter.format not in ("diffusers", "kohya"):
        yield _format(facts, "ComfyUI reads kohya's files and diffusers'", facts.is_lora)


def _mlx(facts: _Facts) -> Iterator[Reason]:
    yield from _language_model(facts, "MLX")
    if not facts.is_lora and facts.adapter.method != "full":
        yield Loads.NO, "LH409", f"MLX loads LoRA and DoRA, this is {facts.adapter.method}"
    if facts.has_saved or facts.has_rows:
        yield Loads.NO, "LH403", "MLX has no whole modules beside LoRA"
    if facts.has_bias:
        yield Loads.NO, "LH404", "MLX has no biases in adapters"
    if facts.adapter.format != "mlx":
        yield _format(
            facts,
            "MLX reads adapters.safetensors with factors the other way round",
            facts.is_lora and len(facts.adapter.ranks) == 1,
        )


_REASONS = {
    "peft": _peft,
    "vllm": _vllm,
    "sglang": _sglang,
    "lorax": _lorax,
    "llama.cpp": _llama_cpp,
    "ollama": _ollama,
    "diffusers": _diffusers,
    "comfyui": _comfyui,
    "mlx": _mlx,
}


def _format(facts: _Facts, why: str, is_convertible: bool) -> Reason:  # noqa: FBT001 (read at each call)
    loads = Loads.WITH if is_convertible else Loads.NO
    return loads, "LH405", f"{why}; this is {facts.adapter.format}"


def _language_model(facts: _Facts, name: str) -> Iterator[Reason]:
    if facts.is_image:
        yield Loads.NO, "LH406", f"{name} runs language models"
    elif facts.architecture is not None and not facts.architecture.endswith(_LLM):
        yield Loads.NO, "LH406", f"{name} has no adapters for {facts.architecture[:60]}"


def _image_model(facts: _Facts, name: str) -> Iterator[Reason]:
    if not facts.is_image:
        yield Loads.NO, "LH406", f"{name} runs image models"
