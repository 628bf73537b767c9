"""A base in many files and an adapter for it, of noise, without torch."""

import json
from pathlib import Path

import numpy as np
from builders import lora_config, lora_weights, safetensors_bytes


def write_base(folder: Path, *, files: int, width: int = 16) -> Path:
    """One layer in each file."""
    random = np.random.default_rng(7)
    folder.mkdir(parents=True)
    places = {}
    for layer in range(files):
        name, path = (
            f"model.layers.{layer}.self_attn.q_proj.weight",
            f"model-{layer + 1:05d}-of-{files:05d}.safetensors",
        )
        (folder / path).write_bytes(safetensors_bytes({name: random.standard_normal((width, width), np.float32)}))
        places[name] = path
    total = files * width * width * 4
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return folder


def write_adapter_for(folder: Path, base: str, *, files: int, width: int = 16, rank: int = 4) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(base=base, rank=rank)))
    (folder / "adapter_model.safetensors").write_bytes(lora_weights(rank=rank, width=width, layers=files))
    return folder
