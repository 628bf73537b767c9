"""`lorahub convert` and `lorahub pull --for`, as people use them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from corpus.peft_corpus import CASES, write, write_base
from lorahub import Hub
from registry_process import LORAHUB, Registry
from safetensors.numpy import load_file

pytestmark = pytest.mark.xdist_group("conversion")


def run(
    registry: Registry, token: str, folder: Path, *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LORAHUB_")},
        "LORAHUB_HOME": str(folder / ".home"),
        "LORAHUB_ENDPOINT": registry.url,
        "LORAHUB_TOKEN": token,
    }
    result = subprocess.run(
        [LORAHUB, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


def test_pull_for_a_runtime_is_what_it_loads_right(registry: Registry, user: tuple[str, str], tmp_path: Path) -> None:
    name, token = user
    write(CASES["rslora-patterns"], tmp_path / "adapter")
    with Hub(registry.url, token=token) as hub:
        hub.push(tmp_path / "adapter", f"{name}/sql")

    shown = run(registry, token, tmp_path, "pull", f"{name}/sql@v1", "for-vllm", "--for", "vllm")

    assert "peft-normalized" in shown.stdout
    config = json.loads((tmp_path / "for-vllm" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["rank_pattern"], config["r"]) == (False, {}, config["lora_alpha"])
    assert set(load_file(tmp_path / "for-vllm" / "adapter_model.safetensors")) == set(
        load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    )
    judged = run(registry, token, tmp_path, "check", "for-vllm", "--for", "vllm", "--fail-on", "incompatible")
    assert "vllm: ✓" in judged.stdout


def test_what_cannot_be_converted_is_refused_and_nothing_is_written(
    registry: Registry, user: tuple[str, str], tmp_path: Path
) -> None:
    write_base("llama", tmp_path / "base")
    write(CASES["dora"], tmp_path / "adapter")
    told = run(registry, user[1], tmp_path, "convert", "adapter", "out", "--to", "gguf", "--base", "base", code=7)
    assert "✗" in told.stderr
    assert not (tmp_path / "out").exists()


def test_pull_for_a_runtime_makes_a_lora_where_a_loss_is_allowed(
    registry: Registry, user: tuple[str, str], tmp_path: Path
) -> None:
    name, token = user
    base = write_base("llama", tmp_path / "base")
    write(CASES["dora"], tmp_path / "adapter")
    with Hub(registry.url, token=token) as hub:
        hub.push(tmp_path / "adapter", f"{name}/turned")

    for_vllm = ("pull", f"{name}/turned@v1", "out", "--for", "vllm", "--base", str(base))
    run(registry, token, tmp_path, *for_vllm, code=7)
    shown = run(registry, token, tmp_path, *for_vllm, "--lossy", "0.1", "--json")

    result = json.loads(shown.stdout)["result"]
    assert 0 < result["error"] <= 0.1
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["use_dora"], config["r"]) == (False, result["rank"])


def test_a_lora_that_the_runtime_refuses_too_is_not_written(
    registry: Registry, user: tuple[str, str], tmp_path: Path
) -> None:
    name, token = user
    base = write_base(CASES["lora-up-bias"].base, tmp_path / "base")
    write(CASES["lora-up-bias"], tmp_path / "adapter")
    with Hub(registry.url, token=token) as hub:
        hub.push(tmp_path / "adapter", f"{name}/biased")
    for_vllm = ("pull", f"{name}/biased@v1", "out", "--for", "vllm", "--base", str(base), "--lossy", "0.1")
    told = run(registry, token, tmp_path, *for_vllm, code=7)
    assert "bias" in told.stderr
    assert not (tmp_path / "out").exists()
