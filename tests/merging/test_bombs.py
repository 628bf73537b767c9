"""Adapters that would take a merge's memory or time: refused from their headers, before anything of them is read."""

import json
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import safetensors_bytes
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.errors import AdapterDoesNotFit, LorahubError, MergeTooLarge
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import recipe_of
from pace import pace

MOST_SECONDS = 0.1
"""Of a processor."""
MOST_BYTES = 50 << 20
WIDTH, TARGET = 32, "model.layers.0.self_attn.q_proj"
NAME = f"base_model.model.{TARGET}"
A, B = f"{NAME}.lora_A.weight", f"{NAME}.lora_B.weight"
CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}


@dataclass(frozen=True)
class Bomb:
    """`shapes` are those that the header announces; the file behind it is sparse."""

    shapes: dict[str, list[int]]
    config: dict[str, Any] = field(default_factory=dict)
    copies: int = 1
    refused_as: type[LorahubError] = AdapterDoesNotFit
    says: str = ""


def factors(a: list[int], b: list[int]) -> dict[str, list[int]]:
    return {A: a, B: b}


FITTING = factors([8, WIDTH], [WIDTH, 8])
BOMBS = {
    "a rank of a million": Bomb(factors([1_000_000, WIDTH], [WIDTH, 1_000_000])),
    "a rank beyond a block": Bomb(factors([20_000, WIDTH], [WIDTH, 20_000]), {"r": 20_000}, refused_as=MergeTooLarge),
    "a wide input": Bomb(factors([64, 40_000], [40_000, 64]), {"r": 64}),
    "an output alone": Bomb(factors([8, WIDTH], [4_000_000, 8])),
    "the largest dimensions": Bomb(factors([1, 1 << 40], [1 << 40, 1])),
    "no rank": Bomb(factors([0, WIDTH], [WIDTH, 0])),
    "no input": Bomb(factors([8, 0], [WIDTH, 8])),
    "a rank of zero": Bomb(FITTING, {"r": 0}),
    "a rank below zero": Bomb(FITTING, {"r": -8}),
    "a rank that is no number": Bomb(FITTING, {"r": float("nan")}),
    "an infinite alpha": Bomb(FITTING, {"lora_alpha": float("inf")}),
    "an alpha that is no number": Bomb(FITTING, {"lora_alpha": float("nan")}),
    "an alpha beyond a double": Bomb(FITTING, {"lora_alpha": 10**400}),
    "a text for an alpha": Bomb(FITTING, {"lora_alpha": "8"}),
    "A alone": Bomb({A: [8, WIDTH]}),
    "B alone": Bomb({B: [WIDTH, 8]}),
    "other ranks": Bomb(factors([8, WIDTH], [WIDTH, 4])),
    "turned around": Bomb(factors([WIDTH, 8], [8, WIDTH])),
    "one dimension": Bomb(factors([8 * WIDTH], [WIDTH * 8])),
    "five dimensions": Bomb(factors([8, WIDTH, 1, 1, 1], [WIDTH, 8, 1, 1, 1])),
    "a kernel": Bomb(factors([8, WIDTH, 10_000, 1], [WIDTH, 8, 1, 1])),
    "a magnitude of a million": Bomb(
        {**FITTING, f"{NAME}.lora_magnitude_vector": [1_000_000]}, {"use_dora": True}, says="1 vector of another length"
    ),
    "a module that isn't there": Bomb({name.replace("layers.0", "layers.9"): one for name, one in FITTING.items()}),
    "an expert of a billion": Bomb(
        {name.replace("q_proj", f"experts.{10**9}.q_proj"): shape for name, shape in FITTING.items()}
    ),
    "layers a billion times": Bomb(FITTING, {"layer_replication": [[0, 1_000_000_000]]}),
    "layers that aren't there": Bomb(FITTING, {"layer_replication": [[0, 9_999]]}, says="the base has 1"),
    "layers of no number": Bomb(FITTING, {"layer_replication": [[0, "all"]]}, says="a list of"),
    "a Kronecker product": Bomb(
        {f"{NAME}.lokr_w1": [100_000, 100_000], f"{NAME}.lokr_w2": [1_000, 1_000]}, {"peft_type": "LOKR"}
    ),
    "a Hadamard product": Bomb(
        {f"{NAME}.hada_w{n}_{half}": [30_000, 8] if half == "a" else [8, 30_000] for n in (1, 2) for half in "ab"},
        {"peft_type": "LOHA"},
    ),
    "blocks of a rotation": Bomb({f"{NAME}.oft_R.weight": [1_000_000, 4_000_000]}, {"peft_type": "OFT"}),
    "32 of a large rank": Bomb(
        factors([4_096, WIDTH], [WIDTH, 4_096]), {"r": 4_096}, copies=32, refused_as=MergeTooLarge
    ),
}  # fmt: skip


def base() -> BytesFiles:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    weights = safetensors_bytes({f"{TARGET}.weight": np.ones((WIDTH, WIDTH), np.float32)})
    return BytesFiles({"config.json": json.dumps(config).encode(), "model.safetensors": weights})


def laid(bomb: Bomb, folder: Path) -> Path:
    folder.mkdir()
    header, end = {}, 0
    for name, shape in bomb.shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **bomb.config}))
    return folder


def plan(*adapters: FolderFiles | BytesFiles) -> MergePlan:
    sources = [{"source": f"a{number}", "weight": 1 / len(adapters)} for number in range(len(adapters))]
    return MergePlan(recipe_of({"base": "b", "adapters": sources}), Ingredients(base(), list(adapters), {}))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_takes_anything(name: str, tmp_path: Path) -> None:
    bomb = BOMBS[name]
    files = FolderFiles(laid(bomb, tmp_path / "bomb"))
    tracemalloc.start()
    try:
        begun = time.process_time()
        with pytest.raises(LorahubError) as refused:
            plan(*[files] * bomb.copies)
        took, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(refused.value, bomb.refused_as)
    assert bomb.says in str(refused.value)
    assert took / pace() < MOST_SECONDS
    assert peak < MOST_BYTES
