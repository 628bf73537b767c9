"""Bases that can't be trained, and some that only look so: made of a small one, or of a model of another kind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from serving.text_model import TEMPLATE, make_tokenizer
from torch import Tensor

_SIZES: dict[str, Any] = {
    "vocab_size": len(make_tokenizer()), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 128,
}  # fmt: skip
_GEMMA: dict[str, Any] = {"head_dim": 8, "num_key_value_heads": 2}
_GPT2: dict[str, Any] = {"vocab_size": _SIZES["vocab_size"], "n_embd": 32, "n_layer": 2, "n_head": 4}
_XLNET: dict[str, Any] = {"vocab_size": _SIZES["vocab_size"], "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
_T5: dict[str, Any] = {"vocab_size": _SIZES["vocab_size"], "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2}
_VIT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
_MOE: dict[str, Any] = {
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert classifier": ("BertForSequenceClassification", "BertConfig", _SIZES),
    "bert body": ("BertModel", "BertConfig", _SIZES),
    "bert encoder": ("BertForMaskedLM", "BertConfig", _SIZES),
    "bert decoder": ("BertLMHeadModel", "BertConfig", {**_SIZES, "is_decoder": True}),
    "roberta encoder": ("RobertaForMaskedLM", "RobertaConfig", _SIZES),
    "xlnet": ("XLNetLMHeadModel", "XLNetConfig", _XLNET),
    "llama classifier": ("LlamaForSequenceClassification", "LlamaConfig", _SIZES),
    "llama body": ("LlamaModel", "LlamaConfig", _SIZES),
    "llama tied": ("LlamaForCausalLM", "LlamaConfig", {**_SIZES, "tie_word_embeddings": True}),
    "gpt2 body": ("GPT2Model", "GPT2Config", _GPT2),
    "gemma": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**_SIZES, **_GEMMA}),
    "gemma both ways": (
        "Gemma3ForCausalLM", "Gemma3TextConfig", {**_SIZES, **_GEMMA, "use_bidirectional_attention": True},
    ),
    "mixture": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**_SIZES, **_MOE}),
    "mamba": (
        "MambaForCausalLM", "MambaConfig",
        {"vocab_size": _SIZES["vocab_size"], "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "vit": ("ViTForImageClassification", "ViTConfig", _VIT),
}  # fmt: skip
"""What transformers calls the model and its configuration, and the sizes."""


def save_kind(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    model, config, sizes = KINDS[kind]
    torch.manual_seed(0)
    made: Any = getattr(transformers, model)(getattr(transformers, config)(**sizes))
    made.to(dtype).save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def copy(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base, folder))


def with_config(folder: Path, **changes: Any) -> Path:
    """Changes to config.json; a value of … goes."""
    place = folder / "config.json"
    config = {**json.loads(place.read_bytes()), **changes}
    place.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def with_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    place = folder / "model.safetensors"
    tensors = load_file(place)
    change(tensors)
    save_file(tensors, place, metadata={"format": "pt"})
    return folder


def with_more_tokens(folder: Path, *tokens: str) -> Path:
    """The tokenizer knows tokens that the model has no embeddings for."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(folder)
    return folder
