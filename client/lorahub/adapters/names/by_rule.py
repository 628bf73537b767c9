"""Names by rule: llama.cpp's and torchtune's."""

import re

_LLAMA_CPP = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_b_proj": "attn_kv_b",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate": "ffn_gate_inp",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
}
"""Inside a block, transformers -> llama.cpp (gguf-py `tensor_mapping.py`)."""

_TORCHTUNE = {
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.output_proj",
    "mlp.gate_proj": "mlp.w1",
    "mlp.down_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w3",
}

_BLOCK = re.compile(r"^(?:.+\.)?(?:layers|h|blocks)\.(\d+)\.(.+)$")


def gguf_name(module: str) -> str | None:
    """Name a module as llama.cpp does; None where it has no name for it.

    >>> gguf_name("model.layers.3.self_attn.q_proj"), gguf_name("lm_head")
    ('blk.3.attn_q', 'output')
    """
    leaf = module.rpartition(".")[2]
    if leaf in ("embed_tokens", "wte"):
        return "token_embd"
    if leaf in ("lm_head", "norm", "ln_f") and module.count(".") <= 1:
        return "output" if leaf == "lm_head" else "output_norm"
    match = _BLOCK.match(module)
    inner = _LLAMA_CPP.get(match[2]) if match else None
    return f"blk.{match[1]}.{inner}" if match and inner else None


def torchtune_name(module: str) -> str | None:
    if module == "lm_head":
        return "output"
    match = _BLOCK.match(module)
    inner = _TORCHTUNE.get(match[2]) if match else None
    return f"layers.{match[1]}.{inner}" if match and inner else None
