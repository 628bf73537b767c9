"""llama.cpp: `<tensor>.lora_a` (rank, in) and `<tensor>.lora_b` (out, rank), and one alpha: the scale of a module at
run time is alpha / rank of that module. What llama.cpp's own converter gets wrong (rsLoRA, patterns) is right here.

Architectures with interleaved rotary embeddings have the rows of q and k in another order than transformers; llama.cpp
permutes the weights (`LlamaModel.permute`), so `lora_b` is permuted alike:
(heads, 2, d/2, …) -> (heads, d/2, 2, …).
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.gguf_file import write_gguf
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.names.by_rule import gguf_name
from lorahub.conversion.arrays import Array
from lorahub.conversion.lora import Layer, LoraAdapter, refuse_dtypes, refuse_layers
from lorahub.errors import NotConvertible

WEIGHTS = "adapter.gguf"
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "granite": "granite",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "gpt2": "gpt2",
}
"""`model_type` of transformers -> `general.architecture` (llama.cpp `convert_hf_to_gguf.py`)."""
_PERMUTED = frozenset({"llama", "granite"})
_HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
_EDGES = ("lm_head", "embed_tokens", "wte")
_OWNERS = {"layers": "model.", "h": "transformer."}
_PREFIXES = (
    "model.layers.",
    "layers.",
    "transformer.h.",
    "h.",
    "language_model.model.layers.",
    "model.language_model.layers.",
)


def write_gguf_adapter(lora: LoraAdapter, base: BaseLayout | None) -> dict[str, bytes]:
    """adapter.gguf."""
    architecture, config = _architecture(base), _config(base)
    refuse_layers(lora, "llama.cpp")
    refuse_dtypes(lora.layers, "llama.cpp")
    layers, alpha = _with_one_alpha(lora.layers)
    tensors: dict[str, Array] = {}
    for layer in layers:
        name = _name(layer.module)
        if f"{name}.weight.lora_a" in tensors:
            raise NotConvertible(f"two modules are {name} in llama.cpp", hint="adapt the language model only")
        tensors[f"{name}.weight.lora_a"] = layer.down
        tensors[f"{name}.weight.lora_b"] = _rows(layer, architecture, config, forwards=True)
    metadata: dict[str, Any] = {
        "general.type": "adapter",
        "general.architecture": architecture,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
        **({"general.base_model.count": 1, "general.base_model.0.name": lora.base_name} if lora.base_name else {}),
    }
    _refuse_absent(lora, base)
    if any(array.is_outline for array in tensors.values()):
        return {WEIGHTS: b""}
    file = io.BytesIO()
    write_gguf(file, metadata, [(name, array.values) for name, array in sorted(tensors.items())])
    return {WEIGHTS: file.getvalue()}


def _refuse_absent(lora: LoraAdapter, base: BaseLayout | None) -> None:
    """The names of GGUF are short, so that a module of another model would find a place in this one."""
    names = [layer.module for layer in lora.layers]
    resolved = {} if base is None else BaseNames(base).resolve(names, lora.naming).modules
    absent = [name for name in names if name not in resolved]
    if base is not None and absent:
        raise NotConvertible(f"{len(absent)} modules aren't in the base, first {absent[0]}", hint="name another base")


def from_gguf(lora: LoraAdapter, base: BaseLayout | None) -> LoraAdapter:
    """The layers under transformers' names, their rows in its order. Raises `NotConvertible`."""
    architecture, config = _architecture(base), _config(base)
    assert base is not None  # it has an architecture
    if lora.architecture != architecture:
        raise NotConvertible(
            f"the adapter is for {lora.architecture}, the base is {architecture}", hint="name the adapter's own base"
        )
    resolved = BaseNames(base).resolve([layer.module for layer in lora.layers], Naming.GGUF).modules
    absent = [layer.module for layer in lora.layers if layer.module not in resolved]
    if absent:
        raise NotConvertible(f"{len(absent)} tensors aren't in the base, first {absent[0]}", hint="name another base")
    named = [replace(layer, module=_in_memory(resolved[layer.module], base)) for layer in lora.layers]
    layers = tuple(replace(layer, up=_rows(layer, architecture, config, forwards=False)) for layer in named)
    return replace(lora, layers=layers, naming=Naming.DOTTED)


def _in_memory(module: str, base: BaseLayout) -> str:
    """As the model calls it: a checkpoint saved without its head, such as GPT-2's, has the names of the part alone."""
    has_head = (base.architecture or "").endswith(("ForCausalLM", "LMHeadModel"))
    return _OWNERS.get(module.partition(".")[0], "") + module if has_head else module


def _architecture(base: BaseLayout | None) -> str:
    if base is None:
        raise NotConvertible(
            "llama.cpp's names and the order of rows depend on the base", hint="name the base, with its config.json"
        )
    kind = base.text_config.get("model_type") or base.model_type
    found = ARCHITECTURES.get(str(kind))
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise NotConvertible(f"the base is of type {kind}, known for llama.cpp are {known}", hint="name another base")
    return found


def _config(base: BaseLayout | None) -> Mapping[str, Any]:
    return {} if base is None else base.text_config


def _name(module: str) -> str:
    if module.rpartition(".")[2] in _EDGES:
        raise NotConvertible(
            f"{module} is adapted: llama.cpp finds updates by tensor, and a tied head and embedding are one",
            hint="train without the embedding and the head, or merge the adapter into its base",
        )
    found = gguf_name(module) if module.startswith(_PREFIXES) else None
    if found is None:
        raise NotConvertible(f"{module} has no name in llama.cpp", hint="adapt linear layers of the language model")
    return found


def _with_one_alpha(layers: tuple[Layer, ...]) -> tuple[tuple[Layer, ...], float]:
    """One alpha, scale · rank, where all agree; else the largest rank, and what is left of the scales in lora_b."""
    alphas = {layer.alpha for layer in layers}
    if len(alphas) == 1:
        return layers, alphas.pop()
    alpha = max(layer.rank for layer in layers)
    return tuple(layer.folded(layer.rank / alpha) for layer in layers), alpha


def _rows(layer: Layer, architecture: str, config: Mapping[str, Any], *, forwards: bool) -> Array:
    """`up` (out, rank) in the order of llama.cpp, or back."""
    if architecture not in _PERMUTED or layer.leaf not in _HEADS:
        return layer.up
    heads = config.get(_HEADS[layer.leaf]) or config.get("num_attention_heads")
    out, rank = layer.up.shape
    if not isinstance(heads, int) or heads < 1 or out % (2 * heads):
        raise NotConvertible(
            f"{layer.module} has {out} rows, the base's config.json has {heads} heads: the rows can't be ordered",
            hint="name the base with its config.json",
        )
    if layer.up.is_outline:
        return layer.up
    half = out // heads // 2
    split = (heads, 2, half, rank) if forwards else (heads, half, 2, rank)
    return replace(layer.up, values=layer.up.values.reshape(split).swapaxes(1, 2).reshape(out, rank))
