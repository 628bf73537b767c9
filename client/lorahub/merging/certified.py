"""Blocks computed by a device of torch's, a GPU, that are byte for byte the canonical kernel's.

A device sums in an order of its own, so its number y is another one than the kernel's. But whatever the order, with or
without fused operations, a float64 sum of r products and W differs from the exact one by at most γ · S, where S is the
sum of the terms' sizes and γ = (r + 1)·u / (1 − (r + 1)·u), u = 2⁻⁵³ (Higham, "Accuracy and Stability", 3.1). So the
kernel's number lies within E = 2(r + 4)·u · S of y: 2(r + 1) for both, and the rest for the roundings of S and y ± E.
Rounding keeps order: where y − E and y + E become the same bits, so does all between them, the kernel's number too.
A block in which that can't be said of every number is computed again by the kernel.
"""

from collections.abc import Iterator
from threading import Lock
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lorahub.errors import InvalidUsage
from lorahub.merging.kernel import Kernel
from lorahub.merging.rounding import FLOATS, narrow
from lorahub.merging.steps import Product, product

Certified: TypeAlias = tuple[NDArray[np.signedinteger], NDArray[np.bool_]]
"""The bits of rows, (n, m), and which of the rows are the kernel's, (n,)."""

_UNIT = 2.0**-53
_TINY = 2.0**-1000
"""More than the sum can lose below float64's range. It also leaves the sign of an exact zero open, as it is."""
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BITS = {"F32": torch.int32, "F16": torch.int16, "BF16": torch.int16}
_MOST_RANK_OF_F32 = 64
"""Float32 is so fine that beyond it most blocks have a number that isn't certain."""


class TorchDevice:
    """Raises `InvalidUsage` where torch has no such device, or it doesn't compute as it must. Safe to use from several
    threads; they take turns.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.blocks_done = self.blocks_again = 0
        self._fault = ""
        self._lock = Lock()
        try:
            self._place = torch.device(name)
            _prove(self._place)
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # all of them are torch's
            reason = _first_line(error)
            raise InvalidUsage(f"nothing can be merged on {name}: {reason}", hint="the device cpu always can") from None

    def __str__(self) -> str:
        model = f" ({torch.cuda.get_device_name(self._place)})" if self._place.type == "cuda" else ""
        return f"{self.name}{model}"

    @property
    def account(self) -> str:
        fault = f"; given up: {self._fault}" if self._fault else ""
        return f"{self.blocks_done} blocks, {self.blocks_again} more again on the CPU{fault}"

    def takes(self, kernel: Kernel) -> bool:
        if kernel.product is None or kernel.target.dtype not in _BITS:
            return False
        return kernel.target.dtype != "F32" or len(kernel.product.right) <= _MOST_RANK_OF_F32

    def blocks(self, kernel: Kernel, raw: bytes, dtype: str, start: int, stop: int) -> Iterator[memoryview]:
        """`Kernel.block` of each block in the rows [start, stop); `raw` are those of the base, of `dtype`."""
        rows, is_certain = self._rows(kernel, raw, dtype, start, stop)
        size = kernel.target.matrix[1] * FLOATS[dtype]
        for first in range(0, stop - start, kernel.block_rows):
            last = min(stop - start, first + kernel.block_rows)
            is_done = bool(is_certain[first:last].all())
            with self._lock:
                self.blocks_done += is_done
                self.blocks_again += not is_done
            if is_done:
                yield rows[first:last].data.cast("B")
            else:
                yield kernel.block(raw[first * size : last * size], dtype, start + first)

    def _rows(self, kernel: Kernel, raw: bytes, dtype: str, start: int, stop: int) -> Certified:
        """None of the rows is certain where the device has no room for them, or has failed."""
        assert kernel.product is not None  # what it takes
        factors = Product(kernel.product.left[start:stop], kernel.product.right)
        try:
            with self._lock:
                if not self._fault:
                    return certified_rows(self._place, factors, raw, dtype, kernel.target.dtype)
        except torch.OutOfMemoryError:
            pass  # there may be room for the next rows
        except RuntimeError as error:  # after one of these a GPU computes nothing more for the process
            self._fault = _first_line(error)
        return np.empty((stop - start, 0), np.int16), np.zeros(stop - start, np.bool_)


@torch.inference_mode()
def certified_rows(place: torch.device, factors: Product, raw: bytes, dtype: str, wanted: str) -> Certified:
    """W + left · right in the dtype `wanted`; `raw` is W in `dtype`, or nothing for zeros."""
    shape = (len(factors.left), factors.right.shape[1])
    if raw:
        base = torch.frombuffer(bytearray(raw), dtype=_FLOATS[dtype]).reshape(shape).to(place).double()
    else:
        base = torch.zeros(shape, dtype=torch.float64, device=place)
    number, reach = _sum(base, factors)
    low, high = _rounded(number - reach, wanted), _rounded(number + reach, wanted)
    bits = low.view(_BITS[wanted])
    is_number = low.isfinite() & number.isfinite()  # rounding to BF16 makes a number of some NaNs
    is_certain = (bits == high.view(_BITS[wanted])) & is_number
    return bits.cpu().numpy(), is_certain.all(dim=1).cpu().numpy()


def _sum(base: torch.Tensor, factors: Product) -> tuple[torch.Tensor, torch.Tensor]:
    """The device's y, and E."""
    left, right = (torch.from_numpy(np.ascontiguousarray(one)).to(base.device) for one in (factors.left, factors.right))
    size = base.abs() + left.abs() @ right.abs()
    return base + left @ right, 2 * (len(right) + 4) * _UNIT * size + _TINY


def _rounded(numbers: torch.Tensor, wanted: str) -> torch.Tensor:
    """As `rounding.narrow`: to float32, then to the dtype, each to nearest, ties to even."""
    single = numbers.float()
    if wanted != "BF16":
        return single.to(_FLOATS[wanted])
    bits = single.view(torch.int32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).to(torch.int16).view(torch.bfloat16)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


# --- what is taken for granted of a device, tried --------------------------------------------------------------


def _prove(place: torch.device) -> None:
    """Raises `RuntimeError` where it rounds or sums otherwise than IEEE 754 says."""
    chosen = np.random.default_rng(0)
    beside = 1 + chosen.integers(-1, 2, 1 << 20) * 2.0**-30
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = (np.arange(1 << 20, dtype="<u4") << np.uint32(12)).view("<f4").astype(np.float64) * beside
    for wanted, most in {"F32": 3.38e38, "F16": 65_000.0, "BF16": 3.38e38}.items():
        fitting = numbers[np.abs(numbers) < most]  # with every number halfway between two of BF16 and of F16
        bits = _rounded(torch.from_numpy(fitting).to(place), wanted).view(_BITS[wanted]).cpu().numpy()
        if bits.tobytes() != narrow(fitting, wanted):
            raise RuntimeError(f"it rounds to {wanted} in a way of its own")
    scales = 2.0 ** chosen.integers(-200, 200, 64)  # terms of one size, from factors of very different ones
    factors = Product(chosen.standard_normal((128, 64)) * scales, chosen.standard_normal((64, 256)) / scales[:, None])
    base = chosen.standard_normal((128, 256))
    number, reach = (one.cpu().numpy() for one in _sum(torch.from_numpy(base).to(place), factors))
    if not (np.abs(number - (base + product(factors.left, factors.right))) <= reach).all():
        raise RuntimeError("its float64 has not the precision of IEEE 754")
