"""llama.cpp's adapters: tensors `<base tensor>.lora_a` (rank, in) and `.lora_b` (out, rank), one alpha for all.

The scale at run time is alpha / rank of each module (llama.cpp `llama_adapter_lora_weight::get_scale`); 0 means 1.
"""

from lorahub.adapters.adapter import Adapter, BaseClaim, Kind, Naming, Part, PartKind, Update
from lorahub.adapters.findings import Evidence
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.reading import Reading, Tensors
from lorahub.adapters.gguf_file import GgufHeader, read_gguf
from lorahub.adapters.limits import LIMITS
from lorahub.adapters.safetensors_header import TensorEntry

_QUANTISED = frozenset({"Q8_0"})


def is_gguf_adapter(opened: Opened) -> bool:
    """A model's file is none."""
    if not opened.path.endswith(".gguf"):
        return False
    header = _header(opened)
    kind = header.metadata.get("general.type", "model")
    return kind != "model" or any(tensor.name.endswith((".lora_a", ".lora_b")) for tensor in header.tensors)


def read_gguf_adapter(opened: Opened) -> Adapter:
    reading, header = Reading(), _header(opened)
    metadata = header.metadata
    if metadata.get("general.type") != "adapter" or metadata.get("adapter.type") != "lora":
        found = f"{metadata.get('general.type')}/{metadata.get('adapter.type')}"
        reading.add("LH306", "the GGUF file is no LoRA adapter", [Evidence("general.type", found, "adapter/lora")])
    groups: dict[str, dict[str, TensorEntry]] = {}
    elements: dict[str, int] = {}
    for tensor in header.tensors:
        dtype = "F16" if tensor.ggml_type in _QUANTISED else tensor.ggml_type
        entry = TensorEntry(tensor.name, dtype, tensor.shape, tensor.start, tensor.stop)
        elements[tensor.ggml_type] = elements.get(tensor.ggml_type, 0) + entry.elements
        _sort(entry, groups, reading)
    for module, tensors in groups.items():
        _make(module, tensors, reading, metadata.get("adapter.lora.alpha"))
    reading.close()
    architecture = metadata.get("general.architecture")
    base = metadata.get("general.base_model.0.name")
    return Adapter(
        format="gguf",
        method="lora",
        updates=tuple(reading.updates),
        parts=tuple(reading.parts),
        naming=Naming.GGUF,
        claim=BaseClaim(base if isinstance(base, str) else None),
        obstacle="alora" if "adapter.alora.invocation_tokens" in metadata else None,
        findings=tuple(reading.findings),
        weights_file=opened.path,
        tensors=tuple(tensor.name for tensor in header.tensors),
        dtypes=elements,
        architecture=architecture if isinstance(architecture, str) else None,
    )


def _header(opened: Opened) -> GgufHeader:
    return read_gguf(
        lambda start, stop: opened.files.read(opened.path, start, stop),
        size=opened.files.sizes[opened.path],
        max_header_bytes=LIMITS.header_bytes,
    )


def _sort(entry: TensorEntry, groups: dict[str, dict[str, TensorEntry]], reading: Reading) -> None:
    for ending, role in ((".lora_a", "down"), (".lora_b", "up")):
        if entry.name.endswith(ending):
            weight = entry.name.removesuffix(ending)
            checked = methods.check_entries([entry], reading, allow_flat=lambda _: False)
            if checked:
                groups.setdefault(weight.removesuffix(".weight"), {})[role] = entry
            return
    module, _, leaf = entry.name.rpartition(".")
    if leaf in ("weight", "bias"):
        reading.parts.append(Part(PartKind.REPLACEMENT, module, {leaf: entry}, entry.shape, leaf))
    else:
        reading.unknown.append(entry)


def _make(module: str, tensors: Tensors, reading: Reading, alpha: object) -> None:
    stated = float(alpha) if isinstance(alpha, int | float) and alpha else None

    def scale(rank: int) -> float:
        return stated / rank if stated else 1.0

    if module != "token_embd":
        update = methods.low_rank(module, tensors, reading, scale=scale)
    elif methods.require(tensors, module, ("down", "up"), reading):
        # looked up by token: lora_a is (rows, rank) here
        down, up = tensors["down"], tensors["up"]
        rank = down.shape[1]
        agrees = methods.agree({"lora_a": rank, "lora_b": up.shape[1]}, module, reading)
        shape, factors = (down.shape[0], up.shape[0]), {"down": down.turned, "up": up}
        update = Update(module, "lora", factors, shape, rank, scale(rank), Kind.EMBEDDING) if agrees else None
    else:
        update = None
    if update is not None:
        reading.updates.append(update)
