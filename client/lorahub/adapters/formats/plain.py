"""State dicts without a configuration: loralib's and torchtune's.

`lorahub.scale` in the file's metadata is a number that multiplies every update.
"""

from collections.abc import Iterable, Mapping

from lorahub.adapters.adapter import Adapter, BaseClaim, Naming, Part, PartKind, Update
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.reading import Reading
from lorahub.adapters.safetensors_header import TensorEntry

_TORCHTUNE = {"lora_a.weight": "down", "lora_b.weight": "up", "magnitude": "magnitude"}
_LORALIB = {"lora_A": "down", "lora_B": "up"}


def is_torchtune(names: Iterable[str]) -> bool:
    return any(name.endswith((".lora_a.weight", ".lora_b.weight")) for name in names)


def is_loralib(names: Iterable[str]) -> bool:
    return any(name.endswith((".lora_A", ".lora_B")) and not name.startswith("base_model.") for name in names)


def read_torchtune(entries: Iterable[TensorEntry], metadata: Mapping[str, str], *, weights_file: str) -> Adapter:
    return _read(entries, metadata, _TORCHTUNE, "torchtune", Naming.TORCHTUNE, weights_file)


def read_loralib(entries: Iterable[TensorEntry], metadata: Mapping[str, str], *, weights_file: str) -> Adapter:
    """`lora_A` (rank, in), `lora_B` (out, rank), no scale in the file: alpha / r of the training script."""
    return _read(entries, metadata, _LORALIB, "loralib", Naming.DOTTED, weights_file)


def _read(
    entries: Iterable[TensorEntry],
    metadata: Mapping[str, str],
    roles: Mapping[str, str],
    format_name: str,
    naming: Naming,
    weights_file: str,
) -> Adapter:
    reading = Reading()
    entries = list(entries)
    groups: dict[str, dict[str, TensorEntry]] = {}
    for entry in methods.check_entries(entries, reading, allow_flat=lambda name: not name.endswith(tuple(roles))):
        found = next((ending for ending in roles if entry.name.endswith(f".{ending}")), None)
        if found:
            groups.setdefault(entry.name[: -len(found) - 1], {})[roles[found]] = entry
        elif entry.name.endswith(".bias"):
            module = entry.name.removesuffix(".bias")
            reading.parts.append(Part(PartKind.BIAS, module, {"bias": entry}, entry.shape, "bias"))
        else:
            reading.unknown.append(entry)
    scale = _scale(metadata)
    for module, tensors in groups.items():
        update = methods.low_rank(module, tensors, reading, scale=lambda _: scale)
        if update is not None:
            reading.updates.append(update)
    reading.close()
    return _adapter(format_name, "lora", reading, entries, metadata, weights_file, naming)


def _scale(metadata: Mapping[str, str]) -> float:
    try:
        return float(metadata.get("lorahub.scale", "1"))
    except ValueError:
        return 1.0


def _adapter(
    format_name: str,
    method: str,
    reading: Reading,
    entries: list[TensorEntry],
    metadata: Mapping[str, str],
    weights_file: str,
    naming: Naming,
) -> Adapter:
    updates: tuple[Update, ...] = tuple(reading.updates)
    return Adapter(
        format=format_name,
        method=method,
        updates=updates,
        parts=tuple(reading.parts),
        naming=naming,
        claim=BaseClaim(metadata.get("lorahub.base") or None),
        findings=tuple(reading.findings),
        weights_file=weights_file,
        dtypes=methods.count_elements(entries),
    )
