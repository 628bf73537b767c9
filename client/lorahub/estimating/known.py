"""Models by name: what their config.json says of shapes."""

from collections.abc import Mapping
from typing import Any

_LLAMA_2 = {"model_type": "llama", "vocab_size": 32_000}
_LLAMA_3 = {"model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8}
_ROBERTA = {"model_type": "roberta", "vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1}
_GPT2 = {"model_type": "gpt2", "vocab_size": 50_257, "n_positions": 1_024}


def _gpt2(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {**_GPT2, "n_embd": width, "n_layer": layers, "n_head": heads}


def _encoder(base: Mapping[str, Any], width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return {**base, **sizes, "num_attention_heads": heads}


def _llama(
    base: Mapping[str, Any], width: int, inner: int, layers: int, heads: int, *, keys: int | None = None,
    head: int | None = None, tied: bool = False,
) -> dict[str, Any]:  # fmt: skip
    more = {"num_key_value_heads": keys} if keys else {}
    more |= {"head_dim": head} if head else {}
    return {**_encoder(base, width, inner, layers, heads), **more, "tie_word_embeddings": tied}


KNOWN: Mapping[str, Mapping[str, Any]] = {
    "gpt3-175b": {
        "model_type": "gpt3", "vocab_size": 50_257, "n_positions": 2_048,
        "n_embd": 12_288, "n_layer": 96, "n_head": 96,
    },
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1_024, 24, 16),
    "gpt2-large": _gpt2(1_280, 36, 20),
    "gpt2-xl": _gpt2(1_600, 48, 25),
    "roberta-base": _encoder(_ROBERTA, 768, 3_072, 12, 12),
    "roberta-large": _encoder(_ROBERTA, 1_024, 4_096, 24, 16),
    "deberta-v2-xxlarge": {
        **_encoder({"model_type": "deberta-v2", "vocab_size": 128_100}, 1_536, 6_144, 48, 24),
        "max_position_embeddings": 512, "position_buckets": 256, "conv_kernel_size": 3, "position_biased_input": False,
    },
    "llama-2-7b": _llama(_LLAMA_2, 4_096, 11_008, 32, 32),
    "llama-2-13b": _llama(_LLAMA_2, 5_120, 13_824, 40, 40),
    "llama-2-70b": _llama(_LLAMA_2, 8_192, 28_672, 80, 64, keys=8),
    "llama-3-8b": _llama(_LLAMA_3, 4_096, 14_336, 32, 32),
    "llama-3-70b": _llama(_LLAMA_3, 8_192, 28_672, 80, 64),
    "llama-3.1-405b": _llama(_LLAMA_3, 16_384, 53_248, 126, 128),
    "llama-3.2-1b": _llama(_LLAMA_3, 2_048, 8_192, 16, 32, head=64, tied=True),
    "llama-3.2-3b": _llama(_LLAMA_3, 3_072, 8_192, 28, 24, head=128, tied=True),
}  # fmt: skip
"""gpt3: sizes of arXiv 2005.14165, table 2.1, vocabulary and tied head of GPT-2; how it is laid out isn't public."""

ALIASES: Mapping[str, str] = {
    "gpt3": "gpt3-175b",
    "gpt2-small": "gpt2",
    "deberta-xxl": "deberta-v2-xxlarge",
    "llama-3.1-8b": "llama-3-8b",
    "llama-3.1-70b": "llama-3-70b",
    "llama-3.3-70b": "llama-3-70b",
}
