"""One HF_ENDPOINT for a base of another hub, which a second registry plays, and a private adapter of ours."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wire
from registry_process import BIN, Registry, serve

JOURNEY = """
import json, sys, torch
from huggingface_hub import HfApi, snapshot_download
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

hub, hub_token = sys.argv[1:]
torch.manual_seed(0)
config = LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
base = LlamaForCausalLM(config)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
base.save_pretrained("base")
PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained("base")
there = HfApi(endpoint=hub, token=hub_token)
there.create_repo("maker/base")
there.upload_folder(repo_id="maker/base", folder_path="base")

ids = AutoTokenizer.from_pretrained("maker/base")("hello", return_tensors="pt").input_ids
model = get_peft_model(AutoModelForCausalLM.from_pretrained("maker/base"), LoraConfig(
    task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
with torch.no_grad():
    trained = model.eval()(ids).logits
model.push_to_hub("ours/lora", private=True)

with torch.no_grad():
    loaded = AutoPeftModelForCausalLM.from_pretrained("ours/lora").eval()(ids).logits
    merged = AutoModelForCausalLM.from_pretrained("ours/lora", revision="merged").eval()(ids).logits
assert torch.equal(trained, loaded), "base and adapter came back changed"
assert torch.allclose(trained, merged, atol=1e-5), "merged on the server"
folder = snapshot_download("maker/base")
same = open(f"{folder}/model.safetensors", "rb").read() == open("base/model.safetensors", "rb").read()
print(json.dumps({"same": same, "sha": there.model_info("maker/base").sha == HfApi().model_info("maker/base").sha}))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    running = serve(tmp_path_factory.mktemp("hub"))
    with running.client() as client:
        wire.require(client.post("/api/lorahub/v1/organisations", json={"name": "maker"}))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def here(hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    place = hub.url.removeprefix("http://")
    internal = [place, (hub.settings.get("LORAHUB_STORAGE_ENDPOINT") or hub.url).removeprefix("http://")]
    settings = {
        "LORAHUB_UPSTREAMS": json.dumps(
            [{"name": "hub", "endpoint": hub.url, "allow": ["maker/*"], "hosts": internal}]
        ),
        "LORAHUB_OUTBOUND_INTERNAL": json.dumps(internal),
        "LORAHUB_UPSTREAM_FRESH": "PT1S",
    }
    running = serve(tmp_path_factory.mktemp("here"), settings)
    with running.client() as client:
        wire.require(client.post("/api/lorahub/v1/organisations", json={"name": "ours"}))
    yield running
    running.stop()
    running.assert_sound()


def test_base_and_private_adapter_by_one_endpoint(hub: Registry, here: Registry, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "LORAHUB_"))}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": here.url, "HF_TOKEN": here.token}
    result = subprocess.run(
        [sys.executable, "-c", JOURNEY, hub.url, hub.token],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {"same": True, "sha": True}
    with here.client() as client:
        judged = wire.require(client.get("/api/models/ours/lora", params={"expand": "adapter"})).json()["adapter"]
        assert (judged["base"], judged["verdict"]) == ("maker/base", "fits")
        page = wire.require(client.get("/maker/base", headers={"Accept": "text/html"})).text
        assert "maker/base" in page
    hub.stop()
    time.sleep(1)  # what the hub said is no longer fresh
    environment |= {"HF_HOME": str(tmp_path / "cold")}
    loaded = subprocess.run(
        [str(BIN / "hf"), "download", "maker/base"], env=environment, capture_output=True, text=True, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    folder = Path(loaded.stdout.strip().splitlines()[-1].partition("path")[2].lstrip(":= "))
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "base/model.safetensors").read_bytes()
    assert "upstream" in loaded.stderr + loaded.stdout, "that the hub is away is said"
