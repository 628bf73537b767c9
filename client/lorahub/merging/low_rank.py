"""ΔW as a product of two thin matrices: exactly, where a method's own algebra says so, or the best of a rank.

The best is Eckart and Young's (1936), from the eigenvectors of ΔWᵀΔW or ΔWΔWᵀ, whichever is smaller: ΔW is read twice
and never decomposed itself, in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lorahub.errors import NotConvertible
from lorahub.merging.steps import Hadamard, Kronecker, Product, Step

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix

    Blocks = Callable[[], Iterator[tuple[int, Matrix]]]

_NOTHING = 1e-13
"""A share of ‖ΔW‖² that sums of float64 don't tell from none."""
_PANEL_BYTES = 1 << 28
"""What columns of a wide ΔW are held at once."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a LoRA may lose: it has at most `rank`, and keeps at least the share `keep` of ‖ΔW‖² where the rank allows
    that. Without either, nothing.
    """

    rank: int | None = None
    keep: float | None = None

    @property
    def is_exact(self) -> bool:
        return self.rank is None and self.keep is None

    def takes(self, rank: int) -> bool:
        """Whether something of this rank is left as it is."""
        return self.keep is None and (self.rank is None or rank <= self.rank)

    def chosen(self, squares: "Matrix") -> int:
        """How many of the squared singular values, which are in descending order."""
        count = max(1, int(np.count_nonzero(squares > squares[0] * _NOTHING)))
        if self.keep is not None:
            count = min(count, 1 + int(np.searchsorted(np.cumsum(squares), self.keep * squares.sum())))
        return count if self.rank is None else min(count, self.rank)


@dataclass(frozen=True, slots=True)
class Approximation:
    """ΔW ≈ product; `lost` is ‖ΔW − product‖², `size` ‖ΔW‖², both Frobenius."""

    product: Product
    lost: float
    size: float


def product_of(step: Step) -> Product | None:
    """The step as one product, where it is one whatever the weight: LoRA's, LoHa's of rank r², LoKr's of r₁·r₂."""
    if isinstance(step, Product):
        return step
    if isinstance(step, Hadamard):
        one, two, rows = step.one, step.two, len(step.one.left)
        if not _is_thin(one, two, (rows, step.one.right.shape[1])):
            return None  # the factors would be larger than what they make
        right = _face_splitting(one.right.T, two.right.T).T
        return Product(_face_splitting(one.left, two.left), np.ascontiguousarray(right))
    if isinstance(step, Kronecker):
        _refuse_not_finite(step.one, step.two)
        one, two = _thin_factors(step.one), _thin_factors(step.two)
        shape = len(step.one) * len(step.two), step.one.shape[1] * step.two.shape[1]
        if not _is_thin(one, two, shape):
            return None
        return Product(_kron(one.left, two.left), _kron(one.right, two.right))
    return None


def _is_thin(one: Product, two: Product, shape: tuple[int, int]) -> bool:
    """Whether the rank of their product of products is below what a matrix of this shape may have."""
    return bool(one.left.shape[1] * two.left.shape[1] < min(shape))


def _refuse_not_finite(*matrices: "Matrix") -> None:
    """Raises `NotConvertible`: a decomposition of NaN never ends, or is none."""
    if not all(np.isfinite(matrix).all() for matrix in matrices):
        raise NotConvertible("an update has NaN or infinity", hint="train it again: no runtime gets along with it")


def _face_splitting(one: "Matrix", two: "Matrix") -> "Matrix":
    """(n, r) and (n, s) -> (n, r·s), every row the Kronecker product of the two: (AB) ∘ (CD) = (A • C)(Bᵀ • Dᵀ)ᵀ."""
    return np.asarray((one[:, :, None] * two[:, None, :]).reshape(len(one), -1), np.float64)


def _kron(one: "Matrix", two: "Matrix") -> "Matrix":
    return np.asarray(np.kron(one, two), np.float64)


def _thin_factors(matrix: "Matrix") -> Product:
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    rank = max(1, np.count_nonzero(s > s[0] * max(matrix.shape) * np.finfo(np.float64).eps))
    return Product(u[:, :rank] * s[:rank], v[:rank])


def of_product(product: Product, limit: Limit) -> Approximation:
    """The best of what is a product already, by the decomposition of a small core."""
    _refuse_not_finite(product.left, product.right)
    left, outer = np.linalg.qr(product.left)
    right, inner = np.linalg.qr(product.right.T)
    u, s, v = np.linalg.svd(outer @ inner.T)
    size = float(np.sum(s**2))
    if limit.takes(product.left.shape[1]) or not size:
        return Approximation(product, 0.0, size)
    rank = limit.chosen(s**2)
    root = np.sqrt(s[:rank])
    made = Product((left @ u[:, :rank]) * root, root[:, None] * (v[:rank] @ right.T))
    return _measured(made, float(np.sum(s[rank:] ** 2)), size)


def of_blocks(shape: tuple[int, int], blocks: "Blocks", limit: Limit) -> Approximation:
    """The best of ΔW (rows, columns), which `blocks` gives from the first row to the last, each time it is asked."""
    rows, columns = shape
    is_tall = columns <= rows
    gram = _gram(shape, blocks) if is_tall else _outer_gram(shape, blocks)
    _refuse_not_finite(gram)
    squares, vectors = np.linalg.eigh(gram)
    squares, vectors = np.maximum(squares[::-1], 0.0), vectors[:, ::-1]
    size = float(squares.sum())
    if not size:
        return Approximation(Product(np.zeros((rows, 1)), np.zeros((1, columns))), 0.0, 0.0)
    rank = limit.chosen(squares)
    kept = np.ascontiguousarray(vectors[:, :rank])
    root = np.sqrt(np.sqrt(squares[:rank]))
    if is_tall:
        left = np.concatenate([block @ kept for _, block in blocks()])
        made = Product(left / root, root[:, None] * kept.T)
    else:
        right = np.zeros((rank, columns))
        for start, block in blocks():
            right += kept[start : start + len(block)].T @ block
        made = Product(kept * root, right / root[:, None])
    return _measured(made, float(squares[rank:].sum()), size)


def _measured(made: Product, lost: float, size: float) -> Approximation:
    return Approximation(made, lost if lost > size * _NOTHING else 0.0, size)


def _gram(shape: tuple[int, int], blocks: "Blocks") -> "Matrix":
    """ΔWᵀ · ΔW (columns, columns)."""
    total = np.zeros((shape[1], shape[1]))
    for _, block in blocks():
        total += block.T @ block
    return total


def _outer_gram(shape: tuple[int, int], blocks: "Blocks") -> "Matrix":
    """ΔW · ΔWᵀ (rows, rows), from a panel of columns after another; ΔW is asked for once for each."""
    rows, columns = shape
    total, width = np.zeros((rows, rows)), max(1, _PANEL_BYTES // (8 * rows))
    for first in range(0, columns, width):
        panel = np.empty((rows, min(width, columns - first)))
        for start, block in blocks():
            panel[start : start + len(block)] = block[:, first : first + width]
        total += panel @ panel.T
    return total
