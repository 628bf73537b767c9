"""Pickles come in through a sandbox, when asked for, and never run code."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from builders import lora_config
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
from registry_process import LORAHUB
from safetensors.torch import load_file


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LORAHUB, "import", *arguments], capture_output=True, text=True, check=False, timeout=120)


class Evil:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.place}",)


def test_a_pickled_peft_adapter_becomes_safetensors(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    state = {f"{name}.lora_A.weight": torch.randn(4, 16), f"{name}.lora_B.weight": torch.randn(16, 4)}
    source = tmp_path / "old"
    source.mkdir()
    torch.save(state, source / "adapter_model.bin")
    (source / "adapter_config.json").write_text(json.dumps(lora_config()))

    result = run(str(source), str(tmp_path / "new"), "--unsafe-pickle")

    assert result.returncode == 0, result.stderr
    made = load_file(tmp_path / "new" / "adapter_model.safetensors")
    assert made.keys() == state.keys()
    assert all(torch.equal(made[key], state[key]) for key in state)
    adapter = read_adapter(FolderFiles(tmp_path / "new"))
    assert (adapter.format, len(adapter.updates), adapter.findings) == ("peft", 1, ())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("layers.0.attn.q_proj.lora_a.weight", "layers.0.attn.q_proj.lora_b.weight"), "torchtune"),
        (("h.0.attn.q.lora_A", "h.0.attn.q.lora_B"), "loralib"),
    ],
)
def test_state_dicts_of_other_libraries(tmp_path: Path, names: tuple[str, str], expected: str) -> None:
    state = {names[0]: torch.randn(4, 16), names[1]: torch.randn(16, 4)}
    torch.save({"model": state}, tmp_path / "adapter_0.pt")
    result = run(str(tmp_path / "adapter_0.pt"), str(tmp_path / "new"), "--unsafe-pickle")
    assert result.returncode == 0, result.stderr
    adapter = read_adapter(FolderFiles(tmp_path / "new"))
    assert (adapter.format, adapter.ranks) == (expected, [4])


def test_it_has_to_be_asked_for(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "adapter_model.bin")
    result = run(str(tmp_path), str(tmp_path / "new"))
    assert (result.returncode, (tmp_path / "new").exists()) == (2, False)
    assert "--unsafe-pickle" in result.stderr


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    torch.save({"w": Evil(tmp_path / "pwned")}, tmp_path / "evil.bin", pickle_protocol=protocol)
    result = run(str(tmp_path / "evil.bin"), str(tmp_path / "new"), "--unsafe-pickle")
    assert result.returncode == 7, result.stderr
    assert not (tmp_path / "pwned").exists()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    result = run(str(tmp_path / "list.pt"), str(tmp_path / "new"), "--unsafe-pickle")
    assert result.returncode == 7
    assert "not a state dict" in result.stderr
