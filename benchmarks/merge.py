"""lorahub merge beside PEFT, mergekit and cp, on generated Llamas of 0.5 GB and 3 GB (BF16, sharded, r=16, all linear).

    .venv/bin/python benchmarks/merge.py                      # lorahub, PEFT and cp
    .venv/bin/python benchmarks/merge.py --mergekit PATH      # … and mergekit of another environment, which pins others
    .venv/bin/python benchmarks/merge.py --device cuda        # … and lorahub on a GPU; --rank 256 gives it work
    .venv/bin/python benchmarks/merge.py --serve              # and a merged revision, downloaded with `hf`

Each tool is a process of its own, imports and all; the disk is synced before each run. Printed is the best of three
rounds, with the ratio to lorahub; peak memory is the largest of the three.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from lorahub.errors import InvalidUsage
from lorahub.merging.devices import open_device

BIN = Path(sys.executable).parent
SIZES = {"0.5 GB": (1024, 2816, 16, 32_000, 512, 1), "3 GB": (2048, 5632, 28, 64_000, 512, 6)}
ROUNDS = 3

PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), adapter)
model.merge_and_unload().save_pretrained(out, max_shard_size="500MB")
"""


@dataclass
class Run:
    """Seconds, and peak resident bytes, of one process and its children."""

    wall: float
    cpu: float
    memory: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mergekit", type=Path, help="the mergekit-yaml of an environment that has it")
    parser.add_argument("--device", help="merge on this one too: cuda, cuda:1, …")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    asked = parser.parse_args()
    if asked.device is not None:
        try:
            print(f"device: {open_device(asked.device)}")
        except InvalidUsage as error:
            sys.exit(f"{error.message}; nothing was measured, and without --device it all runs on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        for size in asked.sizes:
            base, adapter = generate(Path(folder), size, asked.rank)
            found = tools(base, adapter, Path(folder), asked.mergekit)
            if asked.device is not None:
                found["device"] = [*found["lorahub"], "--device", asked.device]
            compare(size, Path(folder), found)
            if asked.serve:
                serve(base, adapter, Path(folder))
            shutil.rmtree(base)


def tools(base: Path, adapter: Path, folder: Path, mergekit: Path | None) -> dict[str, Sequence[str | Path]]:
    out = folder / "out"
    found: dict[str, Sequence[str | Path]] = {
        "lorahub": [BIN / "lorahub", "merge", base, adapter, "-o", out],
        "cp": ["cp", "-r", base, out],
        "PEFT": [sys.executable, "-c", PEFT, base, adapter, out],
    }
    if mergekit is not None:
        recipe = folder / "mergekit.yaml"
        recipe.write_text(f"models:\n  - model: {base}+{adapter}\nmerge_method: passthrough\ndtype: bfloat16\n")
        cache = folder / "cache"
        found["mergekit"] = [mergekit, recipe, out, "--lora-merge-cache", cache, "--no-copy-tokenizer"]
    return found


def compare(size: str, folder: Path, commands: dict[str, Sequence[str | Path]]) -> None:
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            for leftover in ("out", "cache"):
                shutil.rmtree(folder / leftover, ignore_errors=True)
            os.sync()
            runs[name].append(measure(command))
    print(f"\n{size} of weights, best of {ROUNDS}; ratios to lorahub")
    print(f"{'':10} {'wall s':>8} {'':>6} {'CPU s':>8} {'':>6} {'RSS MB':>8} {'':>6}")
    ours = best(runs["lorahub"])
    for name, done in runs.items():
        run = best(done)
        print(
            f"{name:10} {run.wall:8.2f} {run.wall / ours.wall:5.1f}× {run.cpu:8.2f} {run.cpu / ours.cpu:5.1f}× "
            f"{run.memory / 1e6:8.0f} {run.memory / ours.memory:5.1f}×"
        )


def best(runs: Sequence[Run]) -> Run:
    return Run(min(run.wall for run in runs), min(run.cpu for run in runs), max(run.memory for run in runs))


WATCH = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[2:], stdout=2)
_, status, usage = os.wait4(process.pid, 0)
said = [time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, status]
open(sys.argv[1], "w").write(json.dumps(said))
"""
"""A small process between: a child begins with its parent's peak memory."""


def measure(command: Sequence[str | Path]) -> Run:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LORAHUB_PROGRESS": "none"}
    with tempfile.NamedTemporaryFile() as told:
        watched = [sys.executable, "-S", "-c", WATCH, told.name, *map(str, command)]
        done = subprocess.run(watched, capture_output=True, text=True, check=False, env=environment)
        wall, cpu, memory, status = json.loads(Path(told.name).read_text())
    assert status == 0, done.stderr[-2000:]
    return Run(wall, cpu, memory)


# --- a merged revision ------------------------------------------------------------------------------------------------


def serve(base: Path, adapter: Path, folder: Path) -> None:
    """`hf download` of a merged revision, beside the same files stored."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import lorahub
    from registry_process import Registry

    registry = Registry(folder / "registry").start()
    try:
        with lorahub.Hub(registry.url, token=registry.token) as hub:
            owner = hub.whoami().name
            hub.push(base, f"{owner}/base")
            hub.push(_naming(adapter, f"{owner}/base", folder / "named"), f"{owner}/sql")
        times = [
            [_fetch(registry.url, registry.token, *what, folder / "fetched") for what in places]
            for places in [((f"{owner}/base", "main"), (f"{owner}/sql", "merged/v1"))] * ROUNDS
        ]
        fast, slow = (min(column) for column in zip(*times, strict=True))
        print(f"hf download: stored {fast:.2f} s, merged while it is read {slow:.2f} s ({slow / fast:.1f}×)")
    finally:
        registry.stop()
        shutil.rmtree(registry.home, ignore_errors=True)


def _naming(adapter: Path, base: str, folder: Path) -> Path:
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    return folder


def _fetch(url: str, token: str, repository: str, revision: str, target: Path) -> float:
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    command = [BIN / "hf", "download", repository, "--revision", revision, "--local-dir", target]
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - begun


# --- generated models -------------------------------------------------------------------------------------------------


def generate(folder: Path, size: str, rank: int) -> tuple[Path, Path]:
    """A Llama of noise, in shards, and an adapter for all its linear layers."""
    hidden, inner, layers, vocabulary, keys, shards = SIZES[size]
    shapes = {"model.embed_tokens": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_proj": (hidden, hidden),
            f"{prefix}.self_attn.k_proj": (keys, hidden),
            f"{prefix}.self_attn.v_proj": (keys, hidden),
            f"{prefix}.self_attn.o_proj": (hidden, hidden),
            f"{prefix}.mlp.gate_proj": (inner, hidden),
            f"{prefix}.mlp.up_proj": (inner, hidden),
            f"{prefix}.mlp.down_proj": (hidden, inner),
            f"{prefix}.input_layernorm": (hidden,),
            f"{prefix}.post_attention_layernorm": (hidden,),
        }
    shapes |= {"model.norm": (hidden,), "lm_head": (vocabulary, hidden)}
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir()
    adapter.mkdir(exist_ok=True)
    _write_base(base, {f"{name}.weight": shape for name, shape in shapes.items()}, shards)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": keys // 64,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (base / "config.json").write_text(json.dumps(config))
    _write_adapter(adapter, {name: shape for name, shape in shapes.items() if name.endswith("_proj")}, rank)
    return base, adapter


def _write_base(folder: Path, shapes: dict[str, tuple[int, ...]], shards: int) -> None:
    chosen = np.random.default_rng(0)
    noise = ((chosen.standard_normal(1 << 24).astype("<f4") * 0.02).view("<u4") >> 16).astype("<u2").tobytes()
    names, groups = list(shapes), [list(part) for part in np.array_split(list(shapes), shards)]
    place = {}
    for number, group in enumerate(groups, 1):
        path = "model.safetensors" if shards == 1 else f"model-{number:05d}-of-{shards:05d}.safetensors"
        _write(
            folder / path, {name: ("BF16", shapes[name]) for name in sorted(group)}, lambda size: _repeat(noise, size)
        )
        place |= dict.fromkeys(group, path)
    if shards > 1:
        total = sum(2 * prod(shapes[name]) for name in names)
        index = {"metadata": {"total_size": total}, "weight_map": place}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_adapter(folder: Path, shapes: dict[str, tuple[int, ...]], rank: int) -> None:
    chosen = np.random.default_rng(1)
    factors = {}
    for name, (out, width) in shapes.items():
        factors[f"base_model.model.{name}.lora_A.weight"] = ("F32", (rank, width))
        factors[f"base_model.model.{name}.lora_B.weight"] = ("F32", (out, rank))
    _write(
        folder / "adapter_model.safetensors",
        factors,
        lambda size: (chosen.standard_normal(size // 4) * 0.01).astype("<f4").tobytes(),
    )
    targets = sorted({name.rpartition(".")[2] for name in shapes})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], make: Callable[[int], bytes]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = prod(shape) * (2 if dtype == "BF16" else 4)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for dtype, shape in tensors.values():
            file.write(make(prod(shape) * (2 if dtype == "BF16" else 4)))


def _repeat(noise: bytes, size: int) -> bytes:
    return (noise * (size // len(noise) + 1))[:size]


if __name__ == "__main__":
    main()
