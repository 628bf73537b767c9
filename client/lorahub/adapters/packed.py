"""Quantised checkpoints: which weights (out, in) their packed tensors stand for.

GPTQ: `m.qweight` I32 (in · bits / 32, out), `m.qzeros`, `m.scales` (groups, out), `m.g_idx` (in)
AWQ: `m.qweight` I32 (in, out · bits / 32), `m.qzeros`, `m.scales` (groups, out); GEMV has (out, in · bits / 32)
bitsandbytes, 4 bits: `m.weight` U8, `m.weight.absmax`, …, `m.weight.quant_state.bitsandbytes__nf4`: JSON with a shape
bitsandbytes, 8 bits: `m.weight` I8 (out, in), `m.SCB` (out), `m.weight_format`
FP8: `m.weight` F8 (out, in), `m.weight_scale_inv` or `m.weight_scale`, `m.input_scale`
compressed-tensors: `m.weight_packed` I32, `m.weight_scale`, `m.weight_shape`; of 8 bits as FP8; of NVFP4 (out, in/2) U8
MXFP4: `m_blocks` U8 (…, out, groups, 16) and `m_scales`, of a weight `m` that is used as (…, in, out)

Each function below knows one of them by its tensors, and says which weight they are; what none knows stays as it is.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Any

from lorahub.adapters.base_tensor import BaseTensor

ReadTensor = Callable[[str], bytes]
"""A small tensor's bytes, by name; b"" where they can't be had."""

_F8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_WORD = 32
_OF_4_BITS = ".quant_state.bitsandbytes__"
_MOST_STATE = 4096  # bytes of JSON
_ENDINGS = (
    *(".qweight", ".qzeros", ".g_idx", ".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map", ".SCB"),
    *(".weight_format", ".weight_packed", ".weight_shape", "_scale_inv", "_blocks", ".weight_zero_point"),
    *(".bitmask", ".row_offsets", ".codebooks", ".codes", "._data", ".W_q"),
)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A weight, and the tensors that it is stored in."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]


def is_packed(name: str) -> bool:
    """Whether a tensor's name says that it is a part of a quantised weight."""
    return name.endswith(_ENDINGS) or _OF_4_BITS in name


def unpacked(stored: Mapping[str, BaseTensor], config: Mapping[str, Any], read: ReadTensor) -> dict[str, BaseTensor]:
    """The weights that these tensors stand for, by name. What nobody knows stays, and `is_packed` says so."""
    if not any(is_packed(name) or tensor.dtype in (*_F8, "I8") for name, tensor in stored.items()):
        return dict(stored)
    checkpoint = _Checkpoint(stored, config, read)
    found = {name: tensor for name, tensor in stored.items() if name not in checkpoint.parts}
    for weight in checkpoint.weights:
        found[weight.name] = BaseTensor(weight.dtype, weight.shape, _digest(weight.parts, stored))
    return found


def _digest(parts: tuple[str, ...], stored: Mapping[str, BaseTensor]) -> str | None:
    """The digest of all bytes that the weight is made of; None where some weren't read."""
    sums = [stored[name].sha256 for name in parts]
    if not all(sums):
        return None
    lines = (f"{name}\t{digest}\n" for name, digest in sorted(zip(parts, sums, strict=True), key=lambda one: one[0]))
    return sha256("".join(lines).encode()).hexdigest()


class _Checkpoint:
    """Finds the weights of a checkpoint; `parts` are the tensors that they are made of."""

    def __init__(self, stored: Mapping[str, BaseTensor], config: Mapping[str, Any], read: ReadTensor) -> None:
        self._stored = stored
        self._read = read
        self._states: dict[tuple[str, tuple[int, ...], int], Unpacked] = {}
        said = config.get("quantization_config")
        self._said: Mapping[str, Any] = said if isinstance(said, dict) else {}
        self.weights: list[Unpacked] = []
        self.parts: set[str] = set()
        for name in stored:
            for find in (self._grouped, self._of_4_bits, self._of_8_bits, self._compressed, self._mxfp4, self._scaled):
                weight = find(name)
                if weight is not None and not self.parts.intersection(weight.parts):
                    self.weights.append(weight)
                    self.parts.update(weight.parts)
                    break

    def _beside(self, module: str, *leaves: str) -> tuple[str, ...]:
        """Those of the module's tensors that are there."""
        return tuple(name for leaf in leaves if (name := f"{module}.{leaf}") in self._stored)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        tensor = self._stored.get(name)
        return None if tensor is None else tensor.shape

    # --- GPTQ, AWQ ----------------------------------------------------------------------------------------------------

    def _grouped(self, name: str) -> Unpacked | None:
        module, _, leaf = name.rpartition(".")
        words, scales = self._stored[name].shape, self._shape(f"{module}.scales")
        if leaf != "qweight" or self._stored[name].dtype != "I32" or scales is None:
            return None
        if (len(words), len(scales)) != (2, 2):
            return None
        zeros = self._shape(f"{module}.qzeros")
        shape = self._of_rows(module, words, scales, zeros) or self._of_columns(words, scales)
        if shape is None:
            return None
        bits, out, width = shape
        parts = (name, *self._beside(module, "qzeros", "scales", "g_idx"))
        return Unpacked(f"{module}.weight", f"I{bits}", (out, width), parts)

    def _of_rows(
        self, module: str, words: tuple[int, ...], scales: tuple[int, ...], zeros: tuple[int, ...] | None
    ) -> tuple[int, int, int] | None:
        """GPTQ: (bits, out, in)."""
        rows, out = words
        order = self._shape(f"{module}.g_idx")
        bits = zeros[1] * _WORD // out if zeros is not None and len(zeros) == 2 and out else self._bits()
        if scales[1] != out or bits is None or bits not in (2, 3, 4, 8):
            return None
        width = rows * _WORD // bits
        return (bits, out, width) if order in (None, (width,)) else None

    def _of_columns(self, words: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int, int] | None:
        """AWQ: (bits, out, in)."""
        bits = self._bits() or 4
        if bits not in (2, 4, 8):
            return None
        each = _WORD // bits
        if words[1] * each == scales[1]:
            return bits, scales[1], words[0]
        return (bits, words[0], words[1] * each) if words[0] == scales[0] else None

    def _bits(self) -> int | None:
        bits = self._said.get("bits", self._said.get("w_bit"))
        return bits if isinstance(bits, int) else None

    # --- bitsandbytes -------------------------------------------------------------------------------------------------

    def _of_4_bits(self, name: str) -> Unpacked | None:
        weight, mark, kind = name.partition(_OF_4_BITS)
        if not mark or weight not in self._stored or kind not in ("nf4", "fp4"):
            return None
        packed, state = self._stored[weight], self._stored[name]
        key = (weight.rpartition(".layers.")[2].partition(".")[2] or weight, packed.shape, state.elements)
        if key not in self._states:  # the same in every layer: one is read, not hundreds over a network
            shape = _shape_in(self._read(name)) if state.elements <= _MOST_STATE else None
            self._states[key] = Unpacked(weight, kind.upper(), shape or (), ())
        shape = self._states[key].shape
        if not shape or 2 * packed.bytes not in (prod(shape), prod(shape) + 1):
            return None
        parts = tuple(one for one in self._parts_of_4_bits(weight) if one in self._stored)
        return Unpacked(weight, kind.upper(), shape, (weight, *parts))

    @staticmethod
    def _parts_of_4_bits(weight: str) -> Iterator[str]:
        for leaf in ("absmax", "nested_absmax", "quant_map", "nested_quant_map"):
            yield f"{weight}.{leaf}"
        for kind in ("nf4", "fp4"):
            yield f"{weight}{_OF_4_BITS}{kind}"

    def _of_8_bits(self, name: str) -> Unpacked | None:
        module, _, leaf = name.rpartition(".")
        weight = self._stored.get(f"{module}.weight")
        if leaf != "SCB" or weight is None or weight.dtype != "I8":
            return None
        parts = (f"{module}.weight", *self._beside(module, "SCB", "weight_format"))
        return Unpacked(f"{module}.weight", "I8", weight.shape, parts)

    # --- compressed-tensors, FP8, MXFP4 -------------------------------------------------------------------------------

    def _compressed(self, name: str) -> Unpacked | None:
        module, _, leaf = name.rpartition(".")
        packed = self._stored[name]
        if leaf != "weight_packed" or len(packed.shape) < 2 or f"{module}.weight_scale" not in self._stored:
            return None
        *outer, last = packed.shape
        parts = (name, *self._beside(module, *_BESIDE))
        if packed.dtype == "U8":  # two numbers of four bits each
            return Unpacked(f"{module}.weight", "F4", (*outer, 2 * last), parts)
        shape = _integers(self._read(f"{module}.weight_shape"), self._stored.get(f"{module}.weight_shape"))
        bits = next((bits for bits in (4, 8, 2, 3) if shape and -(-shape[-1] * bits // _WORD) == last), None)
        if packed.dtype != "I32" or shape is None or bits is None or list(shape[:-1]) != outer:
            return None
        return Unpacked(f"{module}.weight", f"I{bits}", shape, parts)

    def _scaled(self, name: str) -> Unpacked | None:
        """Numbers of eight bits as they are, with their scales beside them."""
        tensor = self._stored[name]
        module, _, leaf = name.rpartition(".")
        if tensor.dtype in (*_F8, "I8") and leaf == "weight":
            scales = self._beside(module, *_BESIDE)
            is_known = any(one.endswith(("weight_scale", "weight_scale_inv")) for one in scales)
            return Unpacked(name, tensor.dtype, tensor.shape, (name, *scales)) if is_known else None
        if tensor.dtype == "U8" and leaf == "weight" and f"{module}.weight_scale_2" in self._stored and tensor.shape:
            shape = (*tensor.shape[:-1], 2 * tensor.shape[-1])  # NVFP4
            return Unpacked(name, "F4", shape, (name, *self._beside(module, *_BESIDE)))
        if tensor.dtype in _F8 and (
            found := [f"{name}{end}" for end in ("_scale_inv", "_scale") if f"{name}{end}" in self._stored]
        ):
            return Unpacked(name, tensor.dtype, tensor.shape, (name, *found))
        return None

    def _mxfp4(self, name: str) -> Unpacked | None:
        blocks = self._stored[name]
        weight = name.removesuffix("_blocks")
        if weight == name or blocks.dtype != "U8" or len(blocks.shape) < 3 or f"{weight}_scales" not in self._stored:
            return None
        *outer, out, groups, half = blocks.shape
        return Unpacked(weight, "F4", (*outer, 2 * half * groups, out), (name, f"{weight}_scales"))


_BESIDE = (
    *("weight_scale", "weight_scale_inv", "weight_scale_2", "weight_shape", "weight_zero_point", "weight_g_idx"),
    *("weight_global_scale", "input_scale", "input_global_scale", "input_zero_point", "activation_scale"),
)


def _shape_in(raw: bytes) -> tuple[int, ...] | None:
    """What a quant state's JSON says."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    shape = value.get("shape") if isinstance(value, dict) else None
    is_shape = (
        isinstance(shape, list) and 0 < len(shape) <= 8 and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
    )
    return tuple(shape) if is_shape and isinstance(shape, list) else None


def _integers(raw: bytes, tensor: BaseTensor | None) -> tuple[int, ...] | None:
    """The values of a small tensor of whole numbers."""
    code = {"I64": "q", "I32": "i"}.get(tensor.dtype) if tensor is not None else None
    if code is None or not raw or len(raw) % struct.calcsize(code):
        return None
    found = struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw)
    return found if all(0 < number < 1 << 31 for number in found) else None
