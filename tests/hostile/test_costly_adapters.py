"""Configurations made to be slow: every one within the bounds of its file, all read and checked in seconds."""

import json
import time
from typing import Any

import numpy as np
import pytest
from builders import safetensors_bytes
from lorahub.adapters.base_model import BaseLayout, BaseTensor
from lorahub.adapters.check import check
from lorahub.adapters.files import BytesFiles
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.reader import read_adapter
from pace import pace

MODULES = 12_000
SECONDS = 20  # of CPU; what was quadratic took hours


def weights() -> bytes:
    one = np.ones((1, 1), np.float32)
    names = (f"base_model.model.a.layers.{n}.b.q_proj.lora_{half}.weight" for n in range(MODULES) for half in "AB")
    return safetensors_of_ones(list(names), one)


def safetensors_of_ones(names: list[str], one: np.ndarray) -> bytes:
    raw = json.dumps(
        {name: {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate(names)}
    ).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + one.tobytes() * len(names)


def many(text: str) -> list[str]:
    """As many different names as a configuration may hold."""
    found, size = [], 0
    for number in range(LIMITS.config_bytes):
        name = text.format(number)
        size += len(json.dumps(name)) + 8
        if size > LIMITS.config_bytes - 4096:
            return found
        found.append(name)
    return found


COSTLY: dict[str, dict[str, Any]] = {
    "rank_pattern": {"rank_pattern": dict.fromkeys(many("l.{}.q"), 2)},
    "alpha expressions": {"alpha_pattern": dict.fromkeys(many("(a|b)*{}.*x$"), 2)},
    "targets": {"target_modules": many("m{}.q_proj")},
    "excluded": {"exclude_modules": many("m{}.q_proj")},
    "saved": {"modules_to_save": many("m{}")},
    "feedforward": {"peft_type": "IA3", "feedforward_modules": many("m{}")},
    "parameters": {"target_parameters": many("m{}.w")},
    "an expression that backtracks": {"target_modules": "(a+)+" * 200 + "$"},
    "an expression that grows": {"target_modules": "((a{1,99}){1,99}){1,99}"},
    "replicated layers": {"layer_replication": [[0, 10_000]] * 20_000},
    "layers": {"layers_to_transform": list(range(60_000))},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_configuration_is_checked_in_seconds(name: str) -> None:
    plain = {
        "peft_type": "LORA",
        "base_model_name_or_path": "acme/base",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": ["q_proj"],
    }
    files = BytesFiles(
        {"adapter_config.json": json.dumps(plain | COSTLY[name]).encode(), "adapter_model.safetensors": weights()}
    )
    tensors = {
        f"x.a.layers.{n}.b.{leaf}.weight": BaseTensor("F32", (1, 1))
        for n in range(20_000)
        for leaf in ("k_proj", "o_proj")
    }
    before = time.process_time()
    report = check(read_adapter(files), BaseLayout(tensors, name="acme/base", names=frozenset(["acme/base"])))
    assert (time.process_time() - before) / pace() < SECONDS
    assert report.verdict == "incompatible"
    assert len(json.dumps(report.as_json())) < 1 << 20


def test_long_names_are_cut_in_what_is_stored() -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "acme/base", "x" * 900_000: True}
    one = {f"base_model.model.m.q_proj.lora_{half}.weight": np.ones((1, 1)) for half in "AB"}
    files = BytesFiles(
        {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": safetensors_bytes(one)}
    )
    assert len(json.dumps(check(read_adapter(files), None).as_json())) < 64 << 10
