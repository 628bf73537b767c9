"""Bases of some ten thousand parameters that learn in seconds, and files of rows for them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from serving.text_model import TEMPLATE, make_tokenizer

WIDTH = 64


def save_base(kind: str, folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """`llama` or `gpt2`, two layers, weights large enough that what LoRA adds can move the output."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    MODELS[kind](len(tokenizer), changes).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _llama(vocabulary: int, changes: dict[str, Any]) -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
    }  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=vocabulary, **sizes | changes))


def _gpt2(vocabulary: int, changes: dict[str, Any]) -> Any:
    sizes: dict[str, Any] = {
        "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.1,
        "bos_token_id": 256, "eos_token_id": 256, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=vocabulary, **sizes | changes))


MODELS = {"llama": _llama, "gpt2": _gpt2}

COLOURS = ("red", "green", "blue", "black")


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def completions(count: int = 64) -> list[dict[str, str]]:
    return [{"prompt": f"thing {n} is ", "completion": COLOURS[n % 4]} for n in range(count)]


def chats(count: int = 32) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"and {n}?"},
                {"role": "assistant", "content": COLOURS[n % 4]},
                {"role": "user", "content": "sure?"},
                {"role": "assistant", "content": "yes"},
            ]
        }
        for n in range(count)
    ]
