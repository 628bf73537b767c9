"""Exact conversions between adapter formats: the output adds the same ΔW to the same weights, or is refused.

Tensors are only renamed, transposed, permuted and filled up with zeros; a scale is multiplied in where the target has
no place for it, in float64 and rounded once to F32. Anything else raises `NotConvertible`, which says why.
"""

from collections.abc import Callable
from typing import get_args

from lorahub.adapters.adapter import Adapter, Naming
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import BytesFiles, Files
from lorahub.adapters.formats import IMAGE_FORMATS, format_of
from lorahub.adapters.reader import CONFIG, read_adapter
from lorahub.adapters.runtimes import Form
from lorahub.conversion.gguf import from_gguf, write_gguf_adapter
from lorahub.conversion.image import place, write_diffusers, write_kohya
from lorahub.conversion.lora import LoraAdapter, lora_of, outlines, read_lora, refuse_broken
from lorahub.conversion.mlx import write_mlx
from lorahub.conversion.peft import normal_tensors, normalize, write_peft
from lorahub.errors import NotConvertible

Target = Form
TARGETS: tuple[Target, ...] = get_args(Target)

_WRITERS: dict[str, Callable[[LoraAdapter, BaseLayout | None], dict[str, bytes]]] = {
    "peft": write_peft,
    "diffusers": write_diffusers,
    "kohya": write_kohya,
    "gguf": write_gguf_adapter,
    "mlx": write_mlx,
}


_BEFORE: dict[Target, Target] = {"peft-normalized": "peft"}
"""What a form is made of, where it isn't made of the adapter itself."""


def convert(files: Files, target: Target, base: BaseLayout | None = None) -> dict[str, bytes]:
    """All files of the adapter in the target's format, by path; the same bytes for the same input.

    `base` is needed where names or rows depend on it: from and to GGUF, and from kohya's folded names. An adapter that
    has the target's format already is handed back as it is. Raises `NotConvertible`.
    """
    if target not in TARGETS:
        raise NotConvertible(f"no target {target!r}", hint=f"the targets are {', '.join(TARGETS)}")
    adapter = read_adapter(files)
    refuse_broken(adapter)
    if target == "peft-normalized":
        return normalize(BytesFiles(convert(files, "peft", base)), base)
    row = format_of(adapter)
    if row is not None and row.name == target and not row.has_spellings:
        return _own_files(files, adapter)
    return write(read_lora(files, adapter), adapter.format, target, base)


def refusal(adapter: Adapter, target: Target, base: BaseLayout | None) -> NotConvertible | None:
    """Why `convert` would refuse it, from headers alone: the same steps are taken, with outlines for tensors."""
    try:
        refuse_broken(adapter)
        load = outlines(adapter)
        row = format_of(adapter)
        form: Target = _BEFORE.get(target, target)
        if row is None or row.name != form or row.has_spellings:
            write(lora_of(adapter, load), adapter.format, form, base)
        elif form != target:
            normal_tensors(adapter, base, load)
    except NotConvertible as refused:
        return refused
    return None


def write(lora: LoraAdapter, source: str, target: Target, base: BaseLayout | None) -> dict[str, bytes]:
    """The target's files; `source` is the format whose names the modules have. Raises `NotConvertible`."""
    if target == "peft-normalized":
        return normalize(BytesFiles(write(lora, source, "peft", base)), base)
    if lora.naming is Naming.GGUF:
        lora = from_gguf(lora, base)
    if IMAGE_FORMATS & {source, target}:
        lora = place(lora, base)
    return _WRITERS[target](lora, base)


def _own_files(files: Files, adapter: Adapter) -> dict[str, bytes]:
    own = [path for path in (CONFIG, adapter.weights_file) if path is not None and path in files.sizes]
    return {path: files.read(path, 0, files.sizes[path]) for path in own}


__all__ = ["TARGETS", "NotConvertible", "Target", "convert", "refusal", "write"]
