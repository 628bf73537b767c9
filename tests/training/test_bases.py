"""A base that can't be trained is refused by what is wrong with it, wherever one is loaded; others are taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lorahub
import pytest
import torch
from lorahub import TrainConfig
from lorahub.errors import InvalidBaseModel
from torch import Tensor
from training.bases import save_base, write_rows
from training.broken import copy, save_kind, with_config, with_more_tokens, with_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there

FEW: dict[str, Any] = {"steps": 2, "rank": 2, "max_len": 64, "batch_tokens": 256, "base_name": "acme/tiny"}
FLAGS = ("--steps", 2, "--rank", 2, "--max-len", 64, "--batch-tokens", 256, "--progress", "none")
Command = Callable[..., Any]


def refused(said: Any, code: int, *parts: str) -> None:
    """One sentence and one hint, not a bug."""
    assert said.code == code, said
    assert "this is a bug" not in said.err
    assert "Traceback" not in said.err
    assert said.err.count("✗") == 1
    assert "  Hint: " in said.err
    assert "✓" not in said.out + said.err
    for part in parts:
        assert part in said.err


@pytest.fixture(scope="module")
def adapter(llama: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lorahub.train(llama, rows, TrainConfig(**FEW), output=tmp_path_factory.mktemp("adapter") / "out").adapter_dir


# --- what isn't whole, or sees ahead ----------------------------------------------------------------------------------

OTHER_KINDS = {
    "bert classifier": ("lacks 6 weights of BertLMHeadModel, which would be random", "BertForSequenceClassification"),
    "bert body": ("lacks 6 weights of BertLMHeadModel", "it was saved as BertModel"),
    "bert encoder": ("in BertLMHeadModel a token sees those behind it", "this is an encoder"),
    "roberta encoder": ("in RobertaForCausalLM a token sees those behind it", "this is an encoder"),
    "xlnet": ("in XLNetLMHeadModel a token sees those behind it", "or set to look both ways"),
    "gemma both ways": ("in Gemma3ForCausalLM a token sees those behind it", "or set to look both ways"),
    "llama classifier": (
        "lacks 1 weight of LlamaForCausalLM, which would be random: lm_head",
        "SequenceClassification",
    ),
    "llama body": ("lacks 1 weight of LlamaForCausalLM, which would be random: lm_head.weight", "LlamaModel"),
    "t5": ("is a t5, an encoder with a decoder", "continues text"),
    "vit": ("is a vit with a vocabulary of None", "continues text"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_model_that_does_not_continue_text_is_refused(
    kind: str, rows: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    base, out = save_kind(kind, tmp_path / "base"), tmp_path / "out"
    refused(lorahub_command("train", base, rows, "-o", out, *FLAGS), 7, str(base), *OTHER_KINDS[kind])
    refused(lorahub_command("chat", base, lines=b"hi\n"), 7, str(base), *OTHER_KINDS[kind])
    assert not out.exists()


def test_an_encoder_is_told_by_what_it_does_in_16_bits_too(rows: Path, tmp_path: Path) -> None:
    base = save_kind("bert encoder", tmp_path / "base", torch.bfloat16)
    with pytest.raises(InvalidBaseModel, match="a token sees those behind it"):
        lorahub.train(base, rows, TrainConfig(dtype="bf16", **FEW), output=tmp_path / "out")


@pytest.mark.parametrize(
    "kind", ["bert decoder", "llama tied", "gpt2 body", "gemma", "mixture", "mamba"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_causal_model_is_taken_whatever_it_is_built_of(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """A head that is tied to the embedding isn't missing."""
    model = lorahub.Session(save_kind(kind, tmp_path / "base", dtype), dtype=dtype).model
    assert type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _without(*beginnings: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(beginnings)]:
            del tensors[name]

    return change


def _with(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: value})


WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "no head": (_without("lm_head"), "lacks 1 weight of LlamaForCausalLM, which would be random: lm_head.weight"),
    "half of the layers": (_without("model.layers.1."), "lacks 9 weights of LlamaForCausalLM"),
    "a bias": (
        _with("model.layers.0.self_attn.q_proj.bias", torch.ones(64)),
        "has 1 tensor that LlamaForCausalLM doesn't read: model.layers.0.self_attn.q_proj.bias",
    ),
    "a norm": (
        _with("model.layers.0.self_attn.q_norm.weight", torch.ones(16)),
        "has 1 tensor that LlamaForCausalLM doesn't read: model.layers.0.self_attn.q_norm.weight",
    ),
    "scales": (
        _with("model.layers.1.mlp.up_proj.weight_scale_inv", torch.ones(1)),
        "has 1 tensor that LlamaForCausalLM doesn't read: model.layers.1.mlp.up_proj.weight_scale_inv",
    ),
    "NaN": (
        lambda tensors: tensors["model.norm.weight"].fill_(float("nan")),
        "computes no finite numbers: NaN or infinity in model.norm.weight",
    ),
    "infinity": (
        lambda tensors: tensors["lm_head.weight"][3].fill_(float("inf")),
        "computes no finite numbers: NaN or infinity in lm_head.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_not_the_models_are_refused_everywhere(
    case: str, llama: Path, rows: Path, adapter: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    change, said = WEIGHTS[case]
    base, out = with_weights(copy(llama, tmp_path / "base"), change), tmp_path / "out"
    refused(lorahub_command("train", base, rows, "-o", out, *FLAGS), 7, str(base), said)
    asked = lorahub_command("eval", adapter, "--data", rows, "--base", base, "--no-save")
    refused(asked, 7, *(() if case == "half of the layers" else (str(base), said)))  # there the adapter doesn't fit
    refused(lorahub_command("chat", base, lines=b"hi\n"), 7, str(base), said)
    assert not out.exists()


def test_what_a_causal_model_leaves_out_is_told_and_no_fault(llama: Path, rows: Path, tmp_path: Path) -> None:
    base = with_weights(copy(llama, tmp_path / "base"), _with("score.weight", torch.ones(2, 64)))
    run = lorahub.train(base, rows, TrainConfig(**FEW), output=tmp_path / "out")
    assert "1 tensor of the base left out, no part of LlamaForCausalLM: score.weight" in run.notes


def test_masks_that_old_checkpoints_kept_are_no_fault(gpt2: Path, tmp_path: Path) -> None:
    mask = torch.ones(256, 256).tril()[None, None]
    base = with_weights(
        copy(gpt2, tmp_path / "base"),
        lambda tensors: tensors.update(
            {"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
        ),
    )
    assert lorahub.Session(base).model.config.model_type == "gpt2"


# --- what transformers can't read -------------------------------------------------------------------------------------

CONFIGS: dict[str, tuple[dict[str, Any], int, str]] = {
    "a layer too many": ({"num_hidden_layers": 1}, 7, "has 9 tensors that LlamaForCausalLM doesn't read"),
    "another width": (
        {"intermediate_size": 100}, 7, "first model.layers.0.mlp.down_proj.weight: [64, 96] instead of [64, 100]",
    ),
    "another vocabulary": ({"vocab_size": 300}, 7, "has 2 weights of another shape"),
    "no vocabulary": ({"vocab_size": 0}, 7, "a vocabulary of 0"),
    "no heads": ({"num_attention_heads": 0}, 7, "can't be loaded: ZeroDivisionError"),
    "an odd width": ({"hidden_size": 63}, 7, "63) is not a multiple"),
    "a text": ({"hidden_size": "64"}, 7, "expected int, got str"),
    "an unknown activation": ({"hidden_act": "quux"}, 7, "can't be loaded: KeyError: 'quux'"),
    "an unknown dtype": ({"dtype": "quux"}, 7, "can't be loaded"),
    "an unknown kind": ({"model_type": "quux"}, 7, "model type `quux`"),
    "no kind": ({"model_type": ...}, 7, "can't be loaded"),
    "code": ({"model_type": "quux", "auto_map": {"AutoConfig": "evil.Evil"}}, 7, "custom code"),
    "odd quantisation": ({"quantization_config": "yes"}, 7, "can't be loaded"),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, 2, "pip install optimum"),
    "one position": ({"max_position_embeddings": 1}, 2, "the base has 1 positions: there is no room"),
}  # fmt: skip
"""What is changed, the exit status of `train`, what it says."""


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_is_not_the_models_is_one_sentence(
    case: str, llama: Path, rows: Path, adapter: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    changes, code, said = CONFIGS[case]
    base, out = with_config(copy(llama, tmp_path / "base"), **changes), tmp_path / "out"
    refused(lorahub_command("train", base, rows, "-o", out, *FLAGS), code, said)
    assert not out.exists()
    if case != "one position":  # of which a chat needs none before it is asked
        refused(lorahub_command("eval", adapter, "--data", rows, "--base", base, "--no-save"), code, said)
        refused(lorahub_command("chat", base, lines=b"hi\n"), code, said)
    planned = lorahub_command("train", base, rows, *FLAGS, "--plan")
    assert "this is a bug" not in planned.err


def test_a_format_that_is_named_is_how_rows_are_read(llama: Path, tmp_path: Path, lorahub_command: Command) -> None:
    rows = tmp_path / "both.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows.write_text(json.dumps({"messages": turns, "chosen": turns, "rejected": turns}) + "\n")
    refused(lorahub_command("train", llama, rows, *FLAGS, "--plan"), 7, "can't")
    said = lorahub_command("train", llama, rows, *FLAGS, "--plan", "--data-format", "chat")
    assert "is preference data" not in said.err


def test_what_only_fails_in_training_is_tried_before_it(
    llama: Path, rows: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    base = with_config(copy(llama, tmp_path / "base"), attention_dropout=1.5)
    said = lorahub_command("train", base, rows, "-o", tmp_path / "out", *FLAGS)
    refused(said, 2, "the base can't be trained so: ", "try without --load-4bit, --grad-ckpt")
    assert not (tmp_path / "out").exists()


FILES: dict[str, tuple[str, bytes | None, int, str]] = {
    "no config": ("config.json", None, 5, "can't be loaded"),
    "a config cut short": ("config.json", b'{"model_type": "lla', 7, "config.json"),
    "a list": ("config.json", b"[1]", 7, "can't be loaded"),
    "no weights": ("model.safetensors", None, 7, ""),
    "weights cut short": ("model.safetensors", b"\x40\0\0\0\0\0\0\0{", 7, ""),
    "no bytes": ("model.safetensors", b"", 7, ""),
    "a tokenizer cut short": ("tokenizer.json", b'{"version"', 7, "the tokenizer of"),
    "an empty tokenizer": ("tokenizer.json", b"{}", 7, "the tokenizer of"),
    "a list for the tokenizer": ("tokenizer_config.json", b"[1]", 7, "the tokenizer of"),
    "an adapter beside it": ("adapter_config.json", b'{"peft_type": "LORA"}', 7, "holds an adapter"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_broken_are_one_sentence(
    case: str, llama: Path, rows: Path, adapter: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    name, content, code, said = FILES[case]
    base, out = copy(llama, tmp_path / "base"), tmp_path / "out"
    (base / name).unlink() if content is None else (base / name).write_bytes(content)
    refused(lorahub_command("train", base, rows, "-o", out, *FLAGS), code, said)
    refused(lorahub_command("eval", adapter, "--data", rows, "--base", base, "--no-save"), code, said)
    refused(lorahub_command("chat", base, lines=b"hi\n"), code, said)
    assert not out.exists()


def test_a_base_without_a_tokenizer_is_not_found(
    llama: Path, rows: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    base = copy(llama, tmp_path / "base")
    for path in base.glob("tokenizer*"):
        path.unlink()
    refused(lorahub_command("train", base, rows, "-o", tmp_path / "out", *FLAGS), 5, f"{base} has no tokenizer")
    refused(lorahub_command("chat", base, lines=b"hi\n"), 5, f"{base} has no tokenizer")


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--rank", 100_000_000), 2, "rank is 100000000"),
        (("--alpha", "1" + "0" * 400), 2, "alpha is 1000"),
        (("--threads", 100_000), 2, "threads is 100000"),
        (("--device", "meta"), 2, "there is no device meta"),
        (("--method", "prefix", "--virtual-tokens", 255), 2, "256 positions, of which virtual tokens take 255"),
        (("--method", "prompt", "--virtual-tokens", 250, "--max-len", 6), 7, "left to train on"),
        (("--attention", "flash_attention_2"), 2, "FlashAttention2"),
    ],
    ids=str,
)
def test_settings_that_no_machine_has_room_for(
    flags: tuple[object, ...], code: int, said: str, gpt2: Path, rows: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    refused(lorahub_command("train", gpt2, rows, "-o", tmp_path / "out", *FLAGS, *flags), code, said)
    assert not (tmp_path / "out").exists()


def test_a_model_of_few_positions_is_tried_within_them(tmp_path: Path) -> None:
    base = save_base("gpt2", tmp_path / "base", n_positions=4)
    rows = write_rows(tmp_path / "rows", [{"text": "abc"}] * 8)
    run = lorahub.train(base, rows, TrainConfig(**FEW), output=tmp_path / "out")
    assert run.manifest["run"]["lean_loss"]


@pytest.mark.parametrize("place", ["rows.jsonl", "rows.jsonl/below", "x" * 300], ids=["file", "below a file", "long"])
def test_a_place_that_nothing_can_be_written_to_is_told_at_once(
    place: str, llama: Path, rows: Path, lorahub_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rows.parent)
    said = lorahub_command("train", llama, rows, "-o", place, *FLAGS)
    assert said.code in (2, 6), said
    assert "this is a bug" not in said.err
    assert "steps" not in said.err, "it was trained before it was told"


# --- tokens beyond the embedding --------------------------------------------------------------------------------------


def test_a_token_beyond_the_embedding_is_named_with_its_lines(
    llama: Path, adapter: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    base, out = with_more_tokens(copy(llama, tmp_path / "base"), "<new>", "<newer>"), tmp_path / "out"
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": "fine"}, {"text": "a <newer> one"}, {"text": "<new>"}])
    lines = (
        "2 lines of", "line 2: becomes token 260 (<newer>); the base has embeddings for 0 to 258",
        "line 3: becomes token 259 (<new>)", "model.resize_token_embeddings(261)",
    )  # fmt: skip
    refused(lorahub_command("train", base, rows, "-o", out, *FLAGS), 7, *lines)
    refused(lorahub_command("train", base, rows, *FLAGS, "--plan"), 7, *lines)
    refused(lorahub_command("eval", adapter, "--data", rows, "--base", base, "--no-save"), 7, *lines)
    assert not out.exists()
    said = lorahub_command("chat", base, "--max-new-tokens", 2, lines=b"hi <new>\nhi\n")
    assert said.code == 0
    assert "✗ that has token 259 (<new>); the base has embeddings for 0 to 258" in said.err
    assert said.out.count("\n") == 1, "the second line is answered"


def test_a_tokenizer_of_more_tokens_than_the_rows_use_is_taken(llama: Path, rows: Path, tmp_path: Path) -> None:
    base = with_more_tokens(copy(llama, tmp_path / "base"), "<new>")
    assert lorahub.train(base, rows, TrainConfig(**FEW), output=tmp_path / "out").manifest["run"]["steps"] == 2


@pytest.mark.parametrize("token", [-1, 259, 1 << 40])
def test_a_dialog_takes_only_tokens_that_there_are(token: int, llama: Path) -> None:
    dialog = lorahub.Session(llama).dialog()
    with pytest.raises(lorahub.errors.InvalidUsage, match=f"token {token}; the base has embeddings for 0 to 258"):
        list(dialog.continue_ids([1, token], 2))
    assert len(list(dialog.continue_ids([1, 2], 2))) == 2


# --- a chat -----------------------------------------------------------------------------------------------------------


def test_a_chat_goes_on_after_a_line_that_the_template_refuses(
    llama: Path, tmp_path: Path, lorahub_command: Command
) -> None:
    base = copy(llama, tmp_path / "base")
    (base / "chat_template.jinja").write_text(
        "{{ raise_exception('none of that') if 'x' in messages[-1].content }}<user>"
    )
    said = lorahub_command("--json", "chat", base, "--max-new-tokens", 1, lines=b"x\nfine\n")
    assert said.code == 0
    assert "✗ the chat template refuses it: none of that" in said.err
    assert [turn["question"] for turn in json.loads(said.out)["result"]["turns"]] == ["fine"]


def test_input_that_is_no_text_ends_a_chat_with_a_sentence(llama: Path, lorahub_command: Command) -> None:
    refused(lorahub_command("chat", llama, lines=b"\xff\xfe\n"), 2, "the input is no text in utf-8")
