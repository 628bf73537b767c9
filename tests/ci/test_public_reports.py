"""Reports of people whom other tools let go on: what they had is red here, with the rule that says why.

Beside these: transformers#38927 and vllm#48019 are tests/adapters/test_names_by_part.py, kubeai#347 is test_beside.py,
peft#1567 is test_locks_and_policy.py, unsloth#611 is tests/merging/test_proof.py. docs/ci.md says which can't be found.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import lora_config, safetensors_bytes, write_adapter
from lorahub.cli.main import main


def write_base(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]
    tensors = {name: random.standard_normal((16, 16)) for name in names}
    tensors |= {name: random.standard_normal((64, 16)) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))


def lora(folder: Path, names: list[str], *, rank: int = 4, out: int = 16, width: int = 16) -> None:
    write_adapter(folder, rank=rank)
    random = np.random.default_rng(0)
    tensors = {}
    for name in names:
        tensors[f"{name}.lora_A.weight"] = random.standard_normal((rank, width))
        tensors[f"{name}.lora_B.weight"] = random.standard_normal((out, rank))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    targets = sorted({name.rpartition(".")[2] for name in names})
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(rank=rank) | {"target_modules": targets}))


LAYERS = [f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in range(2)]

REPORTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "vllm#34186: a prefix of its own, and so the base's answers": (
        lambda folder: lora(folder, [name.replace("model.model.", "model.backbone.", 1) for name in LAYERS]),
        "LH210",
    ),
    "vllm#12106: an adapter of another base": (lambda folder: lora(folder, LAYERS, out=24, width=24), "LH202"),
    "gpustack#5438: a rank above the server's": (lambda folder: lora(folder, LAYERS, rank=64), "LH401"),
    "LlamaFactory#3125: tokens that the base doesn't have": (
        lambda folder: lora(folder, ["base_model.model.lm_head"], out=67),
        "LH204",
    ),
}


@pytest.mark.parametrize("report", REPORTS)
def test_it_is_red_before_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], report: str
) -> None:
    act, rule = REPORTS[report]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    (tmp_path / "lorahub.toml").write_text(
        '[check]\nenvironments = ["live"]\n[environments.live]\nruntimes = ["vllm"]\nmax_lora_rank = 16\n'
    )
    write_base(tmp_path / "base")
    act(tmp_path / "adapter")
    with pytest.raises(SystemExit) as ended:
        main(["--json", "check", "adapter", "--base", "./base"])
    [row] = json.loads(capsys.readouterr().out)["result"]["checks"]
    assert (ended.value.code, row["outcome"]) == (1, "failed")
    assert rule in row["failed_by"]
