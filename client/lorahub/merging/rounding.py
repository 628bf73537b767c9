"""Weights as float64 and back, bit for bit the same wherever it runs.

A result is rounded twice by definition: float64 -> float32 -> the weight's dtype, each to nearest, ties to even. BF16,
which numpy doesn't know, is the upper half of a float32.
"""

import threading
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from lorahub.errors import NotMergeable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes an element of the dtypes that can be merged."""

_CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


_BEYOND = {"BF16": 3.3961775e38, "F16": 65520.0, "F32": 3.4028236e38}
"""The smallest numbers that round to infinity."""


class Workspace(threading.local):
    """Arrays that are used again, one set a thread: fresh ones of this size cost more than the arithmetic."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, count: int, dtype: str) -> "NDArray[Any]":
        """(count,), with what its last use left in it; zeros at first."""
        kept = self._arrays.get(name)
        if kept is None or len(kept) < count:
            kept = self._arrays[name] = np.zeros(count, dtype)
        return kept[:count]


_HERE = Workspace()


def scratch(count: int) -> "Matrix":
    """(count,) float64, this thread's until it asks again."""
    return _HERE.array("total", count, "<f8")


def widen(raw: bytes | memoryview, dtype: str) -> "NDArray[Any]":
    """(n,) float64 of F64, else float32: every number exact. BF16's is this thread's until it asks again."""
    if dtype == "BF16":
        words = _HERE.array("words", len(raw) // 2, "<u4")
        np.copyto(words, np.frombuffer(raw, "<u2"))
        words <<= np.uint32(16)  # the lower halves are zero
        return words.view("<f4")
    numbers = np.frombuffer(raw, _CODES[dtype])
    return numbers.astype(np.float32) if dtype == "F16" else numbers


def exact(raw: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> "Matrix":
    """The tensor as float64, a copy of its own."""
    refuse_unknown(dtype)
    if len(raw) != prod(shape) * FLOATS[dtype]:
        raise NotMergeable(f"a factor has {len(raw)} bytes for {list(shape)} of {dtype}", hint="fetch it again")
    return widen(raw, dtype).astype(np.float64).reshape(shape)


def refuse_unknown(dtype: str) -> None:
    """Raises `NotMergeable` for what no factor can be."""
    if dtype not in FLOATS:
        raise NotMergeable(f"a factor is {dtype}", hint="save the adapter in F32, BF16 or F16")


def working_bytes(source: str, target: str) -> int:
    """For each number of a block, beside the block as float64: what is read, widened, rounded and handed out."""
    read = FLOATS.get(source, 0) + (4 if source in ("BF16", "F16") else 0)
    rounded = {"F64": 8, "F32": 4, "F16": 6, "BF16": 10}.get(target, 0)
    return read + rounded + FLOATS.get(target, 0)


def narrow(values: "NDArray[Any]", dtype: str) -> memoryview:
    """Rounded to `dtype`: bytes that are this thread's until it asks for an array again.

    Raises `NotMergeable` where a number is NaN, infinite, or beyond the dtype.
    """
    if dtype == "F64":
        if not np.isfinite(values).all():
            _refuse(dtype)
        return _bytes_of(np.ascontiguousarray(values, "<f8").reshape(-1))
    single = _HERE.array("single", values.size, "<f4")
    with np.errstate(over="ignore"):
        np.copyto(single, values.reshape(-1), casting="same_kind")
        limit = _BEYOND[dtype]
        if values.size and not (single.max() < limit and single.min() > -limit):
            _refuse(dtype)
    if dtype == "BF16":
        return _bytes_of(_bf16(single))
    return _bytes_of(single if dtype == "F32" else single.astype(_CODES[dtype]))


def _bytes_of(numbers: "NDArray[Any]") -> memoryview:
    return numbers.view(np.uint8).data


def _bf16(single: "NDArray[np.float32]") -> "NDArray[np.uint16]":
    """The upper halves after adding 0x7fff, and one more where the last kept bit is 1: nearest, ties to even."""
    bits = single.view("<u4")
    carry = _HERE.array("carry", bits.size, "<u4")
    np.right_shift(bits, np.uint32(16), out=carry)
    carry &= np.uint32(1)
    carry += np.uint32(0x7FFF)
    carry += bits
    carry >>= np.uint32(16)
    halves = _HERE.array("halves", bits.size, "<u2")
    np.copyto(halves, carry, casting="unsafe")  # every number fits: quicker than to copy every second half
    return halves


def _refuse(dtype: str) -> NoReturn:
    raise NotMergeable(
        f"the merged weight has numbers that {dtype} can't hold: NaN, or too large",
        hint="lower the adapter's weight, merge into F32, or look for NaN with `lorahub check --level drift`",
    )
