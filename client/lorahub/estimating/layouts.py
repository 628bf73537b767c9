"""From a config.json to the shape of every parameter, named as transformers names them; a tied head counts once."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lorahub.errors import InvalidBaseModel

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]


def layout_of(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Raises `InvalidBaseModel` for a kind of model that isn't known here, or without its sizes."""
    kind = str(config.get("model_type"))
    if kind not in LAYOUTS:
        raise InvalidBaseModel(
            f"the parameters of a {kind[:60]} are not told by its config.json alone",
            hint=f"name a folder or a repository with its weights; without them, known are: {', '.join(LAYOUTS)}",
        )
    try:
        return dict(LAYOUTS[kind](_Sizes(config)))
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InvalidBaseModel(f"config.json doesn't say {error}", hint="name the config.json of a model") from None


class _Sizes:
    """Sizes by name. A missing one is a `KeyError`, whatever isn't a positive number a `TypeError`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def __call__(self, name: str, default: int | None = None) -> int:
        value = self._config.get(name)
        value = default if value is None else value
        if value is None:
            raise KeyError(name)
        if type(value) is not int or not 0 < value < 1 << 32:
            raise TypeError(f"a usable {name}: it is {str(value)[:40]!r}")
        return value

    def says(self, name: str, *, default: bool) -> bool:
        value = self._config.get(name)
        return default if value is None else bool(value)


def _linear(name: str, out: int, width: int, *, bias: bool) -> Named:
    yield f"{name}.weight", (out, width)
    if bias:
        yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Named:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _gpt2(sizes: _Sizes) -> Named:
    """Its linear layers are written (in, out)."""
    width = sizes("n_embd")
    inner = sizes("n_inner", 4 * width)
    yield "wte.weight", (sizes("vocab_size"), width)
    yield "wpe.weight", (sizes("n_positions"), width)
    for layer in range(sizes("n_layer")):
        at = f"h.{layer}"
        yield from _norm(f"{at}.ln_1", width)
        for name, rows, columns in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            yield f"{at}.{name}.weight", (rows, columns)
            yield f"{at}.{name}.bias", (columns,)
        yield from _norm(f"{at}.ln_2", width)
    yield from _norm("ln_f", width)


def _gpt3(sizes: _Sizes) -> Named:
    """GPT-2's blocks, with queries, keys and values in a matrix each: each has an update of its own in the paper."""
    width = sizes("n_embd")
    yield "wte.weight", (sizes("vocab_size"), width)
    yield "wpe.weight", (sizes("n_positions"), width)
    for layer in range(sizes("n_layer")):
        at = f"layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{at}.self_attn.{name}", width, width, bias=True)
        yield from _linear(f"{at}.fc1", 4 * width, width, bias=True)
        yield from _linear(f"{at}.fc2", width, 4 * width, bias=True)
        yield from _norm(f"{at}.self_attn_layer_norm", width)
        yield from _norm(f"{at}.final_layer_norm", width)
    yield from _norm("ln_f", width)


def _encoder_block(at: str, width: int, inner: int, names: tuple[str, str, str]) -> Named:
    for name in names:
        yield from _linear(f"{at}.attention.self.{name}", width, width, bias=True)
    yield from _linear(f"{at}.attention.output.dense", width, width, bias=True)
    yield from _norm(f"{at}.attention.output.LayerNorm", width)
    yield from _linear(f"{at}.intermediate.dense", inner, width, bias=True)
    yield from _linear(f"{at}.output.dense", width, inner, bias=True)
    yield from _norm(f"{at}.output.LayerNorm", width)


def _roberta(sizes: _Sizes) -> Named:
    """Without a pooler and without a head."""
    width = sizes("hidden_size")
    yield "embeddings.word_embeddings.weight", (sizes("vocab_size"), width)
    yield "embeddings.position_embeddings.weight", (sizes("max_position_embeddings"), width)
    yield "embeddings.token_type_embeddings.weight", (sizes("type_vocab_size", 2), width)
    yield from _norm("embeddings.LayerNorm", width)
    for layer in range(sizes("num_hidden_layers")):
        names = ("query", "key", "value")
        yield from _encoder_block(f"encoder.layer.{layer}", width, sizes("intermediate_size"), names)


def _deberta(sizes: _Sizes) -> Named:
    """DeBERTa v2 and v3, without a head."""
    width = sizes("hidden_size")
    yield "embeddings.word_embeddings.weight", (sizes("vocab_size"), width)
    if sizes.says("position_biased_input", default=True):
        yield "embeddings.position_embeddings.weight", (sizes("max_position_embeddings"), width)
    yield from _norm("embeddings.LayerNorm", width)
    for layer in range(sizes("num_hidden_layers")):
        names = ("query_proj", "key_proj", "value_proj")
        yield from _encoder_block(f"encoder.layer.{layer}", width, sizes("intermediate_size"), names)
    span = sizes("position_buckets", sizes("max_position_embeddings"))
    yield "encoder.rel_embeddings.weight", (2 * span, width)
    yield from _norm("encoder.LayerNorm", width)
    if sizes.says("conv_kernel_size", default=False):
        yield "encoder.conv.conv.weight", (width, width, sizes("conv_kernel_size"))
        yield "encoder.conv.conv.bias", (width,)
        yield from _norm("encoder.conv.LayerNorm", width)


def _llama(sizes: _Sizes) -> Named:
    """Llama, Mistral and their relatives: RMS norms, gated MLP, key heads fewer than heads."""
    width, inner, heads = sizes("hidden_size"), sizes("intermediate_size"), sizes("num_attention_heads")
    head = sizes("head_dim", width // heads)
    keys = head * sizes("num_key_value_heads", heads)
    attention, mlp = sizes.says("attention_bias", default=False), sizes.says("mlp_bias", default=False)
    queries_too = attention or sizes.says("qkv_bias", default=False)
    yield "model.embed_tokens.weight", (sizes("vocab_size"), width)
    for layer in range(sizes("num_hidden_layers")):
        at = f"model.layers.{layer}"
        yield from _linear(f"{at}.self_attn.q_proj", heads * head, width, bias=queries_too)
        yield from _linear(f"{at}.self_attn.k_proj", keys, width, bias=queries_too)
        yield from _linear(f"{at}.self_attn.v_proj", keys, width, bias=queries_too)
        yield from _linear(f"{at}.self_attn.o_proj", width, heads * head, bias=attention)
        yield from _linear(f"{at}.mlp.gate_proj", inner, width, bias=mlp)
        yield from _linear(f"{at}.mlp.up_proj", inner, width, bias=mlp)
        yield from _linear(f"{at}.mlp.down_proj", width, inner, bias=mlp)
        yield f"{at}.input_layernorm.weight", (width,)
        yield f"{at}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    if not sizes.says("tie_word_embeddings", default=False):
        yield "lm_head.weight", (sizes("vocab_size"), width)


LAYOUTS: Mapping[str, Callable[[_Sizes], Named]] = {
    "gpt2": _gpt2,
    "gpt3": _gpt3,
    "roberta": _roberta,
    "deberta-v2": _deberta,
    "llama": _llama,
    "mistral": _llama,
}
