"""peft and transformers as their users run them: through the endpoint, and the logits are the trained ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

from registry_process import Registry

JOURNEY = """
import json, sys, torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

namespace = sys.argv[1]
torch.manual_seed(0)
config = LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
base = LlamaForCausalLM(config)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
base.push_to_hub(f"{namespace}/base")
tokenizer.push_to_hub(f"{namespace}/base")

pulled = AutoModelForCausalLM.from_pretrained(f"{namespace}/base")
tokenizer = AutoTokenizer.from_pretrained(f"{namespace}/base")
ids = tokenizer("hello", return_tensors="pt").input_ids
with torch.no_grad():
    assert torch.equal(base.eval()(ids).logits, pulled(ids).logits), "the base came back changed"

model = get_peft_model(pulled, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False,
                                          target_modules=["q_proj", "v_proj"]))
with torch.no_grad():
    trained = model.eval()(ids).logits
model.push_to_hub(f"{namespace}/lora")

fresh = AutoModelForCausalLM.from_pretrained(f"{namespace}/base")
loaded = PeftModel.from_pretrained(fresh, f"{namespace}/lora")
with torch.no_grad():
    assert torch.equal(trained, loaded.eval()(ids).logits), "the adapter came back changed"

direct = AutoModelForCausalLM.from_pretrained(f"{namespace}/lora")  # base and adapter, found by the adapter's name
with torch.no_grad():
    assert torch.allclose(trained, direct.eval()(ids).logits, atol=1e-5), "loading by the adapter's name differs"
print(json.dumps({"ok": True}))
"""


def test_peft_and_transformers_push_and_load_through_the_endpoint(
    registry: Registry, user: tuple[str, str], tmp_path: Path
) -> None:
    name, token = user
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "LORAHUB_"))}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": registry.url, "HF_TOKEN": token}
    result = subprocess.run(
        [sys.executable, "-c", JOURNEY, name], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {"ok": True}
    with registry.client(token) as client:
        tags = client.get(f"/api/models/{name}/lora").json()["tags"]
    assert f"base_model:adapter:{name}/base" in tags
