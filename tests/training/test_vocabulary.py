"""New tokens, whose embeddings are trained, and modules that are trained whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lorahub
import peft
import pytest
import torch
import transformers
from lorahub import TrainConfig
from lorahub.errors import InvalidConfiguration, TrainingInterrupted
from lorahub.training.evaluation import evaluate
from training.bases import save_base, write_rows
from training.test_stopped import loss_on, stopped_by

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL: dict[str, Any] = {
    "rank": 4, "lr": 1e-2, "max_len": 96, "batch_tokens": 192, "base_name": "acme/tiny", "eval_split": 0.2, "steps": 6,
}  # fmt: skip
ROWS = [{"prompt": f"ask {n} ", "completion": f"<call>{n % 3}</call>"} for n in range(40)]
NEW = TrainConfig(**SMALL, add_tokens=("<call>", "</call>"))


def base(kind: str, folder: Path) -> Path:
    """`spare` has rows for tokens that nobody uses yet."""
    made = save_base("llama", folder, tie_word_embeddings=kind == "tied")
    if kind == "spare":
        model = transformers.AutoModelForCausalLM.from_pretrained(made)
        model.resize_token_embeddings(288)
        model.save_pretrained(made)
    return made


def loaded(folder: Path, adapter: Path) -> Any:
    """As its user loads it: the adapter's tokenizer, a base with room for it, PEFT."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = len(transformers.AutoTokenizer.from_pretrained(adapter))
    if tokens > model.config.vocab_size:
        model.resize_token_embeddings(tokens)
    return peft.PeftModel.from_pretrained(model, adapter)


@pytest.mark.parametrize("kind", ["spare", "tied", "untied"])
def test_new_tokens_are_trained_and_load_with_the_adapter(kind: str, tmp_path: Path) -> None:
    folder, rows = base(kind, tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", ROWS)
    config = replace(NEW, eval_split=str(rows))
    run = lorahub.train(folder, rows, config, output=tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.adapter_dir)
    assert tokenizer.encode("<call>7</call>") == [259, *tokenizer.encode("7"), 260]
    model = loaded(folder, run.adapter_dir)
    weights = model.get_input_embeddings().weight
    assert weights.shape[0] >= 261
    files = peft.load_peft_weights(str(run.adapter_dir), device="cpu")
    assert sum(name.endswith("trainable_tokens_delta") for name in files) >= (2 if kind != "tied" else 1)
    (checked,) = lorahub.check(str(run.adapter_dir), str(folder))
    assert checked.verdict.value == "fits"
    scores = evaluate(run.adapter_dir, rows, NEW, base=str(folder), models=["base", "adapter"]).scores
    assert scores["adapter"].loss == pytest.approx(run.history[-1].eval_loss, rel=1e-3)
    whole = tmp_path / "whole"
    model.merge_and_unload().save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    found = loss_on(transformers.AutoModelForCausalLM.from_pretrained(whole), run.adapter_dir, rows, config)
    assert found == pytest.approx(run.history[-1].eval_loss, rel=1e-3)


def test_a_run_with_new_tokens_goes_on_bit_for_bit(tmp_path: Path) -> None:
    folder, rows = base("untied", tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", ROWS)
    whole = lorahub.train(folder, rows, NEW, output=tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        lorahub.train(folder, rows, NEW, output=tmp_path / "parts", on_step=stopped_by(15, 3))
    torch.rand(5)
    parts = lorahub.train(folder, rows, NEW, output=tmp_path / "parts", resume="auto")
    left, right = ((run.adapter_dir / "adapter_model.safetensors").read_bytes() for run in (whole, parts))
    assert left == right


def test_modules_are_trained_and_kept_whole(llama: Path, rows: Path, tmp_path: Path, lorahub_command: Any) -> None:
    out = tmp_path / "out"
    flags = ("--rank", 4, "--lr", 0.01, "--steps", 6, "--max-len", 96, "--batch-tokens", 192, "--progress", "none")
    said = lorahub_command("train", llama, rows, "-o", out, *flags, "--save-modules", "norm,lm_head")
    assert said.code == 0, said.err
    kept = peft.load_peft_weights(str(out), device="cpu")
    before = transformers.AutoModelForCausalLM.from_pretrained(llama).state_dict()
    for name in ("model.norm.weight", "lm_head.weight"):
        assert not torch.equal(kept[f"base_model.model.{name}"], before[name])
    (checked,) = lorahub.check(str(out), str(llama))
    assert checked.verdict.value == "fits"


@pytest.mark.parametrize("wrong", [{"method": "ia3"}, {"start": "acme/first"}])
def test_new_tokens_are_for_a_new_lora(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidConfiguration, match="add_tokens is") as refused:
        TrainConfig.of({"add_tokens": ["<call>"], **wrong})
    assert refused.value.hint == "it has to be of lora alone, without --from"
