"""How alike two updates of one weight are, without ever forming either.

With ΔW = U Σ Vᵀ of each, ⟨ΔW₁, ΔW₂⟩ = σ₁ᵀ (U₁ᵀU₂ ∘ V₁ᵀV₂) σ₂. Two subspaces of i and j dimensions share
φ = ‖U₁ᵀU₂‖_F² / min(i, j) of their directions (Hu et al., LoRA, 2021, section 7.2): the squared cosines of the
principal angles between them, over the most that they can come to. i and j are the numerical ranks.

The paper looks at A, the side of the inputs that an update listens to: the right singular vectors. A starts at random
and B at zero, so two runs with one seed share much of A before they have learned anything, and what B writes, the left
singular vectors, is all learned. Neither side stands for the other, so both are told.

U, σ and V come from thin QR decompositions of the factors and an SVD of r × r numbers. Everything in float64.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorahub.adapters.adapter import Update
from lorahub.adapters.weight_statistics import is_computable, products_of

if TYPE_CHECKING:
    from lorahub.adapters.weight_statistics import Matrix


@dataclass(frozen=True, slots=True)
class Overlap:
    """How alike the updates are that two adapters make to one weight; the same whichever comes first.

    `cosine` is that of the angle between them as vectors, −1 to 1. `input` and `output` are φ, 0 to 1; subspaces of
    these ranks drawn at random would share `input_chance` and `output_chance`. `inner` is ⟨ΔW₁, ΔW₂⟩.
    """

    cosine: float
    input: float
    output: float
    input_chance: float
    output_chance: float
    inner: float
    norms: tuple[float, float]

    def as_json(self) -> dict[str, float]:
        return {"cosine": self.cosine, **{name: getattr(self, name) for name in _SHARES}}


_SHARES = ("input", "output", "input_chance", "output_chance")


def why_not(first: Update, second: Update) -> str | None:
    """Why the two can't be compared, as far as headers tell; None where they can."""
    for update in (first, second):
        if update.is_dora:
            return "DoRA: what it changes depends on the base's weights"
        if not is_computable(update):
            return f"{update.method}, rank {update.rank}: no product of factors that is computed here"
    if first.shape != second.shape or first.kind is not second.kind:
        return "their shapes differ"
    if (first.method == "lokr") != (second.method == "lokr"):
        return "one is a Kronecker product, the other is none"
    return None


def overlap_of(
    first: Update, first_factors: Mapping[str, "Matrix"], second: Update, second_factors: Mapping[str, "Matrix"]
) -> Overlap | str:
    """`…_factors` by role, of two updates for which `why_not` is None. Where there is nothing to compare, why."""
    import numpy as np

    if not all(np.isfinite(one).all() for one in (*first_factors.values(), *second_factors.values())):
        return "one of them holds NaN or infinity"
    pairs = list(zip(products_of(first, first_factors), products_of(second, second_factors), strict=True))
    if any(one[0].shape[0] != two[0].shape[0] or one[1].shape[1] != two[1].shape[1] for one, two in pairs):
        return "their Kronecker factors have other shapes"
    if first.scale == 0 or second.scale == 0:
        return "one of them changes nothing"
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            bases = [(_directions(*one), _directions(*two)) for one, two in pairs]
            if not all(len(found.values) for pair in bases for found in pair):
                return "one of them changes nothing"
            made = _product([_compare(*pair) for pair in bases], (first.scale, second.scale))
    except np.linalg.LinAlgError:
        made = None
    return "their sizes are beyond what float64 holds" if made is None else made


@dataclass(frozen=True, slots=True)
class _Directions:
    """The SVD of a matrix, up to its numerical rank n."""

    left: "Matrix"
    """(out, n)"""
    values: "Matrix"
    right: "Matrix"
    """(in, n)"""


def _directions(up: "Matrix", down: "Matrix") -> _Directions:
    import numpy as np

    left, left_triangle = np.linalg.qr(up)
    right, right_triangle = np.linalg.qr(down.T)
    inner_left, values, inner_right = np.linalg.svd(left_triangle @ right_triangle.T, full_matrices=False)
    least = values[0] * max(up.shape[0], down.shape[1]) * np.finfo(np.float64).eps if len(values) else 0.0
    rank = int(np.count_nonzero(values > least))
    return _Directions(left @ inner_left[:, :rank], values[:rank], right @ inner_right[:rank].T)


@dataclass(frozen=True, slots=True)
class _Compared:
    """Two matrices compared; every figure of a Kronecker product is the product of its parts' figures."""

    inner: float
    norms: tuple[float, float]
    ranks: tuple[int, int]
    left: float
    """‖U₁ᵀU₂‖_F²"""
    right: float
    shape: tuple[int, int]


def _compare(one: _Directions, two: _Directions) -> _Compared:
    import numpy as np

    left, right = one.left.T @ two.left, one.right.T @ two.right
    return _Compared(
        inner=float(one.values @ (left * right) @ two.values),
        norms=(float(np.linalg.norm(one.values)), float(np.linalg.norm(two.values))),
        ranks=(len(one.values), len(two.values)),
        left=float(np.sum(left**2)),
        right=float(np.sum(right**2)),
        shape=(one.left.shape[0], one.right.shape[0]),
    )


def _product(parts: Sequence[_Compared], scales: tuple[float, float]) -> Overlap | None:
    """None beyond float64."""
    inner = math.prod(part.inner for part in parts) * scales[0] * scales[1]
    norms = tuple(abs(scales[side]) * math.prod(part.norms[side] for part in parts) for side in (0, 1))
    ranks = [math.prod(part.ranks[side] for part in parts) for side in (0, 1)]
    if not all(0 < norm < math.inf for norm in norms):
        return None
    out, width = (math.prod(part.shape[side] for part in parts) for side in (0, 1))
    return Overlap(
        cosine=_within(inner / norms[0] / norms[1], -1.0),
        input=_within(math.prod(part.right for part in parts) / min(ranks), 0.0),
        output=_within(math.prod(part.left for part in parts) / min(ranks), 0.0),
        input_chance=max(ranks) / width,
        output_chance=max(ranks) / out,
        inner=inner,
        norms=(norms[0], norms[1]),
    )


def _within(value: float, least: float) -> float:
    """What rounding left beyond the ends."""
    return max(least, min(1.0, value))


def of_the_whole(overlaps: Sequence[Overlap]) -> dict[str, Any]:
    """How alike two adapters are, over the `modules` that were compared: the cosine of all of them as one long vector,
    and the means of the others. None where there are none.
    """
    if not overlaps:
        return {"modules": 0, "cosine": None, **dict.fromkeys(_SHARES)}
    inner = math.fsum(one.inner for one in overlaps)
    lengths = [math.hypot(*(one.norms[side] for one in overlaps)) for side in (0, 1)]
    means = {name: math.fsum(getattr(one, name) for one in overlaps) / len(overlaps) for name in _SHARES}
    return {"modules": len(overlaps), "cosine": _within(inner / lengths[0] / lengths[1], -1.0), **means}
