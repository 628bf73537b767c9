"""What the page says to copy is run as it stands, against a registry, where its loader is installed."""

import os
import subprocess
import sys
from html import unescape
from pathlib import Path

import lorahub
import pytest
from registry_process import BIN, Registry

pytestmark = pytest.mark.xdist_group("use-it")

pytestmark = pytest.mark.xdist_group("use-it")

MAKE = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                     num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64))
model.save_pretrained("base")
model.config._name_or_path = "users-org/tiny"
made = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
made.peft_config["default"].base_model_name_or_path = "users-org/tiny"
for name, value in made.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(value)
made.save_pretrained("adapter")
"""
AFTER = """
import torch
found = model(torch.arange(8)[None]).logits.detach()
seen.append(found)
"""


@pytest.fixture(scope="module")
def place(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("use")
    token = registry.add_user("users-owner")
    with registry.client(token) as client:
        client.post("/api/lorahub/v1/organisations", json={"name": "users-org"}).raise_for_status()
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, check=True, capture_output=True, timeout=120)
    with lorahub.Hub(registry.url, token=token) as hub:
        hub.push(folder / "base", "users-org/tiny")
        hub.push(folder / "adapter", "users-org/tuned")
    (folder / "token").write_text(token)
    return folder


def run(command: list[str], folder: Path, own: dict[str, str]) -> None:
    ran = subprocess.run(command, cwd=folder, env=own, capture_output=True, timeout=180, check=False)
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]


def environment(place: Path, url: str) -> dict[str, str]:
    own = {"HF_ENDPOINT": url, "HF_TOKEN": (place / "token").read_text(), "HF_HOME": str(place / "hf")}
    own |= {"LORAHUB_TOKEN": own["HF_TOKEN"], "LORAHUB_CACHE": str(place / "cache"), "HOME": str(place)}
    return {**os.environ, **own, "PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def ways(registry: Registry, place: Path) -> dict[str, str]:
    """As the page has them, and as its twin has them: the same."""
    with registry.client((place / "token").read_text()) as client:
        page = client.get("/users-org/tuned", headers={"Accept": "text/html"}).text
        found = {one["runtime"]: one for one in client.get("/users-org/tuned.json").json()["snippets"]}
    for one in found.values():
        assert (one["text"] in unescape(page)) == one["usable"], one["runtime"]
    assert not found["diffusers"]["usable"]
    assert found["diffusers"]["reasons"][0] == "diffusers runs image models"
    return {key: one["text"] for key, one in found.items()}


def test_lorahub_and_hf_fetch_what_was_pushed(registry: Registry, place: Path, ways: dict[str, str]) -> None:
    wanted = (place / "adapter" / "adapter_model.safetensors").read_bytes()
    for number, command in enumerate((ways["lorahub"], ways["hf"])):
        folder = place / f"by{number}"
        folder.mkdir()
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment(place, registry.url),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr.decode()
        assert (folder / "tuned" / "adapter_model.safetensors").read_bytes() == wanted


def test_peft_and_transformers_load_the_same_model(registry: Registry, place: Path, ways: dict[str, str]) -> None:
    pull = next(line[2:] for line in ways["peft"].splitlines() if line.startswith("# lorahub pull"))
    script = "seen = []\n" + ways["peft"] + AFTER + ways["merged"] + AFTER
    script += "assert torch.allclose(*seen, atol=1e-4), (seen[0] - seen[1]).abs().max()\n"
    own = environment(place, registry.url)
    subprocess.run(["bash", "-c", pull], cwd=place, env=own, check=True, capture_output=True, timeout=120)
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=own, capture_output=True, timeout=180, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
