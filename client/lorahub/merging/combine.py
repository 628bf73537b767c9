"""Several adapters on one base: pure functions on their ΔW, each with what it preserves and what it asks for.

To add a method: its function and its row in `COMBINATIONS`, with a `Parameter` for whatever it asks for that no other
does. Recipes, command lines, the form of the pages and the table in docs/merging.md (`make tables`) are made of these.

`deltas` are float64 matrices of one shape, (rows, columns), one for each adapter; `weights` one number for each. A
random choice comes from Philox, keyed by the seed and the tensor's name: the same recipe chooses the same.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a method may be told. `about` follows a colon, `asks` the words "it is"."""

    name: str
    kind: type[int] | type[float]
    about: str
    asks: str
    accepts: Callable[[float], bool]
    default: float
    is_required: bool = False


DENSITY = Parameter(
    "density", float, "share of elements kept", "a share above 0, at most 1", lambda value: 0 < value <= 1, 1.0
)
RANK = Parameter(
    "rank",
    int,
    "rank of the truncation",
    "a whole number above 0",
    lambda value: 0 < value <= 1 << 16,
    0,
    is_required=True,
)
SEED = Parameter("seed", int, "of the random choice", "a whole number", lambda value: value >= 0, 0)


@dataclass(frozen=True, slots=True)
class Options:
    """Values of parameters by name, and the tensor's name."""

    values: Mapping[str, float] = field(default_factory=dict)
    name: str = ""

    def of(self, parameter: Parameter) -> float:
        return self.values.get(parameter.name, parameter.default)


Deltas = Sequence["Matrix"]
Combine = Callable[[Deltas, Sequence[float], Options], "Matrix"]


@dataclass(frozen=True, slots=True)
class Combination:
    """`reference` is where it is described."""

    apply: Combine
    preserves: str
    reference: str
    parameters: tuple[Parameter, ...] = ()

    def asks_for(self, name: str) -> bool:
        return any(parameter.name == name for parameter in self.parameters)


def weighted_sum(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":  # noqa: ARG001
    """Σ wᵢ ΔWᵢ; a negative weight takes a skill away (task arithmetic, arXiv:2212.04089)."""
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total += delta * weight
    return total


def truncated(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """The best approximation of Σ wᵢ ΔWᵢ with `rank` (Eckart-Young)."""
    left, right, _ = truncate(weighted_sum(deltas, weights, options), int(options.of(RANK)))
    return left @ right


def magnitude_pruned(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """Σ wᵢ of the `density` largest elements of each ΔWᵢ."""
    return weighted_sum([largest(delta, options.of(DENSITY)) for delta in deltas], weights, options)


def dare(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """Each element kept with probability `density` and divided by it (arXiv:2311.03099)."""
    return weighted_sum([*_dropped(deltas, options)], weights, options)


def ties(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """Trim to `density`, elect a sign for each element, and average what agrees with it (arXiv:2306.01708).

    The sign is that of the weighted sum, zero counts as plus; the average is Σ wᵢ ΔWᵢ / Σ |wᵢ| over those that agree,
    times Σ |wᵢ|, so that one adapter alone stays as it is.
    """
    return _elected([largest(delta, options.of(DENSITY)) for delta in deltas], weights)


def dare_ties(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":
    """DARE's random choice in place of TIES' trim."""
    return _elected([*_dropped(deltas, options)], weights)


COMBINATIONS: Mapping[str, Combination] = MappingProxyType(
    {
        "sum": Combination(
            weighted_sum, "every ΔW exactly: the rank is the sum of the ranks", "task arithmetic, arXiv:2212.04089"
        ),
        "svd": Combination(
            truncated,
            "the largest singular directions of the sum; the rest is an error it reports",
            "Eckart and Young, 1936",
            (RANK,),
        ),
        "magnitude": Combination(
            magnitude_pruned, "the largest elements of each ΔW", "Han et al., arXiv:1506.02626", (DENSITY,)
        ),
        "dare": Combination(dare, "each ΔW in expectation", "DARE, arXiv:2311.03099", (DENSITY, SEED)),
        "ties": Combination(ties, "what most adapters agree on in sign", "TIES, arXiv:2306.01708", (DENSITY,)),
        "dare_ties": Combination(
            dare_ties, "agreement in sign, after a random choice", "the two together", (DENSITY, SEED)
        ),
    }
)

PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {
        one.name: one
        for one in sorted({one for made in COMBINATIONS.values() for one in made.parameters}, key=lambda it: it.name)
    }
)
"""All of them, by name."""


def methods_with(parameter: Parameter) -> list[str]:
    return [name for name, made in COMBINATIONS.items() if parameter in made.parameters]


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
    key = hashlib.sha256(f"{int(options.of(SEED))}\n{number}\n{options.name}".encode()).digest()
    numbers = np.random.Philox(key=int.from_bytes(key[:16], "little")).random_raw(delta.size)
    kept = (numbers >> np.uint64(11)).astype(np.float64) < options.of(DENSITY) * 2.0**53
    return np.where(kept.reshape(delta.shape), delta / options.of(DENSITY), 0.0)


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
