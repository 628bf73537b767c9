"""MLX (mlx-lm): adapters.safetensors with `lora_a` (in, rank) and `lora_b` (rank, out), and a scale that multiplies as
it is: ΔW = scale · (lora_a · lora_b)ᵀ.
"""

from collections.abc import Mapping
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim, Kind, Part, PartKind, Update
from lorahub.adapters.findings import Evidence
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.reading import Reading, Tensors
from lorahub.adapters.safetensors_header import TensorEntry

_DEFAULT_SCALE = 20.0  # mlx-lm `linear_to_lora_layers`
_ROLES = {"lora_a": "a", "lora_b": "b", "m": "magnitude"}


def is_mlx(opened: Opened) -> bool:
    config = opened.config
    return config is not None and ("fine_tune_type" in config.raw or "lora_parameters" in config.raw)


def read_mlx(opened: Opened) -> Adapter:
    assert opened.config is not None  # it was recognised by it
    reading, config = Reading(), opened.config.raw
    groups: dict[str, dict[str, TensorEntry]] = {}
    for entry in methods.check_entries(opened.entries, reading, allow_flat=_may_be_flat):
        module, _, leaf = entry.name.rpartition(".")
        if leaf in _ROLES:
            groups.setdefault(module, {})[_ROLES[leaf]] = entry
        elif leaf in ("weight", "bias"):
            reading.parts.append(Part(PartKind.REPLACEMENT, module, {leaf: entry}, entry.shape, leaf))
        else:
            reading.unknown.append(entry)
    parameters = config.get("lora_parameters")
    settings = parameters if isinstance(parameters, dict) else {}
    for module, tensors in groups.items():
        _make(module, tensors, reading, settings)
    _check(reading, config, settings)
    reading.close()
    base = config.get("model")
    return Adapter(
        format="mlx",
        method="full" if config.get("fine_tune_type") == "full" else "lora",
        updates=tuple(reading.updates),
        parts=tuple(reading.parts),
        claim=BaseClaim(base if isinstance(base, str) else None),
        findings=tuple(reading.findings),
        weights_file=opened.path,
        dtypes=methods.count_elements(opened.entries),
    )


def _may_be_flat(name: str) -> bool:
    return name.rpartition(".")[2] in ("m", "weight", "bias")


def _make(module: str, tensors: Tensors, reading: Reading, settings: Mapping[str, Any]) -> None:
    if not methods.require(tensors, module, ("a", "b"), reading):
        return
    a, b = tensors["a"], tensors["b"]
    beside = {role: entry for role, entry in tensors.items() if role not in ("a", "b")}
    factors = {"down": a.turned, "up": b.turned, **beside}
    if not methods.agree({"lora_a": a.shape[-1], "lora_b": b.shape[-2]}, module, reading):
        return
    stated = settings.get("scale")
    scale = float(stated) if isinstance(stated, int | float) else _DEFAULT_SCALE
    rank = a.shape[-1]
    if module.endswith("embed_tokens"):
        reading.updates.append(Update(module, "lora", factors, (a.shape[0], b.shape[1]), rank, scale, Kind.EMBEDDING))
    elif len(a.shape) == 3:
        # experts: lora_a (experts, rank, in), lora_b (experts, out, rank)
        shape = (a.shape[0], b.shape[1], a.shape[2])
        factors = {"down": a, "up": b, **beside}
        reading.updates.append(Update(module, "lora", factors, shape, a.shape[1], scale))
    else:
        reading.updates.append(Update(module, "lora", factors, (b.shape[1], a.shape[0]), rank, scale))


def _check(reading: Reading, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    stated = settings.get("rank")
    wrong = [
        Evidence(update.module, str(update.rank), str(stated))
        for update in reading.updates
        if isinstance(stated, int) and update.rank != stated
    ]
    if wrong:
        reading.add("LH203", f"{len(wrong)} modules have another rank than lora_parameters says: {stated}", wrong)
    is_dora = any(update.is_dora for update in reading.updates)
    if is_dora != (config.get("fine_tune_type") == "dora") and reading.updates:
        what = "has" if is_dora else "has no"
        evidence = [Evidence("fine_tune_type", str(config.get("fine_tune_type")), "dora" if is_dora else "lora")]
        reading.add("LH212", f"fine_tune_type is {config.get('fine_tune_type')}, the file {what} magnitudes", evidence)
