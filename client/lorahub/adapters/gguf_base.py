"""The model that a GGUF file stands for: the weights' names and shapes on a hub, from the file's own header.

Which weight a tensor is, is said by a table made from llama.cpp's and from transformers' classes
(`names/gguf_names.json`, tools/gguf_names.py). What it has no name for keeps the one it has.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from typing import Any

from lorahub.adapters.base_tensor import BaseTensor
from lorahub.adapters.gguf_file import GgufValue
from lorahub.adapters.limits import LIMITS
from lorahub.errors import InvalidBaseModel

METHOD = "gguf"
"""As `quant_method` of a configuration."""

_NUMBER = re.compile(r"(?<=blk\.)(\d+)(?=\.)")
_OWN_NAMES = re.compile(r"(?:\w+\.)?blk\.\d+\.|(?:token_embd|output|output_norm)\.(?:weight|bias)$")
_NO_WEIGHTS = ("rope_freqs.", "rope_factors_long.", "rope_factors_short.")
_SETTINGS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "expert_count": "num_experts",
}
"""`<architecture>.…` of a GGUF file -> config.json (transformers `GGUF_CONFIG_MAPPING`)."""


@dataclass(frozen=True, slots=True)
class GgufNames:
    """How one class of models is called. `{}` stands for the layer, `{expert}` for the expert.

    `joined` are two tensors of a file that are one weight, `turned` weights that are written the other way round,
    `ones` those with a dimension of 1 that a file leaves out, and where it is.
    """

    model_type: str
    owner: str
    names: Mapping[str, str]
    joined: Mapping[str, list[str]] = field(default_factory=dict)
    turned: frozenset[str] = frozenset()
    ones: Mapping[str, int] = field(default_factory=dict)

    def name_of(self, tensor: str) -> str | None:
        """The name of a tensor without its layer's number. A bias may stand beside any weight."""
        plain, _, parameter = tensor.rpartition(".")
        if tensor in self.names:
            return self.names[tensor]
        if parameter == "weight" and plain in self.names:
            return self.names[plain]
        weight = self.names.get(f"{plain}.weight") if parameter == "bias" else None
        return f"{weight.removesuffix('.weight')}.bias" if weight and weight.endswith(".weight") else None


@cache
def known_names() -> Mapping[str, list[GgufNames]]:
    """By llama.cpp's name of an architecture, the likeliest first."""
    raw = json.loads(files("lorahub.adapters.names").joinpath("gguf_names.json").read_text("utf-8"))
    return {name: [_names(one) for one in variants] for name, variants in raw["architectures"].items()}


def _names(raw: Mapping[str, Any]) -> GgufNames:
    turned = frozenset(raw.get("turned", ()))
    return GgufNames(raw["model_type"], raw["class"], raw["names"], raw.get("joined", {}), turned, raw.get("ones", {}))


def standing_for(
    metadata: Mapping[str, GgufValue], stored: Mapping[str, BaseTensor]
) -> tuple[dict[str, BaseTensor], dict[str, Any]]:
    """(the model's tensors, what its config.json would say). Raises `InvalidBaseModel` where they are too many."""
    architecture = str(metadata.get("general.architecture"))
    here = {name: tensor for name, tensor in stored.items() if not name.startswith(_NO_WEIGHTS)}
    plain = {_NUMBER.sub("{}", name) for name in here}
    variants = known_names().get(architecture, [])
    names = max(variants, key=lambda one: sum(_is_known(one, name) for name in plain), default=None)
    config = _configuration(metadata, architecture, here)
    if names is None:
        return here, config
    config |= {"model_type": names.model_type, "architectures": [names.owner]}
    weights = dict(islice(_weights(here, names), LIMITS.base_tensors + 1))  # a stack is as high as its header says
    if len(weights) > LIMITS.base_tensors:
        raise InvalidBaseModel(f"the file stands for more than {LIMITS.base_tensors} tensors; no more are taken")
    return weights, config


def is_unnamed(name: str) -> bool:
    """Whether a tensor still has the name of a GGUF file, since nothing says which weight it is."""
    return _OWN_NAMES.match(name) is not None


def _is_known(names: GgufNames, tensor: str) -> bool:
    return names.name_of(tensor) is not None or any(tensor in parts for parts in names.joined.values())


def _weights(stored: Mapping[str, BaseTensor], names: GgufNames) -> Iterator[tuple[str, BaseTensor]]:
    for name, tensor in stored.items():
        number = _NUMBER.search(name)
        layer, plain = (number[1] if number else ""), _NUMBER.sub("{}", name)
        joined = next(((ours, parts) for ours, parts in names.joined.items() if plain in parts), None)
        known = names.name_of(plain)
        if joined is not None:
            ours, parts = joined
            pieces = [stored.get(part.replace("{}", layer)) for part in parts]
            there = [piece for piece in pieces if piece is not None]
            if len(there) < len(parts) or not _go_together(there, name):
                yield name, tensor
            elif plain == parts[0]:
                yield ours.replace("{}", layer), _as_stored(_joined(there, name), ours, names)
        elif known is None or ("{expert}" in known and not tensor.shape):
            yield name, tensor
        elif "{expert}" in known:
            yield from _experts(known.replace("{}", layer), tensor)
        else:
            yield known.replace("{}", layer), _as_stored(tensor, known, names)


def _as_stored(tensor: BaseTensor, known: str, names: GgufNames) -> BaseTensor:
    """In the shape that the model's class has it in."""
    shape = tensor.shape
    if known in names.turned and len(shape) > 1:
        return replace(tensor, shape=(*shape[:-2], shape[-1], shape[-2]))
    place = names.ones.get(known)
    if place is not None and place <= len(shape) and (place == len(shape) or shape[place] != 1):
        return replace(tensor, shape=(*shape[:place], 1, *shape[place:]))
    return tensor


def _outputs(piece: BaseTensor, name: str) -> int:
    """Which of its dimensions are a weight's outputs, or a bias's; less than 0 where it has too few."""
    return len(piece.shape) - (2 if name.endswith(".weight") else 1)


def _go_together(pieces: list[BaseTensor], name: str) -> bool:
    """Whether they differ in the number of their outputs at most."""
    axis = _outputs(pieces[0], name)
    return axis >= 0 and len({(*one.shape[:axis], *one.shape[axis + 1 :]) for one in pieces}) == 1


def _joined(pieces: list[BaseTensor], name: str) -> BaseTensor:
    """Gate and up as one, behind each other along the outputs."""
    first, axis = pieces[0], _outputs(pieces[0], name)
    total = sum(piece.shape[axis] for piece in pieces)
    return BaseTensor(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]), digest_of(pieces))


def _experts(name: str, tensor: BaseTensor) -> Iterator[tuple[str, BaseTensor]]:
    """A file stacks what a hub has one by one."""
    for expert in range(tensor.shape[0]):
        own = None if tensor.sha256 is None else sha256(f"{tensor.sha256}[{expert}]".encode()).hexdigest()
        yield name.replace("{expert}", str(expert)), BaseTensor(tensor.dtype, tensor.shape[1:], own)


def digest_of(pieces: Iterable[BaseTensor]) -> str | None:
    """The digest of several tensors that are one weight; None where some weren't read."""
    sums = [piece.sha256 for piece in pieces]
    return sha256("\n".join(filter(None, sums)).encode()).hexdigest() if all(sums) else None


def _configuration(
    metadata: Mapping[str, GgufValue], architecture: str, stored: Mapping[str, BaseTensor]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, name in _SETTINGS.items():
        value = metadata.get(f"{architecture}.{key}")
        if isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
    embedding = stored.get("token_embd.weight")
    if embedding is not None and embedding.shape:
        found |= {
            "vocab_size": embedding.shape[0],
            "tie_word_embeddings": "output.weight" not in stored,
        }
    licence = metadata.get("general.license")
    return (
        found
        | ({"license": licence.lower()} if isinstance(licence, str) else {})
        | {"quantization_config": {"quant_method": METHOD}}
    )
