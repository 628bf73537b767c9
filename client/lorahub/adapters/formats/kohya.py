"""kohya-ss, ComfyUI and LyCORIS: one file, module names with every dot an underscore, settings in the header.

A folded name is ambiguous by itself; it is looked up among the base's own names, folded alike, never split.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from lorahub.adapters.adapter import Adapter, BaseClaim, Naming
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.image import (
    ROLES,
    ending_of,
    grouped,
    make_updates,
    may_be_flat,
    method_of,
    role_of,
    without_embeddings,
)
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.reading import Reading, Tensors
from lorahub.adapters.safetensors_header import TensorEntry

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_", "lycoris_")

_FOLDED_ONLY = {"weight": "growth"}
"""With dots it would be any tensor."""


def is_kohya(opened: Opened) -> bool:
    return any(_split(name) is not None for name in opened.names)


def read_kohya(opened: Opened) -> Adapter:
    """A module without a known alpha has the scale that `ss_network_alpha` says, else 1 (kohya: alpha = dim)."""
    reading, metadata, alphas = Reading(), opened.metadata, opened.alphas()
    for module, tensors in grouped(_found(opened.entries, reading), reading).items():
        make_updates(module, tensors, reading, partial(_scale, module, tensors, metadata, alphas))
    reading.close()
    return Adapter(
        format="kohya",
        method=method_of(reading.updates),
        updates=tuple(reading.updates),
        parts=tuple(reading.parts),
        naming=Naming.FOLDED,
        claim=_claim(metadata),
        findings=tuple(reading.findings),
        weights_file=opened.path,
        dtypes=methods.count_elements(opened.entries),
    )


def _split(name: str) -> tuple[str, str] | None:
    """(module, end of the name)."""
    found = ending_of(name)
    module, _, ending = (found[0], "", found[1]) if found else name.partition(".")
    is_folded = module.startswith((*PREFIXES, "oft_unet_")) and "." not in module
    return (module, ending) if is_folded and (ending in ROLES or ending in _FOLDED_ONLY) else None


def _found(entries: Iterable[TensorEntry], reading: Reading) -> Iterator[tuple[str, str, TensorEntry]]:
    kept = without_embeddings(entries, reading)
    for entry in methods.check_entries(kept, reading, allow_flat=lambda name: may_be_flat(_ending(name))):
        split = _split(entry.name)
        if split is None:
            reading.unknown.append(entry)
        else:
            module, ending = split
            yield module, _FOLDED_ONLY.get(ending) or role_of(entry, ending), entry


def _ending(name: str) -> str:
    return name.partition(".")[2]


def _scale(module: str, tensors: Tensors, metadata: Mapping[str, str], alphas: Mapping[str, float], rank: int) -> float:
    alpha = alphas.get(module, _stated_alpha(metadata) if "alpha" in tensors else None)
    return 1.0 if not alpha or not rank else alpha / rank


def _stated_alpha(metadata: Mapping[str, str]) -> float | None:
    try:
        value = float(metadata.get("ss_network_alpha", ""))
    except ValueError:
        return None
    return value if 0 < value < 1e6 else None


def _claim(metadata: Mapping[str, str]) -> BaseClaim:
    """`ss_new_sd_model_hash` is the sha256 of the base's file."""
    digest = metadata.get("ss_new_sd_model_hash", "")
    name = metadata.get("ss_sd_model_name") or metadata.get("modelspec.architecture")
    files = {metadata.get("ss_sd_model_name", "base"): digest} if len(digest) == 64 else {}
    return BaseClaim(name=name, files=files, names_all_files=False)
