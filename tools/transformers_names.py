"""Writes client/lorahub/adapters/names/transformers.json: what each class of transformers calls its parts, and how it
renames the tensors of its checkpoints. A test compares the two. Run: make names

Every class that an Auto class names is made of its own default configuration, on the meta device.
"""

import copy
import itertools
import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    GroupWeightRename,
    Inkling2IndexOffsetWeightRename,
    WeightConverter,
    WeightRenaming,
)
from transformers.models.auto import modeling_auto

PLACE = Path(__file__).parent.parent / "client" / "lorahub" / "adapters" / "names" / "transformers.json"

_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}},
    "chameleon": {"vocabulary_map": {"<image>": 1, "<reserved08706>": 2, "IMGIMGAZ": 3}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense"] * 64}},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}},
    "emu3": {"vocabulary_map": {"<image>": 1}},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "granite4_vision": {"deepstack_layer_map": [[0, 0]]},
    "hunyuan_v1_dense": {"head_dim": 128, "rope_parameters": _ROPE},
    "hunyuan_v1_moe": {"head_dim": 128, "rope_parameters": _ROPE},
    "hunyuan_vl": {"text_config": {"head_dim": 128, "rope_parameters": _ROPE}},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen3_omni_moe": {"enable_audio_output": False},
}
"""What a default configuration lacks for its class to be made."""


Ties = dict[str, dict[str, str]]
"""Class -> what is stored under the name of another -> that other."""


def classes() -> tuple[dict[str, list[Any]], Ties, Ties]:
    """Class -> [model type, prefix of the base model, its direct parts]; output heads that are an embedding, by their
    weights; and other modules, and owners of modules, that share all their weights.
    """
    found: dict[str, list[Any]] = {}
    tied: Ties = {}
    shared: Ties = {}
    for name in sorted(_named()):
        kind = _class(name)
        if kind is None:
            continue
        model, config = _made(kind, kind.config_class), kind.config_class
        if model is not None:
            _describe(model, found, tied, shared)
        elif name not in found:
            found[name] = [config.model_type, kind.base_model_prefix, _usual_parts(name, kind)]
            tied[name] = _tied(kind)
    return dict(sorted(found.items())), _filled(tied), _filled(shared)


def _filled(table: Ties) -> Ties:
    return {name: pairs for name, pairs in sorted(table.items()) if pairs}


def _named() -> set[str]:
    names: set[str] = set()
    for table in vars(modeling_auto):
        if table.startswith("MODEL_") and table.endswith("_NAMES"):
            for one in getattr(modeling_auto, table).values():
                names |= {one} if isinstance(one, str) else set(one)
    return names


def _class(name: str) -> type[PreTrainedModel] | None:
    kind: Any = getattr(transformers, name, None)
    try:
        return kind if kind.config_class is not None and issubclass(kind, PreTrainedModel) else None
    except (AttributeError, ImportError):
        return None  # named by an Auto class only, or in need of a library that isn't here


def _made(kind: type[PreTrainedModel], config: type[PretrainedConfig]) -> PreTrainedModel | None:
    try:
        with torch.device("meta"):
            return kind(config(**copy.deepcopy(dict(_SETTINGS.get(config.model_type, {})))))
    except (
        StrictDataclassError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return None  # a configuration without defaults, or a library that isn't here


def _usual_parts(name: str, kind: type[PreTrainedModel]) -> dict[str, str]:
    """Of a class that can't be made: the base model, under its prefix."""
    base = modeling_auto.MODEL_MAPPING_NAMES.get(kind.config_class.model_type)
    base = base if isinstance(base, str) else None
    return {kind.base_model_prefix: base} if base and base != name and kind.base_model_prefix else {}


def _tied(kind: type[PreTrainedModel]) -> dict[str, str]:
    """The output heads that may be an embedding, which is then stored under its own name alone."""
    keys = kind._tied_weights_keys if isinstance(kind._tied_weights_keys, dict) else {}
    plain = {
        head: weight for head, weight in keys.items() if re.fullmatch(r"[\w.]+\.weight,[\w.]+", f"{head},{weight}")
    }
    return {head: weight for head, weight in plain.items() if not _is_embedding(head) and _is_embedding(weight)}


def _shared(model: PreTrainedModel) -> dict[str, str]:
    """The rest of what is tied, by the first names that all of it has in common."""
    model.config.tie_word_embeddings = True
    heads, rests = _tied(type(model)), dict[tuple[str, str], list[list[str]]]()
    for name, other in model.get_expanded_tied_weights_keys().items():
        if name not in heads and not name.endswith("bias"):
            own, its, rest = name.split("."), other.split("."), list[str]()
            while len(own) > 1 and len(its) > 1 and own[-1] == its[-1]:
                rest.insert(0, own.pop())
                its.pop()
            rests.setdefault((".".join(own), ".".join(its)), []).append(rest[:-1])
    return {
        ".".join([own, *common]): ".".join([its, *common])
        for (own, its), found in rests.items()
        for common in [_common(found)]
    }


def _common(names: Sequence[Sequence[str]]) -> list[str]:
    """What all begin with."""
    return [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))]


def _is_embedding(weight: str) -> bool:
    return re.fullmatch(r"embed_\w+|\w+_embed|\w*embeddings?|shared|wte", _leaf(weight)) is not None


def _leaf(name: str) -> str:
    """The last part of the name of a weight's module."""
    return name.removesuffix(".weight").rpartition(".")[2]


def _describe(model: PreTrainedModel, found: dict[str, list[Any]], tied: Ties, shared: Ties) -> None:
    if type(model).__name__ in found:
        return
    parts = dict(_direct_parts(model))
    found[type(model).__name__] = [
        model.config.model_type,
        model.base_model_prefix,
        {path: _part(part, model.config) for path, part in parts.items()},
    ]
    tied[type(model).__name__] = _tied(type(model))
    shared[type(model).__name__] = _shared(model)
    for part in parts.values():
        _describe(part, found, tied, shared)


def _direct_parts(module: torch.nn.Module, path: str = "") -> Iterator[tuple[str, PreTrainedModel]]:
    """The models inside, but not those inside of these. Of a list of equal parts, the first."""
    for name, child in module.named_children():
        if isinstance(child, PreTrainedModel):
            yield path + name, child
        elif not (name.isdecimal() and int(name) > 0):
            yield from _direct_parts(child, f"{path}{name}.")


def _part(part: PreTrainedModel, config: PretrainedConfig) -> str | list[str]:
    """The part's class, and which part of the configuration it was made of."""
    for key in config.sub_configs:
        if getattr(config, key, None) is part.config:
            return [type(part).__name__, key]
    return type(part).__name__


def transforms(names: Iterable[str]) -> dict[str, dict[str, list[list[Any]]]]:
    """Class or model type -> its renames, and how it splits and joins layers, in their order.

    Experts are gathered by rules of their own. A class that renames nothing is here too: it hides its model type.
    """
    found = {}
    for name in sorted(names):
        made = get_checkpoint_conversion_mapping(name)
        if made is not None:
            found[name] = {
                "renames": [_rename(one) for one in made if _is_rename(one)],
                "layers": [_layers(one) for one in made if _is_of_layers(one)],
            }
    return found


def _is_rename(transform: Any) -> bool:
    """An index that is counted from another start isn't written down: no module has one."""
    return isinstance(transform, WeightRenaming) and not isinstance(transform, Inkling2IndexOffsetWeightRename)


def _rename(one: WeightRenaming) -> list[Any]:
    """An expression, and what each of its branches becomes, or all of them."""
    targets = one.target_patterns if isinstance(one, GroupWeightRename) else one.target_patterns[:1]
    return [one.compiled_sources.pattern, *targets]


def _is_of_layers(transform: Any) -> bool:
    patterns = [*transform.source_patterns, *transform.target_patterns]
    return isinstance(transform, WeightConverter) and not any("experts" in pattern for pattern in patterns)


def _layers(one: WeightConverter) -> list[Any]:
    """`split` into equal parts or `join` along the outputs, or `other`; an expression, and what its branches become."""
    kind = {Chunk: "split", Concatenate: "join"}.get(type(one.operations[0]), "other")
    plain = len(one.operations) == 1 and getattr(one.operations[0], "dim", None) == 0
    return [kind if plain else "other", one.compiled_sources.pattern, *one.target_patterns]


def defaults() -> dict[str, str]:
    """Model type -> AutoModel's class."""
    return {
        kind: one if isinstance(one, str) else one[0] for kind, one in sorted(modeling_auto.MODEL_MAPPING_NAMES.items())
    }


@contextmanager
def _without_timm() -> Iterator[None]:
    """Vision towers of timm's are left empty: it isn't here, and transformers renames nothing in them."""
    made = transformers.AutoModel.from_config

    def from_config(config: PretrainedConfig, **settings: Any) -> Any:
        try:
            return made(config, **settings)
        except ImportError:
            return torch.nn.Identity()

    with mock.patch.object(transformers.AutoModel, "from_config", from_config):
        yield


@contextmanager
def _silence() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(action="ignore"):
        yield
    logging.disable(logging.NOTSET)


def document() -> str:
    with _silence(), _without_timm():
        found, tied, shared = classes()
    names = {"legacy", *found, *(kind for kind, _, _ in found.values())}
    return _written(
        {"classes": found, "tied": tied, "shared": shared, "defaults": defaults(), "transforms": transforms(names)}
    )


def _written(tables: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f'"made_from": "transformers {transformers.__version__}"']
    for name, table in tables.items():
        rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in table.items())
        lines.append(f'"{name}": {{\n{rows}\n}}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    PLACE.write_text(document())
