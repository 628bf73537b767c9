"""Several adapters on one base: pure functions on their ΔW, each with what it preserves.

`deltas` are float64 matrices of one shape, (rows, columns), one for each adapter; `weights` one number for each. A
random choice comes from Philox, keyed by the seed and the tensor's name: the same recipe chooses the same.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix


@dataclass(frozen=True, slots=True)
class Options:
    """`density` is the share of elements kept, in (0, 1]; `rank` that of the truncation; `name` the tensor's."""

    density: float = 1.0
    rank: int = 0
    seed: int = 0
    name: str = ""


Deltas = Sequence["Matrix"]
Combine = Callable[[Deltas, Sequence[float], Options], "Matrix"]


@dataclass(frozen=True, slots=True)
class Combination:
    """`options` are the settings it asks for."""

    apply: Combine
    preserves: str
    options: tuple[str, ...] = ()


def weighted_sum(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":  # noqa: ARG001
    """Σ wᵢ ΔWᵢ; a negative weight takes a skill away (task arithmetic, arXiv:2212.04089)."""
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total += delta * weight
    return total


def truncated(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """The best approximation of Σ wᵢ ΔWᵢ with `rank` (Eckart-Young)."""
    left, right, _ = truncate(weighted_sum(deltas, weights, options), options.rank)
    return left @ right


def magnitude_pruned(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """Σ wᵢ of the `density` largest elements of each ΔWᵢ."""
    return weighted_sum([largest(delta, options.density) for delta in deltas], weights, options)


def dare(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """Each element kept with probability `density` and divided by it (arXiv:2311.03099)."""
    return weighted_sum([*_dropped(deltas, options)], weights, options)


def ties(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """Trim to `density`, elect a sign for each element, and average what agrees with it (arXiv:2306.01708).

    The sign is that of the weighted sum, zero counts as plus; the average is Σ wᵢ ΔWᵢ / Σ |wᵢ| over those that agree,
    times Σ |wᵢ|, so that one adapter alone stays as it is.
    """
    return _elected([largest(delta, options.density) for delta in deltas], weights)


def dare_ties(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """DARE's random choice in place of TIES' trim."""
    return _elected([*_dropped(deltas, options)], weights)


COMBINATIONS: dict[str, Combination] = {
    "sum": Combination(weighted_sum, "every ΔW exactly: the rank is the sum of the ranks"),
    "svd": Combination(
        truncated, "the largest singular directions of the sum; the rest is an error it reports", ("rank",)
    ),
    "magnitude": Combination(magnitude_pruned, "the largest elements of each ΔW", ("density",)),
    "dare": Combination(dare, "each ΔW in expectation", ("density", "seed")),
    "ties": Combination(ties, "what most adapters agree on in sign", ("density",)),
    "dare_ties": Combination(dare_ties, "agreement in sign, after a random choice", ("density", "seed")),
}


def truncate(delta: "Matrix", rank: int) -> tuple["Matrix", "Matrix", float]:
    """(left (rows, r), right (r, columns), error): ‖ΔW − left·right‖_F / ‖ΔW‖_F, 0 where ΔW is."""
    u, s, v = np.linalg.svd(delta, full_matrices=False)
    root = np.sqrt(s[:rank])
    total = float(np.sum(s**2))
    error = float(np.sqrt(np.sum(s[rank:] ** 2) / total)) if total else 0.0
    return u[:, :rank] * root, root[:, None] * v[:rank], error


def largest(delta: "Matrix", density: float) -> "Matrix":
    """Zeros but for the `density` largest absolute values; of equal ones, the first."""
    keep = round(density * delta.size)
    if keep >= delta.size:
        return delta
    order = np.argsort(-np.abs(delta), axis=None, kind="stable")[:keep]
    kept = np.zeros_like(delta)
    kept.flat[order] = delta.flat[order]
    return kept


def _dropped(deltas: Deltas, options: Options) -> list["Matrix"]:
    return [_drop(delta, number, options) for number, delta in enumerate(deltas)]


def _drop(delta: "Matrix", number: int, options: Options) -> "Matrix":
    key = hashlib.sha256(f"{options.seed}\n{number}\n{options.name}".encode()).digest()
    numbers = np.random.Philox(key=int.from_bytes(key[:16], "little")).random_raw(delta.size)
    kept = (numbers >> np.uint64(11)).astype(np.float64) < options.density * 2.0**53
    return np.where(kept.reshape(delta.shape), delta / options.density, 0.0)


def _elected(deltas: Deltas, weights: Sequence[float]) -> "Matrix":
    total = sum(abs(weight) for weight in weights)
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    is_plus = sum(weighted) >= 0
    result, shares = np.zeros_like(deltas[0]), np.zeros_like(deltas[0])
    for delta, weight in zip(weighted, weights, strict=True):
        agrees = (delta != 0) & ((delta > 0) == is_plus)
        result += np.where(agrees, delta, 0.0)
        shares += np.where(agrees, abs(weight), 0.0)
    return result * np.divide(total, shares, out=np.zeros_like(shares), where=shares > 0)
