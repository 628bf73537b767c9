"""What one block of a merged tensor takes, in a process of its own: `python measuring.py KIND MEMBERS ROWS×COLUMNS…`.

Prints [{"measured": bytes, "stated": bytes}, …]. KIND is a recipe's method, or one of `pissa` and
`dora`, adapters that are more than sums, or of `OTHERS`.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from builders import safetensors_bytes
from lorahub.adapters.files import BytesFiles
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import COMBINATIONS, recipe_of

WEIGHT = "model.layers.0.mlp.gate_proj"
RANK = 8
OPTIONS = {"density": 0.5, "rank": RANK, "seed": 1}


def base(rows: int, columns: int) -> BytesFiles:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32"}
    weight = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    return BytesFiles(
        {
            "config.json": json.dumps(config).encode(),
            "model.safetensors": safetensors_bytes({f"{WEIGHT}.weight": weight}),
        }
    )


OTHERS: dict[str, Callable[[int, int], dict[str, tuple[int, ...]]]] = {
    "fourierft": lambda *_: {"fourierft_spectrum": (3000,)},
    "fourierft-long": lambda *_: {"fourierft_spectrum": (100_000,)},
    "osf": lambda rows, columns: {
        "osf_svd_params.U_low": (rows, RANK),
        "osf_svd_params.S_low": (RANK,),
        "osf_svd_params.V_low": (RANK, columns),
    },
    "deft": lambda rows, columns: {"deft_P": (rows, RANK), "deft_R": (RANK, columns)},
    "peanut": lambda rows, _: {"peanut_A.weight": (RANK, rows), "peanut_B.weight": (rows, RANK)},
    "road": lambda rows, _: {"road_theta": (rows // 2,), "road_alpha": (rows // 2,)},
}
"""Methods that are no LoRA: what they have of a module."""


def adapter(kind: str, rows: int, columns: int, seed: int) -> BytesFiles:
    chosen = np.random.default_rng(seed)
    name = f"base_model.model.{WEIGHT}"
    if kind in OTHERS:
        others = {f"{name}.{end}": chosen.standard_normal(shape) for end, shape in OTHERS[kind](rows, columns).items()}
        settings = {"peft_type": kind.partition("-")[0].upper(), "target_modules": ["gate_proj"], "group_size": 64}
        return _files(settings, others)
    tensors = {
        f"{name}.lora_A.weight": chosen.standard_normal((RANK, columns), np.float32),
        f"{name}.lora_B.weight": chosen.standard_normal((rows, RANK), np.float32),
    }
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["gate_proj"]}
    if kind == "pissa":
        config["init_lora_weights"] = "pissa"
    if kind == "dora":
        config["use_dora"] = True
        tensors[f"{name}.lora_magnitude_vector"] = np.ones(rows, np.float32)
    return _files(config, tensors)


def _files(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> BytesFiles:
    return BytesFiles(
        {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": safetensors_bytes(tensors)}
    )


def plan_of(kind: str, rows: int, columns: int, members: int) -> MergePlan:
    method = kind if kind in COMBINATIONS else "sum"
    options = {one.name: OPTIONS[one.name] for one in COMBINATIONS[method].parameters}
    sources = [{"source": f"a{number}", "weight": 0.5 if members > 1 else 1} for number in range(members)]
    recipe = recipe_of({"base": "b", "adapters": sources, "method": method, **options})
    adapters = [adapter(kind, rows, columns, number) for number in range(members)]
    return MergePlan(recipe, Ingredients(base(rows, columns), adapters, {}))


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def measured(plan: MergePlan) -> int:
    """At the peak, beyond what the process had before; of the second block too, which finds the first one's scratch.

    In a thread of its own, whose scratch goes with it.
    """
    [extent] = [extent for file in plan.weights.values() for extent in file.extents]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    thread = Thread(target=lambda: [bytes(plan.compute(extent, 0)) for _ in range(2)])
    thread.start()
    thread.join()
    return status("VmHWM") - before


if __name__ == "__main__":
    _, kind, members, *shapes = sys.argv
    np.ones((64, 64)) @ np.ones((64, 64))  # BLAS takes its buffers
    found = []
    for shape in shapes:
        rows, columns = map(int, shape.split("×"))
        made = plan_of(kind, rows, columns, int(members))
        found.append({"measured": measured(made), "stated": made.cost.memory})
        del made
    print(json.dumps(found))
