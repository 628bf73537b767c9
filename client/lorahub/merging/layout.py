"""The bytes of a merged model's files, laid out before any of them is computed."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from lorahub.adapters.files import Files, header_of
from lorahub.adapters.safetensors_header import DTYPE_BITS, SafetensorsHeader
from lorahub.merging.targets import MergeTarget

_DTYPE_ORDER = (
    "U64 I64 F64 C64 U32 I32 F32 U16 I16 F16 BF16 F8_E4M3FNUZ F8_E5M2FNUZ F8_E8M0 F8_E4M3 F8_E5M2 I8 U8 F6_E3M2 "
    "F6_E2M3 F4 BOOL"
).split()


@dataclass(frozen=True, slots=True)
class Extent:
    """A tensor in a merged file, bytes [start, stop); `source` is where it was in the base."""

    target: MergeTarget
    start: int
    stop: int
    source: "Location | None"
    is_copy: bool


@dataclass(frozen=True, slots=True)
class Location:
    """Bytes of the base: `start` in the file at `path`."""

    path: str
    start: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightFile:
    """A file of tensors: its header, and the extents behind it, in order and without gaps."""

    path: str
    header: bytes
    extents: tuple[Extent, ...]

    @property
    def size(self) -> int:
        return self.extents[-1].stop if self.extents else len(self.header)

    @cached_property
    def _starts(self) -> list[int]:
        return [extent.start for extent in self.extents]

    def overlapping(self, start: int, stop: int) -> Iterator[Extent]:
        first = max(0, bisect_right(self._starts, start) - 1)
        for extent in self.extents[first:]:
            if extent.start >= stop:
                return
            if extent.stop > start:
                yield extent


def weight_file(files: Files, path: str, prefix: str, targets: Mapping[str, Sequence[MergeTarget]]) -> WeightFile:
    """The merged form of one of the base's weight files; `prefix` is what the base's names have before the file's."""
    header = header_of(files, path, allow_empty=True)
    pairs = [(entry, target) for entry in header.tensors for target in targets[prefix + entry.name]]
    new = targets.get("", ())
    entries = {entry.name: entry for entry in header.tensors}
    is_same = (
        not new
        and len(pairs) == len(header.tensors)
        and all(
            (prefix + entry.name, entry.dtype, entry.shape) == (target.name, target.dtype, target.shape)
            for entry, target in pairs
        )
    )
    named = [*(target for _, target in pairs), *new]
    if is_same:
        raw = files.read(path, 0, header.data_start)
    else:
        named.sort(key=lambda target: (_DTYPE_ORDER.index(target.dtype), target.name))
        raw = _header(header, [(target.name[len(prefix) :], target) for target in named])
    extents, start = [], len(raw)
    for target in named:
        entry = entries.get(target.source[len(prefix) :]) if target.source is not None else None
        source = None if entry is None else Location(path, header.data_start + entry.start, entry.dtype, entry.shape)
        stop = start + _size(target)
        is_copy = source is not None and not target.changes and source.dtype == target.dtype
        extents.append(Extent(target, start, stop, source, is_copy))
        start = stop
    return WeightFile(path, raw, tuple(extents))


def _size(target: MergeTarget) -> int:
    return prod(target.shape) * DTYPE_BITS[target.dtype] // 8


def _header(before: SafetensorsHeader, named: Iterable[tuple[str, MergeTarget]]) -> bytes:
    """As the safetensors library writes it, with the keys of `__metadata__` in order."""
    value: dict[str, Any] = {"__metadata__": dict(sorted((before.metadata or {"format": "pt"}).items()))}
    end = 0
    for name, target in named:
        size = _size(target)
        value[name] = {"dtype": target.dtype, "shape": list(target.shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def index_of(weights: Sequence[WeightFile]) -> bytes:
    """`model.safetensors.index.json`, as transformers writes it."""
    places = {extent.target.name: file.path.rpartition("/")[2] for file in weights for extent in file.extents}
    total = sum(extent.stop - extent.start for file in weights for extent in file.extents)
    value = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    return (json.dumps(value, indent=2) + "\n").encode()
