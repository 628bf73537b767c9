"""Small inputs by name."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of float32 arrays, written by hand so that no test depends on the reader under test."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data, offset = b"", 0
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        data, offset = data + raw, offset + len(raw)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + data


def lora_weights(*, rank: int = 4, width: int = 16, layers: int = 2, seed: int = 0) -> bytes:
    """adapter_model.safetensors of a LoRA on q_proj of a small Llama."""
    random = np.random.default_rng(seed)
    prefix = "base_model.model.model.layers"
    tensors = {}
    for layer in range(layers):
        name = f"{prefix}.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = random.standard_normal((rank, width))
        tensors[f"{name}.lora_B.weight"] = random.standard_normal((width, rank))
    return safetensors_bytes(tensors, {"format": "pt"})


def lora_config(*, base: str = "acme/tiny-llama", rank: int = 4) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def write_adapter(folder: Path, *, seed: int = 0, rank: int = 4, base: str = "acme/tiny-llama") -> Path:
    """A small valid PEFT LoRA adapter; another seed gives other weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(base=base, rank=rank), indent=2))
    (folder / "adapter_model.safetensors").write_bytes(lora_weights(rank=rank, seed=seed))
    (folder / "README.md").write_text(f"---\nbase_model: {base}\nlicense: mit\ntags:\n- lora\n---\n# A small adapter\n")
    return folder


def weights_of_size(size: int, *, seed: int = 0) -> bytes:
    """A valid safetensors file of exactly `size` bytes, not compressible."""
    random = np.random.default_rng(seed)
    body = size - 8 - 128
    header = json.dumps({"w": {"dtype": "U8", "shape": [body], "data_offsets": [0, body]}}).encode()
    header += b" " * (128 - len(header))
    return struct.pack("<Q", len(header)) + header + random.bytes(body)
