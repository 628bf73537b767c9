"""Factors of every size and shape, where a method's formula expects others: merged, or refused in one sentence."""

import json
import random

import numpy as np
import pytest
from builders import safetensors_bytes
from lorahub.adapters.files import BytesFiles
from lorahub.errors import LorahubError
from lorahub.merging.as_lora import as_lora
from lorahub.merging.low_rank import Limit
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe

MODULE = "model.layers.0.self_attn.q_proj"
METHODS = {
    "DELORA": {"delora_A": (2, 16), "delora_B": (16, 2), "delora_lambda": (1,), "delora_w_norm": (16,)},
    "MISS": {"miss_block": (4, 16)},
    "GRALORA": {
        "gralora_A": (2, 8, 4),
        "gralora_B": (2, 4, 8),
        "gralora_A_general.weight": (2, 16),
        "gralora_B_general.weight": (16, 2),
    },
    "C3A": {"c3a_kernel": (4, 4, 4)},
    "VBLORA": {"vblora_logits_A": (2, 4, 8), "vblora_logits_B": (4, 2, 8), "vblora_vector_bank": (8, 4)},
    "RANDLORA": {
        "randlora_lambda": (2, 8),
        "randlora_gamma": (8, 16),
        "randlora_A": (2, 1, 16),
        "randlora_B": (16, 8, 2),
    },
    "VERA": {"vera_lambda_b": (16,), "vera_lambda_d": (4,), "vera_A": (4, 16), "vera_B": (16, 4)},
    "HRA": {"hra_u": (16, 4)},
    "BOFT": {"boft_R": (1, 2, 8, 8), "boft_s": (16, 1)},
}
SHARED = ("vblora_vector_bank", "randlora_A", "randlora_B", "vera_A", "vera_B")
SETTINGS = {
    "topk": (0, -1, 2, 100, "x", 1e300),
    "hybrid_r": (0, -4, 2),
    "init_weights": (True, "mini", "bat"),
    "fan_in_fan_out": (False, False, True),
    "randlora_alpha": (0, 640, None),
    "r": (0, 1, 2, 4),
}
BASE = BytesFiles(
    {
        "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode(),
        "model.safetensors": safetensors_bytes({f"{MODULE}.weight": np.eye(16, dtype=np.float32)}),
    }
)


def changed(shape: tuple[int, ...], luck: random.Random) -> tuple[int, ...]:
    sizes = list(shape)
    if luck.random() < 0.5:
        sizes[luck.randrange(len(sizes))] = luck.choice([0, 1, 2, 3, 4, 5, 8, 16, 17])
    if luck.random() < 0.1:
        sizes.append(luck.choice([1, 2]))
    return tuple(sizes[:-1] if luck.random() < 0.1 else sizes)


def odd(method: str, luck: random.Random) -> BytesFiles:
    tensors = {}
    for name, shape in METHODS[method].items():
        owner = "base_model" if name in SHARED else f"base_model.model.{MODULE}"
        if luck.random() > 0.1:
            tensors[f"{owner}.{name}"] = np.ones(changed(shape, luck), np.float32)
    settings = {key: luck.choice(values) for key, values in SETTINGS.items()}
    config = {"peft_type": method, "target_modules": ["q_proj"], "base_model_name_or_path": "base", **settings}
    return BytesFiles(
        {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": safetensors_bytes(tensors)}
    )


@pytest.mark.parametrize("method", METHODS)
def test_it_is_merged_or_refused(method: str) -> None:
    luck, merged = random.Random(method), 0
    for _ in range(300):
        files = odd(method, luck)
        try:
            plan = MergePlan(Recipe("base", (Ingredient("a"),)), Ingredients(BASE, [files], {}))
            for path in plan.weights:
                plan.read(path, 0, plan.files[path])
            as_lora(files, BASE, limit=Limit(2), base_name="base")
            merged += 1
        except LorahubError as refused:
            assert refused.message  # noqa: PT017 (any refusal will do, and no other error)
    assert merged
