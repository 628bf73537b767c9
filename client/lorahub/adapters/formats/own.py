"""lorahub's own form, for methods that PEFT has no word for (docs/format.md): bottlenecks, and biases alone.

adapter_config.json beside adapter_model.safetensors, as PEFT keeps adapters, with a `peft_type` of ours, which PEFT
refuses by name; or the tensors alone, with `lorahub.method` in the file's metadata.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lorahub.adapters.adapter import Adapter, BaseClaim, Part, PartKind
from lorahub.adapters.adapter_config import AdapterConfig
from lorahub.adapters.findings import Evidence
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.reading import Reading
from lorahub.adapters.safetensors_header import TensorEntry

BOTTLENECK, BITFIT = "LORAHUB_BOTTLENECK", "LORAHUB_BITFIT"
ACTIVATIONS = ("gelu", "relu", "silu")
DELTA = "delta"

_METHODS = {BOTTLENECK: "bottleneck", BITFIT: "bitfit"}
_ROLES = {"down.weight": "down", "up.weight": "up", "down.bias": "down_bias", "up.bias": "up_bias"}


@dataclass(frozen=True, slots=True)
class _Told:
    """What is said beside the tensors."""

    method: str
    claim: BaseClaim
    bias: str | None = None
    activation: str | None = None


def is_own(opened: Opened) -> bool:
    if opened.config is not None:
        return opened.config.peft_type in _METHODS
    return "lorahub.method" in opened.metadata


def read_own(opened: Opened) -> Adapter:
    told = _of_metadata(opened.metadata) if opened.config is None else _of_config(opened.config)
    return _read(opened, told)


def _of_metadata(metadata: Mapping[str, str]) -> _Told:
    claim = BaseClaim(metadata.get("lorahub.base") or None)
    return _Told(
        metadata["lorahub.method"], claim, metadata.get("lorahub.bias"), metadata.get("lorahub.activation", "gelu")
    )


def _of_config(config: AdapterConfig) -> _Told:
    bias, activation = config.raw.get("bias"), config.raw.get("activation")
    return _Told(
        _METHODS[config.peft_type or ""],
        BaseClaim(config.base_model, config.base_revision),
        bias if isinstance(bias, str) else None,
        activation if isinstance(activation, str) else None,
    )


def _read(opened: Opened, told: _Told) -> Adapter:
    reading = Reading()
    kept = methods.check_entries(opened.entries, reading, allow_flat=lambda name: name.endswith(".bias"))
    adapter = Adapter(
        format="lorahub",
        method=told.method[:60],
        claim=told.claim,
        weights_file=opened.path,
        dtypes=methods.count_elements(opened.entries),
    )
    if told.method == "bitfit":
        _biases(kept, reading, is_delta=told.bias == DELTA)
    elif told.method == "bottleneck":
        _bottlenecks(kept, reading, str(told.activation))
        if told.activation not in ACTIVATIONS:
            what = str(told.activation)[:60]
            reading.add(
                "LH306", f"the activation {what} isn't known", [Evidence("activation", what, ", ".join(ACTIVATIONS))]
            )
    else:
        reading.add("LH306", f"lorahub.method {told.method[:60]!r} isn't known")
    reading.close()
    return replace(adapter, parts=tuple(reading.parts), findings=tuple(reading.findings))


def _biases(entries: Iterable[TensorEntry], reading: Reading, *, is_delta: bool) -> None:
    kind = PartKind.BIAS_DELTA if is_delta else PartKind.BIAS
    for entry in entries:
        module, _, leaf = entry.name.rpartition(".")
        if leaf == "bias":
            reading.parts.append(Part(kind, module, {"bias": entry}, entry.shape, "bias"))
        else:
            reading.unknown.append(entry)


def _bottlenecks(entries: Iterable[TensorEntry], reading: Reading, activation: str) -> None:
    groups: dict[str, dict[str, TensorEntry]] = {}
    for entry in entries:
        found = next((ending for ending in _ROLES if entry.name.endswith(f".{ending}")), None)
        if found is None:
            reading.unknown.append(entry)
        else:
            groups.setdefault(entry.name[: -len(found) - 1], {})[_ROLES[found]] = entry
    for module, tensors in groups.items():
        part = methods.bottleneck(module, tensors, reading)
        if part is not None:
            reading.parts.append(replace(part, activation=activation))
