"""Weight statistics, computed by the worker that `lorahub serve` starts beside itself."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
from builders import lora_weights, safetensors_bytes, write_adapter
from lorahub import Hub
from lorahub.protocol.messages.message import Message, as_json, parse
from lorahub.protocol.messages.statistics import OverlapAnswer, Statistics
from registry_process import Registry
from safetensors.numpy import load

pytestmark = pytest.mark.xdist_group("statistics")


@pytest.fixture
def working(own_registry: Registry) -> Registry:
    """A registry with its worker."""
    own_registry.stop()
    own_registry.settings = {"LORAHUB_WORKER": "true"}
    return own_registry.start()


MESSAGES: dict[str, type[Message]] = {"statistics": Statistics, "overlap": OverlapAnswer}
"""What the SDK reads."""


def settled(
    client: httpx2.Client, repo: str, *, seconds: float = 40, what: str = "statistics", **asked: str
) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        answer: dict[str, Any] = client.get(f"/api/lorahub/v1/models/{repo}/{what}/main", params=asked).json()
        if answer["status"] != "wanted" or time.monotonic() > end:
            assert _told(as_json(parse(MESSAGES[what], answer, what))) == _told(answer)
            return answer
        time.sleep(0.2)


def _told(answer: Any) -> Any:
    """Without what is null, which a message need not say."""
    if isinstance(answer, dict):
        return {key: _told(value) for key, value in answer.items() if value is not None}
    return answer


def write_base(folder: Path) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    folder.mkdir()
    tensors = {f"model.layers.{n}.self_attn.q_proj.weight": random.standard_normal((16, 16)) for n in range(2)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return tensors


def worker_of(registry: Registry) -> psutil.Process:
    assert registry.process is not None
    (worker,) = psutil.Process(registry.process.pid).children(recursive=True)
    return worker


def test_norms_and_singular_values_are_those_of_the_formed_update(working: Registry, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    with Hub(working.url, token=working.token) as hub, working.client(working.token) as client:
        hub.push(tmp_path / "base", "owner/base")
        hub.push(write_adapter(tmp_path / "adapter", base="owner/base"), "owner/adapter")
        answer = settled(client, "owner/adapter")

    assert answer["status"] == "done", answer
    weights = load(lora_weights())
    modules = answer["statistics"]["modules"]
    squares = 0.0
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        down, up = (weights[f"base_model.model.{name}.lora_{half}.weight"].astype(np.float64) for half in "AB")
        update = 2.0 * up @ down
        values = np.linalg.svd(update, compute_uv=False)
        assert modules[name]["frobenius"] == pytest.approx(np.linalg.norm(update), rel=1e-12)
        assert modules[name]["singular_values"] == pytest.approx(values[:4], rel=1e-9)
        norm = np.linalg.norm(base[f"{name}.weight"].astype(np.float32))
        assert modules[name]["relative"] == pytest.approx(np.linalg.norm(update) / norm, rel=1e-6)
        assert answer["statistics"]["layers"][str(layer)] == pytest.approx(np.linalg.norm(update), rel=1e-12)
        squares += np.linalg.norm(update) ** 2
    assert squares > 0


def test_dora_says_what_its_figures_leave_out(working: Registry, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "dora")
    tensors = load((folder / "adapter_model.safetensors").read_bytes())
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_magnitude_vector"] = np.ones(16, np.float32)
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with Hub(working.url, token=working.token) as hub, working.client(working.token) as client:
        hub.push(folder, "owner/dora")
        answer = settled(client, "owner/dora")
        assert len(answer["statistics"]["modules"]) == 2
        assert "magnitudes" in answer["statistics"]["note"]
        assert "magnitudes" in client.get("/owner/dora/weights/main", headers={"Accept": "text/html"}).text


def test_a_killed_worker_loses_nothing(working: Registry, tmp_path: Path) -> None:
    with Hub(working.url, token=working.token) as hub, working.client(working.token) as client:
        os.kill(worker_of(working).pid, signal.SIGKILL)
        hub.push(write_adapter(tmp_path / "adapter"), "owner/adapter")
        assert settled(client, "owner/adapter", seconds=2)["status"] == "wanted"
    working.stop()
    working.start()
    with working.client(working.token) as client:
        assert settled(client, "owner/adapter")["status"] == "done"


def test_the_worker_ends_with_its_registry(working: Registry) -> None:
    worker = worker_of(working)
    working.kill()
    gone, _ = psutil.wait_procs([worker], timeout=20)
    assert gone


def test_what_has_no_product_of_factors_says_so(working: Registry, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "ia3")
    name = "base_model.model.model.layers.0.self_attn.q_proj.ia3_l"
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes({name: np.ones((16, 1))}))
    config = {"peft_type": "IA3", "base_model_name_or_path": "acme/tiny-llama", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with Hub(working.url, token=working.token) as hub, working.client(working.token) as client:
        hub.push(folder, "owner/ia3")
        hub.push(write_adapter(tmp_path / "lora"), "owner/lora")
        hub.push(as_torchtune(tmp_path / "tune"), "owner/tune")
        address = "/api/lorahub/v1/models/owner/ia3/overlap/main"
        assert client.post(address, params={"with": "owner/lora@main"}).json()["status"] == "wanted"
        client.post(address.replace("ia3", "tune"), params={"with": "owner/lora@main"}).raise_for_status()
        answer = settled(client, "owner/ia3")
        overlap, unnamed = (
            settled(client, repo, what="overlap", **{"with": "owner/lora@main"}) for repo in ("owner/ia3", "owner/tune")
        )
        assert client.get("/api/lorahub/v1/models/owner/nothing/statistics/main").status_code == 404
    assert answer["status"] == "done"
    assert answer["statistics"]["skipped"] == {"model.layers.0.self_attn.q_proj": "ia3, rank None"}
    assert overlap["overlap"]["modules"] == {}
    assert overlap["overlap"]["whole"]["cosine"] is None
    first, second = (overlap["overlap"]["skipped"][f"model.layers.{layer}.self_attn.q_proj"] for layer in (0, 1))
    assert first == "ia3, rank None: no product of factors that is computed here"
    assert second == "only one of them changes it"
    assert unnamed["status"] == "failed"
    assert "in different ways" in unnamed["reason"]


def as_torchtune(folder: Path) -> Path:
    """Torchtune's own names, which only a base translates."""
    folder.mkdir()
    weights = {
        f"layers.0.attn.q_proj.lora_{half}.weight": np.ones(shape) for half, shape in (("a", (4, 16)), ("b", (16, 4)))
    }
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(weights))
    return folder
