"""State dicts without a configuration: loralib's and torchtune's.

`lorahub.scale` in the file's metadata is a number that multiplies every update.
"""

from collections.abc import Mapping

from lorahub.adapters.adapter import Adapter, BaseClaim, Naming, Part, PartKind
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.reading import Reading
from lorahub.adapters.safetensors_header import TensorEntry

_TORCHTUNE = {"lora_a.weight": "down", "lora_b.weight": "up", "magnitude": "magnitude"}
_LORALIB = {"lora_A": "down", "lora_B": "up"}


def is_torchtune(opened: Opened) -> bool:
    return any(name.endswith((".lora_a.weight", ".lora_b.weight")) for name in opened.names)


def is_loralib(opened: Opened) -> bool:
    return any(name.endswith((".lora_A", ".lora_B")) and not name.startswith("base_model.") for name in opened.names)


def read_torchtune(opened: Opened) -> Adapter:
    return _read(opened, _TORCHTUNE, "torchtune", Naming.TORCHTUNE)


def read_loralib(opened: Opened) -> Adapter:
    """`lora_A` (rank, in), `lora_B` (out, rank), no scale in the file: alpha / r of the training script."""
    return _read(opened, _LORALIB, "loralib", Naming.DOTTED)


def _read(opened: Opened, roles: Mapping[str, str], format_name: str, naming: Naming) -> Adapter:
    reading = Reading()
    groups: dict[str, dict[str, TensorEntry]] = {}
    for entry in methods.check_entries(
        opened.entries, reading, allow_flat=lambda name: not name.endswith(tuple(roles))
    ):
        found = next((ending for ending in roles if entry.name.endswith(f".{ending}")), None)
        if found:
            groups.setdefault(entry.name[: -len(found) - 1], {})[roles[found]] = entry
        elif entry.name.endswith(".bias"):
            module = entry.name.removesuffix(".bias")
            reading.parts.append(Part(PartKind.BIAS, module, {"bias": entry}, entry.shape, "bias"))
        else:
            reading.unknown.append(entry)
    scale = _scale(opened.metadata)
    for module, tensors in groups.items():
        update = methods.low_rank(module, tensors, reading, scale=lambda _: scale)
        if update is not None:
            reading.updates.append(update)
    reading.close()
    return Adapter(
        format=format_name,
        method="lora",
        updates=tuple(reading.updates),
        parts=tuple(reading.parts),
        naming=naming,
        claim=BaseClaim(opened.metadata.get("lorahub.base") or None),
        findings=tuple(reading.findings),
        weights_file=opened.path,
        dtypes=methods.count_elements(opened.entries),
    )


def _scale(metadata: Mapping[str, str]) -> float:
    try:
        return float(metadata.get("lorahub.scale", "1"))
    except ValueError:
        return 1.0
