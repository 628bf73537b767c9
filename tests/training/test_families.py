"""What `lorahub train` makes of a family is what `lorahub push` takes, and PEFT loads it with the loss that it had.

`make sweep` tries every causal class of transformers that can be made tiny; some of them are tried always.
"""

import json
import os
import warnings
from pathlib import Path

import lorahub
import pytest
import transformers
from lorahub import Hub, TrainConfig
from lorahub.errors import InvalidBaseModel, InvalidUsage
from registry_process import Registry
from sweep import tiny
from tokenizers import Tokenizer, models
from training.bases import completions, write_rows
from training.test_stopped import loaded, loss_on
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

pytestmark = pytest.mark.filterwarnings("ignore")

CAUSAL = sorted({name if isinstance(name, str) else name[0] for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()})
SAMPLE = ("MambaForCausalLM", "Qwen2MoeForCausalLM", "Gemma3nForCausalLM")
"""No attention at all, and routers that are linear layers beside others that go by a number."""
UNTRAINABLE = ("BertLMHeadModel", "BertForMaskedLM", "T5ForConditionalGeneration")
FEW = TrainConfig(steps=3, rank=2, lr=1e-2, batch_tokens=128, max_len=48, eval_split=0.3, base_name="acme/tiny")


def save(name: str, folder: Path) -> Path:
    """A tiny model of the class, with a tokenizer of single letters that fits its vocabulary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.make(name).save_pretrained(folder)
    letters = {chr(32 + number): 2 + number for number in range(95)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"</s>": 0, "<s>": 1} | letters, [])), eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def somebody(registry: Registry) -> tuple[str, str]:
    name = f"families-{os.getpid()}"
    return name, registry.add_user(name)


def goes_the_whole_way(name: str, folder: Path, registry: Registry, somebody: tuple[str, str]) -> None:
    base, rows = save(name, folder / "base"), write_rows(folder / "rows.jsonl", completions(16))
    run = lorahub.train(base, rows, FEW, output=folder / "out")
    told = json.loads((run.adapter_dir / "adapter_config.json").read_bytes())
    assert not [name for name in told["target_modules"] if "router" in name or name.endswith("expert_gate")]
    repository = f"{somebody[0]}/{name.lower()}"
    with Hub(registry.url, token=somebody[1]) as hub:
        (checked,) = lorahub.check(str(run.adapter_dir), str(base))
        assert checked.verdict.value == "fits"
        assert checked.report.matched == checked.report.of > 0
        hub.push(run.adapter_dir, repository)
        pulled = hub.pull(repository, folder / "pulled").path
    before, after = run.history[0].eval_loss, run.history[-1].eval_loss
    assert before != after
    assert loss_on(loaded(base, pulled), base, rows, FEW) == pytest.approx(after, rel=1e-5)


@pytest.mark.parametrize("name", SAMPLE)
def test_some_families_go_the_whole_way(
    name: str, tmp_path: Path, registry: Registry, somebody: tuple[str, str]
) -> None:
    goes_the_whole_way(name, tmp_path, registry, somebody)


@pytest.mark.sweep
@pytest.mark.parametrize("name", CAUSAL)
def test_every_family_goes_the_whole_way(
    name: str, tmp_path: Path, registry: Registry, somebody: tuple[str, str]
) -> None:
    """Or is refused before the first step."""
    try:
        goes_the_whole_way(name, tmp_path, registry, somebody)
    except (InvalidBaseModel, InvalidUsage) as refused:
        assert not (tmp_path / "out").exists()
        pytest.skip(refused.message)


@pytest.mark.parametrize("name", UNTRAINABLE)
def test_what_continues_no_text_is_refused(name: str, tmp_path: Path) -> None:
    base, rows = save(name, tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", completions(16))
    with pytest.raises(InvalidBaseModel):
        lorahub.train(base, rows, FEW, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
