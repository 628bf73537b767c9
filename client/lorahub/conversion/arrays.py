"""Tensors as they lie in files, BF16 among them, which numpy doesn't know; and the safetensors files made of them.

Rearranging keeps every bit and the dtype. Multiplying is done in float64 and rounded once, to F32.

An **outline** is an array of which only dtype and shape are known: it goes through a conversion as any other, takes no
memory, and nothing is written of it. So one learns whether an adapter can be converted, by the converter itself.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorahub.adapters.files import Files
from lorahub.adapters.safetensors_header import DTYPE_BITS, TensorEntry
from lorahub.errors import NotConvertible

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class Array:
    """`values` is a numpy array of `dtype`; of BF16 the bits, as uint16."""

    dtype: str
    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def transposed(self) -> "Array":
        """(a, b) as (b, a)."""
        return replace(self, values=self.values.T)

    def reshaped(self, *shape: int) -> "Array":
        return replace(self, values=self.values.reshape(shape))

    def gathered(self, rows: Sequence[tuple[int, int, int]], height: int) -> "Array":
        """`height` rows: of each (from, to, count) some of these, the others zeros."""
        import numpy as np

        if self.is_outline:
            return self.like((height, *self.shape[1:]))
        values = np.zeros((height, *self.shape[1:]), self.values.dtype)
        for source, target, count in rows:
            values[target : target + count] = self.values[source : source + count]
        return replace(self, values=values)

    def padded(self, axis: int, size: int) -> "Array":
        """With zeros behind, `size` along `axis`; the bits of +0 are zeros in every dtype."""
        import numpy as np

        if self.is_outline:
            return self.like((*self.shape[:axis], size, *self.shape[axis + 1 :]))
        widths = [(0, 0)] * self.values.ndim
        widths[axis] = (0, size - self.shape[axis])
        return replace(self, values=np.pad(self.values, widths))

    def times(self, factor: float) -> "Array":
        """F32, or F64 where it was; as it is where the factor is 1. Refused where F32 can't hold a product."""
        import numpy as np

        if factor == 1:
            return self
        if self.is_outline:
            return self.like(self.shape, "F64" if self.dtype == "F64" else "F32")
        with np.errstate(over="ignore"):
            product = self.wide() * factor
            values = product if self.dtype == "F64" else product.astype("<f4")
        if not np.isfinite(values).all():
            raise NotConvertible(
                f"a factor times its scale, {factor:g}, is beyond F32", hint="look for NaN or infinity"
            )
        return Array("F64" if self.dtype == "F64" else "F32", values)

    def wide(self) -> Any:
        """The numbers as float64, each exact."""
        import numpy as np

        if self.dtype == "BF16":
            return (self.values.astype("<u4") << 16).view("<f4").astype(np.float64)
        return self.values.astype(np.float64)

    @property
    def is_outline(self) -> bool:
        """Numbers that are all one and the same, at one place: numpy's way to have a shape without memory."""
        return self.values.size > 1 and not any(self.values.strides)

    def like(self, shape: Sequence[int], dtype: str | None = None) -> "Array":
        return outline(dtype or self.dtype, shape)

    def tobytes(self) -> bytes:
        import numpy as np

        if self.is_outline:
            return b""
        return np.ascontiguousarray(self.values, dtype=_NUMPY[self.dtype]).tobytes()


def outline(dtype: str, shape: Sequence[int]) -> Array:
    """See above. Raises `NotConvertible` as reading it would."""
    import numpy as np

    return Array(dtype, np.broadcast_to(np.zeros((), _numpy(dtype, "the tensor")), tuple(shape)))


def _numpy(dtype: str, name: str) -> str:
    if dtype not in _NUMPY:
        raise NotConvertible(f"{name} is {dtype}", hint="convert factors of F32, BF16, F16 or F64")
    return _NUMPY[dtype]


def read_array(files: Files, path: str, entry: TensorEntry, *, data_start: int) -> Array:
    """One tensor of a file whose data begin at `data_start`."""
    import numpy as np

    kind = _numpy(entry.dtype, entry.name)
    raw = files.read(path, data_start + entry.start, data_start + entry.stop)
    stored = Array(entry.dtype, np.frombuffer(raw, kind).reshape(entry.stored_shape))
    return stored.transposed if entry.is_turned else stored


def number(value: float) -> Array:
    """A single F32 without dimensions."""
    import numpy as np

    return Array("F32", np.array(value, "<f4"))


@dataclass(frozen=True, slots=True)
class Raw:
    """A tensor that is copied, of whatever dtype."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    def tobytes(self) -> bytes:
        return self.content


def write_safetensors(tensors: Mapping[str, Array | Raw], metadata: Mapping[str, str]) -> bytes:
    """The same bytes for the same tensors: widest dtype first, so that all are aligned, then by name; the header filled
    with spaces to a multiple of 8.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    contents: list[bytes] = []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-DTYPE_BITS[item[1].dtype], item[0])):
        content = tensor.tobytes()
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(content)],
        }
        contents.append(content)
        end += len(content)
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return b"".join([len(raw).to_bytes(8, "little"), raw, *contents])


def write_json(value: Any) -> bytes:
    """As `json.dumps` has it, indented; mappings keep their order, which PEFT's patterns depend on."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
