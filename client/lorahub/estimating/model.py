"""A model as its parameters' shapes: which are linear layers, which hold queries and values, which are biases."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from lorahub.adapters.base_model import BaseLayout
from lorahub.errors import InvalidUsage
from lorahub.estimating.known import ALIASES, KNOWN
from lorahub.estimating.layouts import Shape, layout_of

_FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj")
ROLES: Mapping[str, Sequence[str]] = {
    "q": ("q_proj", "query", "query_proj", "q_lin", *_FUSED),
    "k": ("k_proj", "key", "key_proj", "k_lin", *_FUSED),
    "v": ("v_proj", "value", "value_proj", "v_lin", *_FUSED),
    "o": ("o_proj", "out_proj", "attn.c_proj", "attention.output.dense", "attention.dense", "out_lin"),
    "down": ("down_proj", "mlp.c_proj", "output.dense", "fc2", "dense_4h_to_h", "w2"),
}
"""What the projections are called across models; a matrix that holds several has one update for all of them."""

_NOT_LINEAR = re.compile(r"embed|(^|\.)(wte|wpe|lm_head|embed_out|score|classifier)\.")
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.masked_bias|position_ids|attn\.bias)$")
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks)\.(\d+)\.")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_WRITTEN_IN_OUT = ("gpt2", "openai-gpt")  # their Conv1D is a linear layer the other way round


@dataclass(frozen=True)
class ModelShape:
    """`tensors` by name, each parameter once; `config` is its language model's config.json."""

    name: str
    tensors: Mapping[str, Shape]
    config: Mapping[str, Any]

    @cached_property
    def parameters(self) -> int:
        return sum(map(prod, self.tensors.values()))

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every linear layer, without embeddings and the head."""
        flip = self.config.get("model_type") in _WRITTEN_IN_OUT
        found = {}
        for name, shape in self.tensors.items():
            if len(shape) == 2 and name.endswith(".weight") and not _NOT_LINEAR.search(name):
                found[name.removesuffix(".weight")] = (shape[1], shape[0]) if flip else (shape[0], shape[1])
        return found

    @cached_property
    def biases(self) -> int:
        """Entries of all biases, those of norms too."""
        return sum(prod(shape) for name, shape in self.tensors.items() if name.endswith(".bias"))

    @cached_property
    def layers(self) -> int:
        """Raises `InvalidUsage` where none can be told."""
        numbers = {int(found[1]) for name in self.linears if (found := _LAYER.search(name))}
        if not numbers:
            raise InvalidUsage(
                f"{self.name} has no numbered layers", hint="only full, bitfit and lora can be told of it"
            )
        return len(numbers)

    @property
    def width(self) -> int:
        """The width of a hidden state. Raises `InvalidUsage` where config.json doesn't say it."""
        for name in _WIDTHS:
            if isinstance(value := self.config.get(name), int):
                return value
        raise InvalidUsage(f"the config.json of {self.name} doesn't say how wide it is", hint=f"one of {_WIDTHS}")

    @property
    def key_width(self) -> int:
        """The width of one token's keys in one layer: all heads that have keys of their own."""
        heads = self.config.get("num_attention_heads", self.config.get("n_head"))
        keys = self.config.get("num_key_value_heads") or heads
        if not isinstance(heads, int) or not isinstance(keys, int) or heads < 1:
            return self.width
        head = self.config.get("head_dim")
        return keys * (head if isinstance(head, int) else self.width // heads)

    def targeted(self, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(out, in) of the linear layers that `targets` name: roles as `q`, names as PEFT takes them, `all-linear`.

        Raises `InvalidUsage` for one that names none.
        """
        found: dict[str, tuple[int, int]] = {}
        for target in targets:
            chosen = {name: shape for name, shape in self.linears.items() if _is_named(name, target)}
            if not chosen:
                raise InvalidUsage(
                    f"no linear layer of {self.name} is called {target[:60]!r}",
                    hint=f"there are: all-linear, {', '.join(self._leaves())}; roles: {', '.join(ROLES)}",
                )
            found |= chosen
        return found

    def _leaves(self) -> list[str]:
        return sorted({name.rpartition(".")[2] for name in self.linears})[:12]


def _is_named(name: str, target: str) -> bool:
    endings = ROLES.get(target, (target,))
    return target == "all-linear" or any(name == ending or name.endswith(f".{ending}") for ending in endings)


# --- where from -------------------------------------------------------------------------------------------------------


def known_model(name: str) -> ModelShape | None:
    """By the names of `known.py`."""
    config = KNOWN.get(ALIASES.get(name.lower(), name.lower()))
    return None if config is None else ModelShape(name, layout_of(config), config)


def model_of_config(name: str, config: Mapping[str, Any]) -> ModelShape:
    """From a config.json alone. Raises `InvalidBaseModel`."""
    inner = config.get("text_config")
    own = inner if isinstance(inner, dict) else config
    return ModelShape(name, layout_of(own), own)


def model_of_base(name: str, base: BaseLayout) -> ModelShape:
    """From the tensors of a base; where they aren't understood, from its config.json. Raises `InvalidBaseModel`."""
    if base.unknown:
        return model_of_config(name, base.config)
    return ModelShape(name, dict(_parameters(base)), base.text_config)


def _parameters(base: BaseLayout) -> Iterator[tuple[str, Shape]]:
    """Without masks and frequencies that older files keep beside them, and without the copy of a tied head."""
    is_tied = bool(base.text_config.get("tie_word_embeddings", base.model_type == "gpt2"))
    for name, tensor in base.tensors.items():
        is_buffer = _BUFFERS.search(name) and not (name.endswith("attn.bias") and len(tensor.shape) == 1)
        if not is_buffer and not (is_tied and name.endswith("lm_head.weight")):
            yield name, tensor.shape
