"""Adapters made of adapters and of fine-tuned models, loaded by the real PEFT."""

import json
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from corpus.merge_corpus import make_adapter, make_base
from registry_process import LORAHUB
from safetensors.torch import load_file, save_file

NAME = "model.layers.1.self_attn.q_proj"


def run(*arguments: str | Path) -> dict[str, Any]:
    done = subprocess.run([LORAHUB, *map(str, arguments), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)["result"]
    return result


def delta(base: Path, adapter: Path) -> torch.Tensor:
    """What PEFT adds to one weight."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted: Any = peft.PeftModel.from_pretrained(model, adapter)
    found: torch.Tensor = adapted.base_model.model.get_submodule(NAME).get_delta_weight("default")
    return found.detach()


def test_a_sum_is_exact(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    one = make_adapter(tmp_path / "one", base, "base", seed=1, use_rslora=True)
    two = make_adapter(tmp_path / "two", base, "base", seed=2, r=2, rank_pattern={"q_proj": 3})
    made = run("combine", f"{one}=0.7", f"{two}=-0.2", "-o", tmp_path / "both")
    assert made["error"] == 0
    expected = 0.7 * delta(base, one) - 0.2 * delta(base, two)
    assert torch.allclose(delta(base, tmp_path / "both"), expected, atol=1e-8)


def test_a_rank_costs_what_it_says(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    one, two = (make_adapter(tmp_path / f"{n}", base, "base", seed=n) for n in (1, 2))
    made = run("combine", one, two, "-o", tmp_path / "both", "--method", "svd", "--rank", "5")
    whole = (delta(base, one) + delta(base, two)).double().numpy()
    singular = np.linalg.svd(whole, compute_uv=False)
    expected = np.sqrt(np.sum(singular[5:] ** 2) / np.sum(singular**2))
    assert abs(made["errors"][NAME] - expected) < 1e-6
    lost = np.linalg.norm(whole - delta(base, tmp_path / "both").double().numpy()) / np.linalg.norm(whole)
    assert abs(lost - expected) < 1e-5


def test_a_fine_tune_of_low_rank_is_found_again(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, shard="1MB")
    adapter = make_adapter(tmp_path / "adapter", base, "base")
    merged = subprocess.run(
        [LORAHUB, "merge", base, adapter, "-o", tmp_path / "tuned"], check=False, capture_output=True
    )
    assert merged.returncode == 0
    made = run("extract", base, tmp_path / "tuned", "-o", tmp_path / "found", "--rank", "4")
    assert made["error"] < 1e-4
    assert made["left_out"] == []
    assert torch.allclose(delta(base, tmp_path / "found"), delta(base, adapter), atol=1e-6)


def test_what_a_rank_cannot_hold_is_told(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32, shard="1MB")
    tuned = make_base(tmp_path / "tuned", dtype=torch.float32, shard="1MB")
    path = next(tuned.glob("*.safetensors"))
    tensors = load_file(path)
    change = 0.1 * torch.randn(tensors[f"{NAME}.weight"].shape)
    tensors[f"{NAME}.weight"] += change
    tensors["model.norm.weight"] += 1
    save_file(tensors, path, {"format": "pt"})
    made = run("extract", base, tuned, "-o", tmp_path / "found", "--rank", "2")
    singular = torch.linalg.svdvals(change.double())
    assert abs(made["error"] - float(singular[2:].norm() / singular.norm())) < 1e-5
    assert made["left_out"] == ["model.norm.weight"]
