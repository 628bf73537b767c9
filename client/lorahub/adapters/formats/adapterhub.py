"""AdapterHub's `adapters` library: bottleneck adapters (Houlsby, Pfeiffer), LoRA, IA3 and prefixes, in safetensors.

The adapter's own name stands inside every tensor's name; it is taken out. A bottleneck is a pair of layers of its own
between the base's: it can't be merged.
"""

from collections.abc import Mapping
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim, Part, PartKind, Update
from lorahub.adapters.findings import Evidence
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.reading import Reading, Tensors
from lorahub.adapters.safetensors_header import TensorEntry

_FLAT_ENDINGS = (".bias", ".lora_B", ".gating", "prefix_gates")


def is_adapterhub(opened: Opened) -> bool:
    config = {} if opened.config is None else opened.config.raw
    return isinstance(config.get("config"), dict) and "hidden_size" in config and "model_type" in config


def read_adapterhub(opened: Opened) -> Adapter:
    assert opened.config is not None  # it was recognised by it
    reading, config = Reading(), opened.config.raw
    inner: dict[str, Any] = config["config"]
    loras: dict[str, dict[str, TensorEntry]] = {}
    bottlenecks: dict[str, dict[str, TensorEntry]] = {}
    for entry in methods.check_entries(opened.entries, reading, allow_flat=lambda name: name.endswith(_FLAT_ENDINGS)):
        _sort(entry, reading, loras, bottlenecks)
    for module, tensors in loras.items():
        _lora(module, tensors, reading, inner)
    for module, tensors in bottlenecks.items():
        part = methods.bottleneck(module, tensors, reading)
        if part is not None:
            reading.parts.append(part)
    _check_width(config, reading)
    reading.close()
    architecture = inner.get("architecture")
    method = architecture if isinstance(architecture, str) else "bottleneck" if bottlenecks else "lora"
    base = config.get("model_name")
    return Adapter(
        format="adapterhub",
        method=method,
        updates=tuple(reading.updates),
        parts=tuple(reading.parts),
        claim=BaseClaim(base if isinstance(base, str) else None),
        findings=tuple(reading.findings),
        weights_file=opened.path,
        dtypes=methods.count_elements(opened.entries),
    )


def _sort(
    entry: TensorEntry,
    reading: Reading,
    loras: dict[str, dict[str, TensorEntry]],
    bottlenecks: dict[str, dict[str, TensorEntry]],
) -> None:
    parts = entry.name.split(".")
    if "loras" in parts:
        place = parts.index("loras")
        loras.setdefault(".".join(parts[:place]), {})[parts[-1]] = entry
    elif "adapters" in parts and ("adapter_down" in parts or "adapter_up" in parts):
        place = parts.index("adapters")
        role = "down" if "adapter_down" in parts else "up"
        key = f"{role}_bias" if parts[-1] == "bias" else role
        bottlenecks.setdefault(".".join(parts[:place]), {})[key] = entry
    elif "prefix_tunings" in parts or "prefix_tuning" in parts:
        reading.parts.append(Part(PartKind.PREFIX, "", {"embeddings": entry}, (None, None), entry.name))
    elif "refts" in parts or "invertible_adapters" in parts:
        reading.parts.append(Part(PartKind.BOTTLENECK, ".".join(parts[:-1]), {parts[-1]: entry}, (None, None)))
    else:
        reading.unknown.append(entry)


def _lora(module: str, tensors: Tensors, reading: Reading, config: Mapping[str, Any]) -> None:
    """`lora_A` (rank, in), `lora_B` (out, rank); IA3 keeps its vector in `lora_B` (out, 1) and has no `lora_A`."""
    if config.get("composition_mode") == "scale" and "lora_B" in tensors:
        size = methods.elements(tensors["lora_B"])
        reading.updates.append(Update(module, "ia3", {"factor": tensors["lora_B"]}, (size, None)))
        return
    roles = {{"lora_A": "down", "lora_B": "up"}.get(role, role): entry for role, entry in tensors.items()}
    alpha = config.get("alpha")

    def scale(rank: int) -> float:
        return float(alpha) / rank if isinstance(alpha, int | float) else 1.0

    update = methods.low_rank(module, roles, reading, scale=scale)
    if update is not None:
        reading.updates.append(update)


def _check_width(config: Mapping[str, Any], reading: Reading) -> None:
    width = config.get("hidden_size")
    wrong = [
        Evidence(part.module, str(part.shape), f"width {width}")
        for part in reading.parts
        if part.kind is PartKind.BOTTLENECK and any(size not in (None, width) for size in part.shape)
    ]
    if wrong:
        reading.add("LH212", f"hidden_size is {width}, {len(wrong)} modules have another width", wrong)
