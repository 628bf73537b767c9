"""One tensor of a base: what it is stored as, and how large it is."""

from dataclasses import dataclass
from math import prod

from lorahub.adapters.gguf_file import BLOCKS
from lorahub.adapters.safetensors_header import DTYPE_BITS

PACKED_BITS = {"I2": 2, "I3": 3, "I4": 4, "NF4": 4, "FP4": 4}
"""Bits an element of what several tensors of a checkpoint hold together: whole numbers, and bitsandbytes' own."""


def is_dtype(name: str) -> bool:
    """Whether a weight may be stored so: in a safetensors file, in a GGUF file, or packed."""
    return name in DTYPE_BITS or name in PACKED_BITS or name in BLOCKS


@dataclass(frozen=True, slots=True)
class BaseTensor:
    dtype: str
    shape: tuple[int, ...]
    sha256: str | None = None
    """The sha256 of its bytes, where they were read."""

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Without the scales beside a packed one."""
        bits = DTYPE_BITS.get(self.dtype) or PACKED_BITS.get(self.dtype)
        if bits is not None:
            return self.elements * bits // 8
        _, block, block_bytes = BLOCKS[self.dtype]
        return self.elements // block * block_bytes
