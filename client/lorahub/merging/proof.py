"""Whether a checkpoint is a base with adapters merged into it: byte for byte, or within its dtype's rounding.

A merge of ours is deterministic, so what it wrote is proved by computing it again. Others round more than once: at the
product of the factors, at its scale, at the sum. A number of theirs may lie at ε·(|W′| + 4·|ΔW|) from ours, ε being the
distance from 1 to the next number of the dtype.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from lorahub.adapters.base_model import places_of, weight_files
from lorahub.adapters.files import Files, header_of
from lorahub.adapters.safetensors_header import DTYPE_BITS
from lorahub.errors import NotMergeable
from lorahub.merging.layout import Extent, Location
from lorahub.merging.plan import MergePlan
from lorahub.merging.rounding import FLOATS, narrow, widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPSILON = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
_LEAST = {"F64": 5e-324, "F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}


class Holds(StrEnum):
    """What a tensor of the checkpoint is. All but the first two speak against it."""

    EXACT = "exact"
    ROUNDED = "rounded"
    NO_UPDATE = "no update"  # it is the base's, and should have been changed
    OTHER = "other"  # neither the base's nor what the recipe makes of it
    MISSING = "missing"
    ANOTHER_SHAPE = "another shape"


@dataclass(frozen=True, slots=True)
class TensorProof:
    """`share` is how much of the update is in it: 1 is all, 0 nothing; None where it has none, or can't be told."""

    name: str
    holds: Holds
    is_updated: bool
    share: float | None = None

    @property
    def is_proved(self) -> bool:
        return self.holds in (Holds.EXACT, Holds.ROUNDED)


def prove(plan: MergePlan, merged: Files) -> Iterator[TensorProof]:
    """Every tensor that the plan makes, as the checkpoint has it. Raises `InvalidBaseModel` for what is none."""
    held = _tensors(merged)
    for file in plan.weights.values():
        for extent in file.extents:
            yield _prove(plan, extent, merged, held.get(extent.target.name))


def dtype_of(merged: Files) -> str | None:
    """The one that its matrices have; None where they have several."""
    found = {place.dtype for place in _tensors(merged).values() if len(place.shape) > 1 and place.dtype in FLOATS}
    return found.pop() if len(found) == 1 else None


def _tensors(files: Files) -> dict[str, Location]:
    found = {}
    for prefix, path in weight_files(files):
        entries = {entry.name: entry for entry in header_of(files, path, allow_empty=True).tensors}
        for name, start, _ in places_of(files, path):
            found[prefix + name] = Location(path, start, entries[name].dtype, entries[name].shape)
    return found


def _prove(plan: MergePlan, extent: Extent, merged: Files, held: Location | None) -> TensorProof:
    target, is_updated = extent.target, bool(extent.target.changes)
    if held is None:
        return TensorProof(target.name, Holds.MISSING, is_updated)
    if held.shape != target.shape:
        return TensorProof(target.name, Holds.ANOTHER_SHAPE, is_updated)
    if extent.is_copy or held.dtype != target.dtype or target.dtype not in FLOATS:
        is_same = held.dtype == target.dtype and _has_same_bytes(plan, extent, merged, held)
        return TensorProof(target.name, Holds.EXACT if is_same else Holds.OTHER, is_updated)
    sums = _Sums(target.dtype)
    for start, expected in _pieces(plan, extent):
        found = merged.read(held.path, held.start + start, held.start + start + len(expected))
        sums.add(expected, found, _of_base(plan, extent, start, len(expected)))
    return TensorProof(target.name, sums.holds, is_updated, sums.share if is_updated else None)


def _pieces(plan: MergePlan, extent: Extent) -> Iterator[tuple[int, bytes]]:
    start = 0
    for piece in plan.extent(extent, 0, extent.stop - extent.start):
        yield start, bytes(piece)
        start += len(piece)


def _has_same_bytes(plan: MergePlan, extent: Extent, merged: Files, held: Location) -> bool:
    return all(
        merged.read(held.path, held.start + start, held.start + start + len(piece)) == piece
        for start, piece in _pieces(plan, extent)
    )


def _of_base(plan: MergePlan, extent: Extent, start: int, size: int) -> "NDArray[np.float64] | None":
    """The base's numbers in place of these bytes; None where the base has no such tensor."""
    source = extent.source
    if source is None or source.shape != extent.target.shape or source.dtype not in FLOATS:
        return None
    ours, theirs = DTYPE_BITS[extent.target.dtype] // 8, FLOATS[source.dtype]
    first, count = start // ours * theirs, size // ours * theirs
    raw = plan.base_files.read(source.path, source.start + first, source.start + first + count)
    return widen(raw, source.dtype).astype(np.float64)


def _rounded(base: "NDArray[np.float64]", dtype: str) -> "NDArray[np.float64]":
    """As a checkpoint of this dtype has them; NaN where it has no place for one of them."""
    try:
        return widen(narrow(base, dtype), dtype).astype(np.float64)
    except NotMergeable:
        return np.full_like(base, np.nan)


class _Sums:
    """What is seen of a tensor, piece by piece."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._is_exact = self._is_near = self._is_base = True
        self._along = self._whole = 0.0

    def add(self, expected: bytes, found: bytes, base: "NDArray[np.float64] | None") -> None:
        if expected == found and base is None:
            return
        wanted = widen(expected, self._dtype).astype(np.float64)
        held = (
            widen(found, self._dtype).astype(np.float64)
            if len(found) == len(expected)
            else np.full_like(wanted, np.nan)
        )
        update = wanted - base if base is not None else np.zeros_like(wanted)
        room = EPSILON[self._dtype] * (np.abs(wanted) + 4 * np.abs(update)) + 2 * _LEAST[self._dtype]
        self._is_exact &= expected == found
        self._is_near &= bool((np.abs(held - wanted) <= room).all())
        if base is not None:
            self._is_base &= bool((held == _rounded(base, self._dtype)).all())
            self._along += float((held - base) @ update)
            self._whole += float(update @ update)

    @property
    def share(self) -> float | None:
        return self._along / self._whole if self._whole and math.isfinite(self._along) else None

    @property
    def holds(self) -> Holds:
        if self._is_exact:
            return Holds.EXACT
        if self._is_base and self._whole:
            return Holds.NO_UPDATE
        return Holds.ROUNDED if self._is_near else Holds.OTHER
