"""The text bases as GGUF files in float32, by llama.cpp's own table of names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from runtimes.bases import VOCABULARY

_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
}
"""`model_type` of transformers → llama.cpp's."""


def is_known(base: Path) -> bool:
    config = json.loads((base / "config.json").read_bytes())
    return config["model_type"] in _ARCHITECTURES and config["architectures"][0].endswith(
        ("ForCausalLM", "LMHeadModel")
    )


def write(base: Path, path: Path) -> None:
    config = json.loads((base / "config.json").read_bytes())
    kind = _ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
    _settings(writer, config)
    _tokens(writer)
    names = gguf.get_tensor_name_map(kind, config.get("num_hidden_layers") or config["n_layer"])
    for name, array in _tensors(load_file(base / "model.safetensors"), config):
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if own is None:
            raise LookupError(f"{name} has no name in llama.cpp")
        writer.add_tensor(own, np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _settings(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config.get("num_attention_heads") or config["n_head"]
    width = config.get("hidden_size") or config["n_embd"]
    head = config.get("head_dim") or width // heads
    writer.add_context_length(config.get("max_position_embeddings") or config["n_positions"])
    writer.add_embedding_length(width)
    writer.add_block_count(config.get("num_hidden_layers") or config["n_layer"])
    writer.add_feed_forward_length(config.get("intermediate_size") or 4 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_vocab_size(VOCABULARY)
    if "layer_norm_epsilon" in config:
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        writer.add_rope_dimension_count(head)
        writer.add_key_length(head)
        writer.add_value_length(head)
    if config["model_type"] == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        writer.add_sliding_window(config["sliding_window"])
    experts = config.get("num_local_experts") or config.get("num_experts")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config.get("moe_intermediate_size") or config["intermediate_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _tokens(writer: gguf.GGUFWriter) -> None:
    words = ["<pad>", "<s>", "</s>", *(f"▁t{number}" for number in range(3, VOCABULARY))]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (VOCABULARY - 3)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)


def _tensors(stored: dict[str, Any], config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """As llama.cpp's converter changes them: rows of q and k in its order, experts stacked, norms with their one."""
    experts: dict[str, dict[int, Any]] = {}
    for name, array in stored.items():
        kind = config["model_type"]
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if ".experts." in name:
            owner, _, rest = name.partition(".experts.")
            number, _, part = rest.partition(".")
            experts.setdefault(f"{owner}.experts.{part}", {})[int(number)] = array
            continue
        if kind in ("llama", "mistral", "mixtral") and ".q_proj." in name:
            array = _interleaved(array, config["num_attention_heads"])  # noqa: PLW2901
        elif kind in ("llama", "mistral", "mixtral") and ".k_proj." in name:
            array = _interleaved(array, config["num_key_value_heads"])  # noqa: PLW2901
        elif kind == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            array = array.T  # noqa: PLW2901
        elif kind == "gemma2" and "norm" in name:
            array = array + 1  # noqa: PLW2901
        yield name, array
    for name, parts in experts.items():
        yield name, np.stack([parts[number] for number in sorted(parts)])


def _interleaved(array: Any, heads: int) -> Any:
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
