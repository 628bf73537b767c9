"""The tensors of an adapter's file, read when they are needed."""

from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.files import Files, header_of
from lorahub.adapters.gguf_file import read_gguf
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.errors import NotMergeable
from lorahub.merging.rounding import FLOATS, exact, refuse_unknown

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix

STEP = 1 << 19
"""Numbers that are read at once."""


class FactorReader:
    """Of one adapter in `files`."""

    def __init__(self, files: Files, adapter: Adapter) -> None:
        self._files = files
        self._file = adapter.weights_file

    @property
    def _path(self) -> str:
        if self._file is None:
            raise NotMergeable("the adapter has no weights", hint="push or fetch its *.safetensors file")
        return self._file

    @cached_property
    def _start(self) -> int:
        size = self._files.sizes[self._path]
        if self._path.endswith(".gguf"):
            return read_gguf(lambda start, stop: self._files.read(self._path, start, stop), size=size).data_start
        return header_of(self._files, self._path, allow_empty=True).data_start

    def load(self, entry: TensorEntry) -> "Matrix":
        """All of it as float64, in its shape; read in steps, so that it isn't there twice."""
        refuse_unknown(entry.dtype)
        numbers, size = np.empty(prod(entry.shape)), FLOATS[entry.dtype]
        for first in range(0, len(numbers), STEP):
            last = min(len(numbers), first + STEP)
            begin = self._start + entry.start
            raw = self._files.read(self._path, begin + first * size, begin + last * size)
            numbers[first:last] = exact(raw, entry.dtype, (last - first,))
        stored = numbers.reshape(entry.stored_shape)
        return stored.T if entry.is_turned else stored

    def integers(self, entry: TensorEntry) -> "np.typing.NDArray[np.int64]":
        if entry.dtype not in ("I32", "I64"):
            raise NotMergeable(f"{entry.name} is {entry.dtype}", hint="indices are I32 or I64")
        raw = self._files.read(self._path, self._start + entry.start, self._start + entry.stop)
        return np.frombuffer(raw, f"<i{4 if entry.dtype == 'I32' else 8}").astype(np.int64).reshape(entry.shape)

    def rows(self, entry: TensorEntry) -> Callable[[int, int], "Matrix"]:
        """Reads rows [start, stop) as a float64 matrix."""
        assert not entry.is_turned  # its rows lie side by side
        width = prod(entry.shape[1:])
        size = width * FLOATS.get(entry.dtype, 0)
        begin = self._start + entry.start

        def read(start: int, stop: int) -> "Matrix":
            raw = self._files.read(self._path, begin + start * size, begin + stop * size)
            return exact(raw, entry.dtype, (stop - start, width))

        return read
