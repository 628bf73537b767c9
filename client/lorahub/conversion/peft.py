"""PEFT's directories: written from factors, and brought into the form that every server loads right.

Normal means: `lora_alpha == r`, no rsLoRA, no patterns, one rank; vLLM, LoRAX and SGLang read no more than these two
numbers. The scale is in lora_B then, ΔW = lora_B · lora_A.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from lorahub.adapters.adapter import Adapter, Kind, Naming, Part, PartKind, Update
from lorahub.adapters.adapter_config import parse_adapter_config
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import Files, header_of, read_whole
from lorahub.adapters.formats.peft import as_saved
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.patterns import Names
from lorahub.adapters.reader import CONFIG, read_adapter
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.conversion.arrays import Array, Raw, write_json, write_safetensors
from lorahub.conversion.lora import Layer, Load, LoraAdapter, loader, refuse_special
from lorahub.errors import NotConvertible

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_METADATA = {"format": "pt"}


# --- from factors -----------------------------------------------------------------------------------------------------


def write_peft(lora: LoraAdapter, base: BaseLayout | None) -> dict[str, bytes]:
    """adapter_config.json and adapter_model.safetensors. Of a pipeline, the adapter of its only adapted part."""
    layers, transposed = _of_one_model(lora), lora.architecture == "gpt2"
    tensors: dict[str, Array | Raw] = {
        f"{_PREFIX}{layer.module}.{name}": array for layer in layers for name, array in factors(layer)
    }
    config = {
        "base_model_name_or_path": lora.base_name,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": lora.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "revision": None,
        "task_type": None,
        **lora_settings(layers, targets=_targets([layer.module for layer in layers], base)),
    }
    return {CONFIG: write_json(dict(sorted(config.items()))), WEIGHTS: write_safetensors(tensors, _METADATA)}


def factors(layer: Layer) -> Iterator[tuple[str, Array]]:
    """(ending of the name, tensor), as PEFT and diffusers have them."""
    ending = ("lora_embedding_A", "lora_embedding_B") if layer.is_embedding else ("lora_A.weight", "lora_B.weight")
    yield ending[0], layer.down
    yield ending[1], layer.up
    if layer.up_bias is not None:
        yield "lora_B.bias", layer.up_bias
    if layer.magnitude is not None:
        inner = (1,) * (len(layer.down.shape) - 2)
        yield "lora_magnitude_vector", layer.magnitude.reshaped(1, -1, *inner) if inner else layer.magnitude


def lora_settings(layers: Iterable[Layer], *, targets: list[str]) -> dict[str, Any]:
    """What LoraConfig says of ranks and scales, alpha = scale · rank: the commonest as default, others by pattern."""
    layers = list(layers)
    ranks = {layer.module: layer.rank for layer in layers}
    alphas = {layer.module: layer.alpha for layer in layers}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    return {
        "alpha_pattern": _pattern(alphas, alpha),
        "lora_alpha": alpha,
        "lora_bias": any(layer.up_bias is not None for layer in layers),
        "r": rank,
        "rank_pattern": _pattern(ranks, rank),
        "target_modules": targets,
        "use_dora": any(layer.magnitude is not None for layer in layers),
        "use_rslora": False,
    }


def _commonest(values: Iterable[Any]) -> Any:
    counted = Counter(values)
    return min(counted, key=lambda value: (-counted[value], value))


def _pattern(values: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Modules with another value than the default. A key serves every module that ends in it, the first that fits
    wins: so longer names stand first, and a module that would fall under another's key has one of its own.
    """
    keys = [module for module, value in values.items() if value != default]
    shadowing = Names(keys)
    shadowed = [module for module in values if values[module] == default and shadowing.match(module)]
    return {module: values[module] for module in sorted([*keys, *shadowed], key=lambda name: (-len(name), name))}


def _targets(modules: list[str], base: BaseLayout | None) -> list[str]:
    """The last names (q_proj, to_out.0) where nothing else in the base ends so; without a base, the full names."""
    endings = tuple(sorted({_ending(module) for module in modules}))
    if base is not None:
        every = {".".join(parts[:count]) for parts in map(_parts, base.tensors) for count in range(1, len(parts))}
        if sum(f".{module}".endswith(tuple(f".{ending}" for ending in endings)) for module in every) == len(modules):
            return list(endings)
    return sorted(modules)


def _parts(name: str) -> list[str]:
    return name.split(".")


def _ending(module: str) -> str:
    """The last name; a number is none of its own."""
    parts = _parts(module)
    count = next((count for count, part in enumerate(reversed(parts), 1) if not part.isdecimal()), len(parts))
    return ".".join(parts[-count:])


def _of_one_model(lora: LoraAdapter) -> tuple[Layer, ...]:
    if not lora.of_pipeline:
        return lora.layers
    heads = {layer.module.partition(".")[0] for layer in lora.layers}
    if len(heads) > 1:
        raise NotConvertible(
            f"the adapter has parts for {', '.join(sorted(heads))}; a PEFT directory is for one model",
            hint="convert to diffusers, whose files are for a pipeline",
        )
    return tuple(replace(layer, module=layer.module.partition(".")[2]) for layer in lora.layers)


# --- the normal form --------------------------------------------------------------------------------------------------


def normalize(files: Files, base: BaseLayout | None) -> dict[str, bytes]:
    """A PEFT adapter with its scales in lora_B and one rank; all else stays. Copies of the base's weights go."""
    adapter = read_adapter(files)
    changed, dropped = normal_tensors(adapter, base, loader(files, adapter))
    raw = dict(parse_adapter_config(read_whole(files, CONFIG, limit=LIMITS.config_bytes) or b"").raw)
    rank, content = _most_rank(adapter), _content(files, adapter)
    tensors: dict[str, Array | Raw] = {
        as_saved(entry.name): changed.get(entry.name) or content(entry)
        for entry in header_of(files, adapter.weights_file or WEIGHTS).tensors
        if entry.name not in dropped
    }
    if not any(part.kind is PartKind.BIAS for part in adapter.parts):
        raw["bias"] = "none"  # which servers go by, whether there are any or not
    raw |= {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    return {CONFIG: write_json(raw), WEIGHTS: write_safetensors(tensors, _METADATA)}


def normal_tensors(adapter: Adapter, base: BaseLayout | None, load: Load) -> tuple[dict[str, Array], set[str]]:
    """Those that become others, by name, and the names of those that go. Raises `NotConvertible`."""
    if adapter.method != "lora":
        raise NotConvertible(f"the method is {adapter.method}; only LoRA has a normal form", hint="use it as it is")
    refuse_special(adapter)
    rank = _most_rank(adapter)
    changed = {entry.name: array for update in adapter.updates for entry, array in _normal(update, rank, load)}
    return changed, set(_base_copies(adapter, base))


def _most_rank(adapter: Adapter) -> int:
    return max(update.rank or 0 for update in adapter.updates)


def _normal(update: Update, rank: int, load: Load) -> Iterator[tuple[TensorEntry, Array]]:
    """The scale multiplies lora_B and its bias, which PEFT scales too; zeros fill both factors up to the rank."""
    down, up = load(update.tensors["down"]), load(update.tensors["up"]).times(update.scale)
    if len(update.shape) == 3 and update.kind is Kind.LINEAR:
        down, up = _wider_experts(down, up, update, rank)
    else:
        down, up = down.padded(0, rank), up.padded(1, rank)
    yield update.tensors["down"], down
    yield update.tensors["up"], up
    if "up_bias" in update.tensors:
        yield update.tensors["up_bias"], load(update.tensors["up_bias"]).times(update.scale)


def _wider_experts(down: Array, up: Array, update: Update, rank: int) -> tuple[Array, Array]:
    """`down` is (experts · r, in), expert by expert; `up` (out, r · experts), rank by rank (PEFT `ParamWrapper`)."""
    experts, own = update.shape[0] or 1, update.rank or rank
    wide = down.reshaped(experts, own, -1).padded(1, rank).reshaped(experts * rank, -1)
    return wide, up.reshaped(-1, own, experts).padded(1, rank).reshaped(-1, rank * experts)


def _content(files: Files, adapter: Adapter) -> Any:
    path = adapter.weights_file or WEIGHTS
    start = header_of(files, path).data_start
    return lambda entry: Raw(entry.dtype, entry.shape, files.read(path, start + entry.start, start + entry.stop))


def _base_copies(adapter: Adapter, base: BaseLayout | None) -> Iterator[str]:
    """Names of `base_layer.weight`. Raises `NotConvertible` where the base shows that it is no copy."""
    copies = [part for part in adapter.parts if part.kind is PartKind.BASE_COPY]
    names = BaseNames(base) if base is not None and copies else None
    for part in copies:
        entry = next(iter(part.tensors.values()))
        if names is not None:
            _compare(part, entry, names)
        yield entry.name


def _compare(part: Part, entry: TensorEntry, names: BaseNames) -> None:
    resolved = names.resolve([part.module], Naming.DOTTED).modules
    weight = names.find(resolved.get(part.module, part.module), ("weight",))
    if weight is not None and weight.shape != entry.shape:
        raise NotConvertible(
            f"{entry.name} is {list(entry.shape)}, the base has {list(weight.shape)}: no copy, it can't be left out",
            hint="publish the base with its resized vocabulary, or keep the adapter as it is",
        )
