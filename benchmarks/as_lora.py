"""Adapters of other methods made LoRA: time beside PEFT's own, and memory for the shape of a model of 8 billion.

    .venv/bin/python benchmarks/as_lora.py            # one layer of an 8B, beside PEFT with that layer in memory
    .venv/bin/python benchmarks/as_lora.py --only 8b  # the whole base, its weights generated where they are read

The 8B base is Llama 3.1's shape: 32 layers, 16 GB of BF16 that lie nowhere. Prints the table of docs/benchmarks.md.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lorahub.adapters.files import BytesFiles
from lorahub.merging.as_lora import as_lora
from lorahub.merging.low_rank import Limit

WIDTH, INNER, KEYS, VOCABULARY = 4096, 14336, 1024, 128_256
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (KEYS, WIDTH),
    "self_attn.v_proj": (KEYS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
TARGETS = ("q_proj", "gate_proj", "down_proj")
"""A square one, a tall one, a wide one."""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
}
RANK = 16


class GeneratedBase:
    """A checkpoint whose weights are made where they are read: random BF16, a prime number of them again and again."""

    def __init__(self, layers: int) -> None:
        self.shapes = {
            f"model.layers.{n}.{name}.weight": shape for n in range(layers) for name, shape in SHAPES.items()
        }
        header, offset = {}, 0
        for name, shape in {**self.shapes, "lm_head.weight": (VOCABULARY, WIDTH)}.items():
            size = 2 * shape[0] * shape[1]
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        self._head = len(text).to_bytes(8, "little") + text
        self._config = json.dumps({**CONFIG, "num_hidden_layers": layers}).encode()
        numbers = (np.random.default_rng(0).standard_normal(1_048_573) * 0.02).astype(np.float32)
        self._pattern = (numbers.view(np.uint32) >> 16).astype("<u2")
        self.sizes: Mapping[str, int] = {
            "config.json": len(self._config),
            "model.safetensors": len(self._head) + offset,
        }

    def read(self, path: str, start: int, stop: int) -> bytes:
        if path == "config.json":
            return self._config[start:stop]
        head = self._head[start:stop]
        first, last = max(start - len(self._head), 0), min(stop, self.sizes[path]) - len(self._head)
        if first >= last:
            return head
        places = np.arange(first // 2, -(-last // 2)) % len(self._pattern)
        return head + self._pattern[places].tobytes()[first % 2 : first % 2 + last - first]

    def sha256(self, path: str) -> str | None:  # noqa: ARG002 (nobody has read it)
        return None


def loha(layers: int) -> BytesFiles:
    return _adapter({"peft_type": "LOHA", "r": 8, "alpha": 8}, _hadamard, layers)


def dora(layers: int) -> BytesFiles:
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "use_dora": True}
    return _adapter(settings, _with_magnitude, layers)


def _hadamard(shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    out, width = shape
    return {"hada_w1_a": (out, 8), "hada_w1_b": (8, width), "hada_w2_a": (out, 8), "hada_w2_b": (8, width)}


def _with_magnitude(shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    out, width = shape
    return {"lora_A.weight": (RANK, width), "lora_B.weight": (out, RANK), "lora_magnitude_vector": (out,)}


def _adapter(
    settings: Mapping[str, Any], factors: Callable[[tuple[int, int]], dict[str, tuple[int, ...]]], layers: int
) -> BytesFiles:
    from safetensors.numpy import save

    luck, tensors = np.random.default_rng(1), {}
    for number in range(layers):
        for name, shape in SHAPES.items():
            for end, size in factors(shape).items() if name.endswith(TARGETS) else ():
                made = luck.standard_normal(size).astype(np.float32) * np.float32(0.05)
                key = f"base_model.model.model.layers.{number}.{name}.{end}"
                tensors[key] = np.abs(made) + 1 if end == "lora_magnitude_vector" else made
    config = {"base_model_name_or_path": "base", "target_modules": list(TARGETS), **settings}
    return BytesFiles({"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)})


METHODS = {"LoHa r=8, best of rank 16": loha, "DoRA r=16, best of rank 16": dora}


def ours(method: str, base_layers: int, layers: int) -> tuple[float, float, float]:
    """Processor seconds, peak memory in MiB, the share that is lost."""
    files = METHODS[method](layers)
    start = time.process_time()
    made = as_lora(files, GeneratedBase(base_layers), limit=Limit(RANK), base_name="base")
    return time.process_time() - start, _peak(), made.error


def pefts(method: str, layers: int) -> tuple[float, float, float]:
    """The same by `peft.convert_to_lora`, the layers of the model in memory; its loss isn't told."""
    import peft
    import torch
    import transformers

    base, files = GeneratedBase(layers), METHODS[method](layers)
    with tempfile.TemporaryDirectory() as folder:
        for path in files.sizes:
            (Path(folder) / path).write_bytes(files.read(path, 0, files.sizes[path]))
        config = transformers.LlamaConfig(**{**CONFIG, "num_hidden_layers": layers, "vocab_size": 64})
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        state = model.state_dict()
        for name, tensor in state.items():
            if name in base.shapes:
                tensor.copy_(_weight(base, name))
        adapted = peft.PeftModel.from_pretrained(model, folder)
    start = time.process_time()
    peft.convert_to_lora(adapted, rank=RANK)
    return time.process_time() - start, _peak(), float("nan")


def _weight(base: GeneratedBase, name: str) -> Any:
    import torch

    size = base.sizes["model.safetensors"]
    length = int.from_bytes(base.read("model.safetensors", 0, 8), "little")
    header = json.loads(base.read("model.safetensors", 8, 8 + length))
    first, last = (8 + length + offset for offset in header[name]["data_offsets"])
    raw = np.frombuffer(base.read("model.safetensors", first, min(last, size)), np.uint8).copy()
    return torch.from_numpy(raw).view(torch.bfloat16).reshape(header[name]["shape"])


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(work: Callable[..., Any], *arguments: object) -> Any:
    """In a process of its own, so that its peak is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("peft", "8b"))
    parser.add_argument("--layers", type=int, default=1, help="of the 32, how many the adapter changes")
    asked = parser.parse_args()
    print("| what | ours, CPU | memory | PEFT's, CPU | memory | ratio |\n| --- | --- | --- | --- | --- | --- |")
    for method in METHODS:
        if asked.only != "8b":
            mine, theirs = alone(ours, method, 1, 1), alone(pefts, method, 1)
            row = f"{mine[0]:.0f} s | {mine[1]:.0f} MiB | {theirs[0]:.0f} s | {theirs[1]:.0f} MiB"
            print(f"| {method}; one layer of an 8B | {row} | {mine[0] / theirs[0]:.2f} |", flush=True)
        if asked.only != "peft":
            seconds, peak, error = alone(ours, method, 32, asked.layers)
            what = f"{method}; {asked.layers} of the 8B's 32 layers, {100 * error:.1f} % lost"
            print(f"| {what} | {seconds:.0f} s | {peak:.0f} MiB | – | needs the model's 16 GB | – |", flush=True)


if __name__ == "__main__":
    main()
