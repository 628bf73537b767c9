"""The deeper levels of a check: drift against the base it was trained on, and the real loader."""

import json
import subprocess
from pathlib import Path

import pytest
from corpus.peft_corpus import CASES, llama, write
from lorahub import Hub
from lorahub.hub.bases import hash_folder
from lorahub.hub.progress import Silence
from registry_process import Registry
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.xdist_group("levels")


def test_retrained_weights_are_drift(registry: Registry, user: tuple[str, str], tmp_path: Path) -> None:
    name, token = user
    llama().save_pretrained(tmp_path / "base")
    adapter = tmp_path / "adapter"
    write(CASES["lora"], adapter, named=f"{name}/base")
    with Hub(registry.url, token=token) as hub:
        hub.bases.add(hash_folder(tmp_path / "base", Silence()), f"{name}/base", revision="one")
        hub.push(adapter, f"{name}/adapter", base=f"{name}/base")
        hub.pull(f"{name}/adapter", adapter)  # with the lorahub.json that records its base
        weights = load_file(tmp_path / "base" / "model.safetensors")
        weights["model.layers.1.self_attn.q_proj.weight"] += 0.5
        weights["model.norm.weight"] += 0.5  # the adapter doesn't touch it
        (tmp_path / "moved").mkdir()
        save_file(weights, tmp_path / "moved" / "model.safetensors")
        (tmp_path / "moved" / "config.json").write_text((tmp_path / "base" / "config.json").read_text())

        (same,) = hub.check(str(adapter), str(tmp_path / "base"), level="drift")
        (moved,) = hub.check(str(adapter), str(tmp_path / "moved"), level="drift")

    assert (same.verdict, same.report.findings) == ("compatible", ())
    assert moved.verdict == "fits"
    found = {one.rule: one for one in moved.report.findings}
    assert [piece.name for piece in found["LH109"].evidence] == ["model.layers.1.self_attn.q_proj.weight"]
    assert "LH103" in found


def test_the_real_loader_agrees_or_says_what_it_drops(registry: Registry, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    write(CASES["lora"], tmp_path / "adapter")
    with Hub(registry.url) as hub:
        (good,) = hub.check(str(tmp_path / "adapter"), str(tmp_path / "base"), level="load")
        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
        (bad,) = hub.check(str(tmp_path / "adapter"), str(tmp_path / "base"), level="load")
    assert (good.verdict, good.report.findings) == ("fits", ())
    assert {one.rule for one in bad.report.findings} == {"LH213", "LH310"}
    assert bad.verdict == "incompatible"


def test_what_the_real_loader_cant_be_run_on_is_undecided(registry: Registry, tmp_path: Path) -> None:
    """Never skipped in silence: files that aren't PEFT's, and a base of which nobody has the configuration."""
    llama().save_pretrained(tmp_path / "base")
    write(CASES["lora"], tmp_path / "adapter")
    (tmp_path / "bare").mkdir()
    weights = (tmp_path / "base" / "model.safetensors").read_bytes()
    (tmp_path / "bare" / "model.safetensors").write_bytes(weights)
    with Hub(registry.url) as hub:
        (unknown,) = hub.check(str(tmp_path / "adapter"), str(tmp_path / "bare"), level="load")
        (tmp_path / "adapter" / "adapter_config.json").unlink()
        (foreign,) = hub.check(str(tmp_path / "adapter"), str(tmp_path / "base"), level="load")
    for row in (unknown, foreign):
        assert "LH506" in {one.rule for one in row.report.findings}
        assert row.verdict in ("undecided", "incompatible")
    assert unknown.verdict == "undecided"


def test_metadata_reads_no_header_of_the_base(tmp_path: Path) -> None:
    llama(hidden_size=32).save_pretrained(tmp_path / "wide")
    write(CASES["lora"], tmp_path / "adapter")
    command = ["lorahub", "check", str(tmp_path / "adapter"), "--base", str(tmp_path / "wide"), "--level", "metadata"]
    assert (
        subprocess.run(
            command, capture_output=True, check=False, env={"PATH": _bin(), "HOME": str(tmp_path)}
        ).returncode
        == 0
    )


def _bin() -> str:
    from registry_process import LORAHUB

    return str(Path(LORAHUB).parent)
