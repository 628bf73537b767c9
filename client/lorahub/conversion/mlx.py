"""MLX (mlx-lm): `lora_a` (in, rank) = downᵀ, `lora_b` (rank, out) = upᵀ, ΔW = scale · (lora_a · lora_b)ᵀ.

One rank and one scale serve all modules (mlx-lm `linear_to_lora_layers`), so ranks are filled up with zeros and scales
that differ go into `lora_b`. A module that `keys` names and the file has no factors for stays at lora_b = 0: no change.
"""

import re
from typing import Any

from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.patterns import layer_index
from lorahub.adapters.reader import CONFIG
from lorahub.conversion.arrays import Array, Raw, write_json, write_safetensors
from lorahub.conversion.lora import Layer, LoraAdapter, as_written, refuse_dtypes, refuse_layers
from lorahub.errors import NotConvertible

WEIGHTS = "adapters.safetensors"
_BLOCK = re.compile(r"^model\.layers\.\d+\.(.+)$")
_ALL_LAYERS = -1


def write_mlx(lora: LoraAdapter, base: BaseLayout | None) -> dict[str, bytes]:
    """adapter_config.json and adapters.safetensors."""
    refuse_layers(lora, "MLX", dora=True)
    refuse_dtypes(lora.layers, "MLX")
    keys = sorted({_key(layer) for layer in lora.layers})
    if lora.is_dora and not all(layer.magnitude is not None for layer in lora.layers):
        raise NotConvertible(
            "some modules are DoRA, some plain LoRA; MLX has one or the other", hint="train all of them alike"
        )
    layers = lora.equal_ranks()
    scales = {layer.scale for layer in layers}
    if len(scales) > 1:
        layers = tuple(layer.folded() for layer in layers)
    parameters = {
        "rank": layers[0].rank,
        "scale": as_written(scales.pop()) if len(scales) == 1 else 1,
        "dropout": lora.dropout,
        "keys": keys,
    }
    config: dict[str, Any] = {
        "fine_tune_type": "dora" if lora.is_dora else "lora",
        "num_layers": _count(layers, base),
        "lora_parameters": parameters,
        **({"model": lora.base_name} if lora.base_name else {}),
    }
    tensors: dict[str, Array | Raw] = {}
    for layer in layers:
        tensors[f"{layer.module}.lora_a"] = layer.down.transposed
        tensors[f"{layer.module}.lora_b"] = layer.up.transposed
        if layer.magnitude is not None:
            tensors[f"{layer.module}.m"] = layer.magnitude
    return {CONFIG: write_json(config), WEIGHTS: write_safetensors(tensors, {"format": "mlx"})}


def _key(layer: Layer) -> str:
    """The name inside a block: self_attn.q_proj."""
    match = _BLOCK.match(layer.module)
    if match is None:
        raise NotConvertible(
            f"{layer.module} is outside model.layers: mlx-lm names it otherwise, or ties it to the embedding",
            hint="adapt the layers of the model only",
        )
    return match[1]


def _count(layers: tuple[Layer, ...], base: BaseLayout | None) -> int:
    """mlx-lm adapts the last `num_layers` blocks; -1 is all of them."""
    total = base.text_config.get("num_hidden_layers") if base is not None else None
    lowest = min(layer_index(layer.module) or 0 for layer in layers)
    return total - lowest if isinstance(total, int) and total > lowest else _ALL_LAYERS
