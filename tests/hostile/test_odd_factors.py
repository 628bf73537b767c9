"""Factors of every size and shape, where a method's formula expects others: merged, or refused in one sentence."""

import json
import random

import numpy as np
import pytest
from lorahub.adapters.base_model import read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import BytesFiles
from lorahub.adapters.reader import read_adapter
from lorahub.errors import LorahubError
from lorahub.merging.as_lora import as_lora
from lorahub.merging.low_rank import Limit
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from safetensors.numpy import save as safetensors_bytes

MODULE = "model.layers.0.self_attn.q_proj"
METHODS = {
    "VERA": {"vera_lambda_b": (16,), "vera_lambda_d": (4,), "vera_A": (4, 16), "vera_B": (16, 4)},
    "HRA": {"hra_u": (16, 4)},
    "OFT": {"oft_R": (2, 28)},
    "BOFT": {"boft_R": (2, 2, 8, 8), "boft_s": (16, 1)},
    "LOHA": {"hada_w1_a": (16, 2), "hada_w1_b": (2, 16), "hada_w2_a": (16, 2), "hada_w2_b": (2, 16)},
    "LOKR": {"lokr_w1": (4, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4)},
    "HIRA": {"hira_A": (2, 16), "hira_B": (16, 2)},
    "IA3": {"ia3_l": (16, 1)},
    "LORA": {"lora_A.weight": (2, 16), "lora_B.weight": (16, 2), "lora_magnitude_vector": (16,)},
    "ADALORA": {"lora_A": (2, 16), "lora_B": (16, 2), "lora_E": (2, 1)},
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
    "PVERA": {"pvera_lambda_b": (16,), "pvera_lambda_d": (8,), "pvera_A": (8, 16), "pvera_B": (16, 4)},
    "UNILORA": {
        "unilora_indices_A": (2, 16),
        "unilora_indices_B": (16, 2),
        "unilora_scales_A": (2, 16),
        "unilora_scales_B": (16, 2),
        "unilora_theta_d": (8,),
    },
    "SUPERTUNING": {
        "supertuning_values": (8,),
        "supertuning_indices": (8,),
        "supertuning_lora_A.weight": (2, 16),
        "supertuning_lora_B.weight": (16, 2),
    },
    "FOURIERFT": {"fourierft_spectrum": (8,)},
    "WAVEFT": {"waveft_spectrum": (8,)},
    "ROAD": {"road_theta": (8,), "road_alpha": (8,)},
    "DEFT": {"deft_P": (16, 2), "deft_R": (2, 16)},
    "OSF": {"osf_svd_params.U_low": (16, 8), "osf_svd_params.S_low": (8,), "osf_svd_params.V_low": (8, 16)},
    "PEANUT": {"peanut_A.weight": (2, 16), "peanut_B.weight": (16, 2)},
}
SHARED = ("pvera_A", "pvera_B", "unilora_theta_d", "vblora_vector_bank", "randlora_A", "randlora_B", "vera_A", "vera_B")
SETTINGS = {
    "fan_in_fan_out": (False, False, True),
    "apply_GS": (False, True),
    "use_dora": (True, False),
    "topk": (0, -1, 2, 100, "x", 1e300),
    "hybrid_r": (0, -4, 2),
    "init_weights": (True, "mini", "bat"),
    "randlora_alpha": (0, 640, None),
    "group_size": (4, 4, 0, 3, "x", 2**60),
    "variant": ("road_1", "road_2", "road_4", 3),
    "random_loc_seed": (0, -1, 2**60, None),
    "use_idwt": (True, False),
    "wavelet_family": ("db1", "sym2", 5),
    "decomposition_method": ("relu", "qr", "lu"),
    "act_fn": ("relu", "silu", "gelu_new", None),
    "scaling": (1.0, 0, "x"),
    "alpha": (None, 4),
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
    if luck.random() < 0.25:
        sizes[luck.randrange(len(sizes))] = luck.choice([0, 1, 2, 3, 4, 5, 8, 16, 17])
    if luck.random() < 0.1:
        sizes.append(luck.choice([1, 2]))
    return tuple(sizes[:-1] if luck.random() < 0.1 else sizes)


def odd(method: str, luck: random.Random) -> BytesFiles:
    tensors = {}
    for name, shape in METHODS[method].items():
        owner = "base_model" if name in SHARED else f"base_model.model.{MODULE}"
        if luck.random() > 0.1:
            dtype = np.int32 if "indices" in name else np.float32
            tensors[f"{owner}.{name}"] = np.ones(changed(shape, luck), dtype)
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


HALVES = {
    "LOHA": {"hada_w2_a": (3, 2)},
    "LOKR": {"lokr_w1": (4, 4, 2)},
    "ADALORA": {"lora_E": (3, 1)},
    "HIRA": {"hira_B": (16, 2, 2)},
}
"""Factors that another factor's shape hides: the update would have the weight's."""


@pytest.mark.parametrize("method", HALVES)
def test_a_factor_of_another_shape_is_no_fit(method: str) -> None:
    shapes = {**METHODS[method], **HALVES[method]}
    tensors = {f"base_model.model.{MODULE}.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    config = {"peft_type": method, "target_modules": ["q_proj"], "base_model_name_or_path": "base", "r": 2}
    files = BytesFiles(
        {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": safetensors_bytes(tensors)}
    )
    report = check(read_adapter(files), read_base(BASE))
    assert report.verdict == "incompatible"
    assert {found.rule for found in report.findings} & {"LH209", "LH220"}
