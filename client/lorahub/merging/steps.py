"""What a method does to a weight, as arithmetic on rows: float64 in, float64 out.

A weight is a matrix: (out, in) for linear layers, (out, in·k·k) for convolutions, (rows, width) for embeddings,
(experts·out, in) for stacks of experts, (n, 1) for vectors. `apply(rows, start)` takes the rows [start, start + n) as
they are before the step, may overwrite them, and returns them as they are after it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix

_PANEL = 256
"""Ranks summed in one go. Larger sums are made of such pieces in order, because where a BLAS cuts them is its own."""


class Step(Protocol):
    def apply(self, rows: "Matrix", start: int) -> "Matrix": ...


def product(left: "Matrix", right: "Matrix", out: "Matrix | None" = None) -> "Matrix":
    """(n, m): left (n, r) · right (r, m)."""
    total = np.matmul(left[:, :_PANEL], right[:_PANEL], out=out)
    for first in range(_PANEL, left.shape[1], _PANEL):
        total += left[:, first : first + _PANEL] @ right[first : first + _PANEL]
    return total


@dataclass(frozen=True, slots=True)
class Product:
    """W + left · right, with left (rows, r) and right (r, columns): LoRA, and all that is as simple."""

    left: "Matrix"
    right: "Matrix"

    def rows(self, start: int, stop: int, out: "Matrix | None" = None) -> "Matrix":
        return product(self.left[start:stop], self.right, out)

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        rows += self.rows(start, start + len(rows))
        return rows

    @property
    def flipped(self) -> "Product":
        return Product(np.ascontiguousarray(self.right.T), np.ascontiguousarray(self.left.T))


@dataclass(frozen=True, slots=True)
class Hadamard:
    """W + one ∘ two, each a product (LoHa; arXiv:2108.06098)."""

    one: Product
    two: Product

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        stop = start + len(rows)
        rows += self.one.rows(start, stop) * self.two.rows(start, stop)
        return rows

    @property
    def flipped(self) -> "Hadamard":
        return Hadamard(self.one.flipped, self.two.flipped)


@dataclass(frozen=True, slots=True)
class Kronecker:
    """W + kron(one, two), with one (o1, i1) and two (o2, i2·k·k): row a·o2 + b is one[a] ⊗ two[b] (LoKr)."""

    one: "Matrix"
    two: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        outer, inner = np.divmod(np.arange(start, start + len(rows)), len(self.two))
        rows += (self.one[outer][:, :, None] * self.two[inner][:, None, :]).reshape(len(rows), -1)
        return rows


@dataclass(frozen=True, slots=True)
class BlockProducts:
    """W + a product of rank r / k for each of k · k blocks (GraLoRA; arXiv:2505.20355).

    `down` is (k, columns / k, r), `up` (k, r, rows / k); block (m, n) has part m of down[n] and part n of up[m].
    """

    down: "Matrix"
    up: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        count, width, rank = self.down.shape
        part, height = rank // count, self.up.shape[2]
        stop = start + len(rows)
        for m in range(start // height, -(-stop // height)):
            first, last = max(start, m * height), min(stop, (m + 1) * height)
            ups = self.up[m, :, first - m * height : last - m * height].T
            for n in range(count):
                own = ups[:, n * part : (n + 1) * part] @ self.down[n, :, m * part : (m + 1) * part].T
                rows[first - start : last - start, n * width : (n + 1) * width] += own
        return rows


@dataclass(frozen=True, slots=True)
class Circulant:
    """W + blocks of which row t is `kernel` (rows / b, columns / b, b) of the block, turned by t (C3A; 2407.19342)."""

    kernel: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        size = self.kernel.shape[2]
        block, turn = np.divmod(np.arange(start, start + len(rows)), size)
        places = (np.arange(size)[None] - turn[:, None]) % size
        rows += np.take_along_axis(self.kernel[block], places[:, None], axis=2).reshape(rows.shape)
        return rows


@dataclass(frozen=True, slots=True)
class Spectrum:
    """W + Re(F⁻¹(S)), S of `shape` and zero but for `values` (n,) at (row, column) `at` (2, n).

    However many they are, a row's width of them is computed at once.
    """

    values: "Matrix"
    at: "np.typing.NDArray[np.int64]"
    shape: tuple[int, int]

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        height, width = self.shape
        numbers, grid = np.arange(start, start + len(rows)), np.zeros((len(rows), width), np.complex128)
        for first in range(0, len(self.values), width):
            row, column = self.at[:, first : first + width]
            waves = np.exp(2j * np.pi / height * (np.outer(numbers, row) % height))
            np.add.at(grid.T, column, (self.values[first : first + width] * waves).T)
        rows += np.fft.ifft(grid, axis=1).real / height
        return rows


@dataclass(frozen=True, slots=True)
class RunsTurned:
    """W + W · B + B for runs of b columns, with the block (rows / b, b, b) of the row's own run (MiSS's bat)."""

    blocks: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        size = self.blocks.shape[1]
        runs, places = np.divmod(np.arange(start, start + len(rows)), size)
        split = rows.reshape(len(rows), -1, size)
        turned = np.matmul(split, self.blocks[runs]) + self.blocks[runs, places][:, None]
        rows += turned.reshape(rows.shape)
        return rows


@dataclass(frozen=True, slots=True)
class Scaled:
    """W ∘ (1 + left · right) (HiRA; openreview TwJrTz9cRS)."""

    factor: Product

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        rows *= 1 + self.factor.rows(start, start + len(rows))
        return rows

    @property
    def flipped(self) -> "Scaled":
        return Scaled(self.factor.flipped)


@dataclass(frozen=True, slots=True)
class RowFactors:
    """Each row times its factor, (rows,)."""

    factors: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        rows *= self.factors[start : start + len(rows), None]
        return rows

    @property
    def flipped(self) -> "ColumnFactors":
        return ColumnFactors(self.factors)


@dataclass(frozen=True, slots=True)
class ColumnFactors:
    """Each column times its factor, (columns,)."""

    factors: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":  # noqa: ARG002 (the same for every row)
        rows *= self.factors
        return rows

    @property
    def flipped(self) -> RowFactors:
        return RowFactors(self.factors)


@dataclass(frozen=True, slots=True)
class Rotation:
    """W · blockdiag(R)ᵀ, blocks (count, b, b) (OFT; arXiv:2306.07280)."""

    blocks: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":  # noqa: ARG002 (the same for every row)
        count, size, _ = self.blocks.shape
        split = rows.reshape(len(rows), count, size).transpose(1, 0, 2)
        turned = np.matmul(split, self.blocks.transpose(0, 2, 1))
        return np.ascontiguousarray(turned.transpose(1, 0, 2)).reshape(rows.shape)


@dataclass(frozen=True, slots=True)
class RowRotation:
    """Rows of a block among themselves: kohya's OFT turns outputs, Σ_n R[n, m] · W[n] for row m of a block."""

    blocks: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":  # noqa: ARG002 (whole weights only)
        count, size, _ = self.blocks.shape
        split = rows.reshape(count, size, -1)
        return np.asarray(np.matmul(self.blocks.transpose(0, 2, 1), split).reshape(rows.shape), np.float64)


@dataclass(frozen=True, slots=True)
class RowPairs:
    """Row i of each group of `group` with its partner half a group away: kept ∘ W + crossed ∘ (−second, first)."""

    kept: "Matrix"
    crossed: "Matrix"
    group: int

    def apply(self, rows: "Matrix", start: int) -> "Matrix":  # noqa: ARG002 (whole weights only)
        split = rows.reshape(-1, 2, self.group // 2, rows.shape[1])
        partner = np.stack([-split[:, 1], split[:, 0]], axis=1).reshape(rows.shape)
        return np.asarray(self.kept[:, None] * rows + self.crossed[:, None] * partner, np.float64)


@dataclass(frozen=True, slots=True)
class Deflated:
    """W − left · (rightᵀ · W) + left · anew, both factors (rows, r), `anew` (r, columns) (DEFT)."""

    left: "Matrix"
    right: "Matrix"
    anew: "Matrix | None"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":  # noqa: ARG002 (whole weights only)
        taken = self.right.T @ rows
        rows += self.left @ (-taken if self.anew is None else self.anew - taken)
        return rows


@dataclass(frozen=True, slots=True)
class Activated:
    """W + up · f(down · W), down (r, rows), up (rows, r) (PEANuT)."""

    down: "Matrix"
    up: "Matrix"
    activation: Callable[["Matrix"], "Matrix"]

    def apply(self, rows: "Matrix", start: int) -> "Matrix":  # noqa: ARG002 (whole weights only)
        rows += self.up @ self.activation(self.down @ rows)
        return rows


@dataclass(frozen=True, slots=True)
class Permuted:
    """The inner step on the columns in another order."""

    inner: Step
    order: "np.typing.NDArray[np.int64]"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        result = np.empty_like(rows)
        result[:, self.order] = self.inner.apply(np.ascontiguousarray(rows[:, self.order]), start)
        return result


@dataclass(frozen=True, slots=True)
class Reflections:
    """W · Π (I − 2uuᵀ), columns of `units` (in, r) in order (HRA; arXiv:2405.17484)."""

    units: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":  # noqa: ARG002 (the same for every row)
        for unit in self.units.T:
            rows -= 2 * np.outer(rows @ unit, unit)
        return rows


@dataclass(frozen=True, slots=True)
class Magnitude:
    """DoRA: m ∘ V / ‖V‖ with V what the inner step makes of W (arXiv:2402.09353).

    `axis` 1 has a norm for each row, (rows,). `axis` 0 for each column, or for each group of `group` columns, which
    needs the whole weight.
    """

    inner: Step
    magnitude: "Matrix"
    axis: int = 1
    group: int = 1

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        changed = self.inner.apply(rows, start)
        if self.axis == 1:
            norms = np.sqrt(np.einsum("ij,ij->i", changed, changed))
            changed *= (self.magnitude[start : start + len(rows)] / norms)[:, None]
            return changed
        squares = np.einsum("ij,ij->j", changed, changed).reshape(-1, self.group).sum(axis=1)
        changed *= np.repeat(self.magnitude / np.sqrt(squares), self.group)
        return changed


@dataclass(frozen=True, slots=True)
class Sparse:
    """W + values at (row, column), both (n,) (SHiRA; arXiv:2406.13175)."""

    values: "Matrix"
    at: "np.typing.NDArray[np.int64]"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        here = (self.at[0] >= start) & (self.at[0] < start + len(rows))
        np.add.at(rows, (self.at[0][here] - start, self.at[1][here]), self.values[here])
        return rows

    @property
    def flipped(self) -> "Sparse":
        return Sparse(self.values, self.at[::-1])


@dataclass(frozen=True, slots=True)
class Added:
    """W + the same rows of another tensor, times a factor."""

    read: Callable[[int, int], "Matrix"]
    factor: float = 1.0

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        more = self.read(start, start + len(rows))
        rows += more if self.factor == 1 else more * self.factor
        return rows


@dataclass(frozen=True, slots=True)
class Replaced:
    """The same rows of another tensor: saved modules, trained biases."""

    read: Callable[[int, int], "Matrix"]

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        return self.read(start, start + len(rows))


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows anew: `indices` (n,), `values` (n, width)."""

    indices: "np.typing.NDArray[np.int64]"
    values: "Matrix"

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        here = (self.indices >= start) & (self.indices < start + len(rows))
        rows[self.indices[here] - start] = self.values[here]
        return rows


# --- the whole weight at once -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flipped:
    """A step on the transposed weight."""

    inner: Step

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        return np.ascontiguousarray(self.inner.apply(np.ascontiguousarray(rows.T), start).T)


@dataclass(frozen=True, slots=True)
class Residual:
    """What is left of W after `remove`, and then the inner step: inits that take a part of the base away."""

    remove: Callable[["Matrix"], "Matrix"]
    inner: Step

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        rows -= self.remove(rows)
        return self.inner.apply(rows, start)


# --- parts of a weight ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shifted:
    """A tensor that is the rows from `by` of the weight that the inner step is for."""

    inner: Step
    by: int

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        return self.inner.apply(rows, start + self.by)


@dataclass(frozen=True, slots=True)
class Within:
    """A weight that is the rows [by, by + height) of the tensor; the others stay."""

    inner: Step
    by: int
    height: int

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        first, last = max(start, self.by), min(start + len(rows), self.by + self.height)
        if first < last:
            piece = rows[first - start : last - start]
            piece[...] = self.inner.apply(piece, first - self.by)
        return rows


@dataclass(frozen=True, slots=True)
class Stacked:
    """One step for each expert, whose rows lie `height` apart."""

    steps: Sequence[Step]
    height: int

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        done, stop = start, start + len(rows)
        while done < stop:
            expert, offset = divmod(done, self.height)
            until = min(stop, (expert + 1) * self.height)
            piece = rows[done - start : until - start]
            piece[...] = self.steps[expert].apply(piece, offset)
            done = until
        return rows


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps one after another."""

    steps: Sequence[Step]

    def apply(self, rows: "Matrix", start: int) -> "Matrix":
        for step in self.steps:
            rows = step.apply(rows, start)
        return rows
