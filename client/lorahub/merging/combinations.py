"""Several adapters on one base: functions of their ΔW, each with what it preserves, what it takes and what it asks for.

To add a method: its function and its row in `COMBINATIONS`, with a `Parameter` for whatever it asks for that no other
does. Recipes, command lines, the form of the pages and the table in docs/merging.md (`make tables`) are made of these.

`deltas` are float64 matrices of one shape, (rows, columns), one for each adapter; they are used up, because a second
copy of a large tensor is what memory there isn't. `weights` are one number for each. A random choice comes from Philox,
keyed by the seed and the tensor's name: the same recipe chooses the same.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
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
    default: float
    least: float
    most: float
    excludes_least: bool = False
    is_required: bool = False

    def accepts(self, value: float) -> bool:
        return (self.least < value if self.excludes_least else self.least <= value) and value <= self.most


DENSITY = Parameter(
    "density", float, "share of elements kept", "a share above 0, at most 1", 1.0, 0, 1, excludes_least=True
)
RANK = Parameter(
    "rank",
    int,
    "rank of the truncation",
    "a whole number above 0",
    default=0,
    least=1,
    most=1 << 16,
    is_required=True,
)
SEED = Parameter("seed", int, "of the random choice", "a whole number", 0, 0, (1 << 63) - 1)


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
    """`arrays` is the memory that it takes beside the deltas, as a number of such matrices; `reference` is where it is
    described.
    """

    apply: Combine
    preserves: str
    arrays: float
    reference: str
    parameters: tuple[Parameter, ...] = ()

    def asks_for(self, name: str) -> bool:
        return any(parameter.name == name for parameter in self.parameters)


def weighted_sum(deltas: Deltas, weights: Sequence[float], options: Options) -> "Matrix":  # noqa: ARG001
    """Σ wᵢ ΔWᵢ; a negative weight takes a skill away (task arithmetic, arXiv:2212.04089)."""
    for delta, weight in zip(deltas, weights, strict=True):
        np.multiply(delta, weight, out=delta)
    total = deltas[0]
    for delta in deltas[1:]:
        total += delta
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
            weighted_sum, "every ΔW exactly: the rank is the sum of the ranks", 0, "task arithmetic, arXiv:2212.04089"
        ),
        "svd": Combination(
            truncated,
            "the largest singular directions of the sum; the rest is an error it reports",
            5.5,
            "Eckart and Young, 1936",
            (RANK,),
        ),
        "magnitude": Combination(
            magnitude_pruned, "the largest elements of each ΔW", 2, "Han et al., arXiv:1506.02626", (DENSITY,)
        ),
        "dare": Combination(dare, "each ΔW in expectation", 1.25, "DARE, arXiv:2311.03099", (DENSITY, SEED)),
        "ties": Combination(ties, "what most adapters agree on in sign", 2.5, "TIES, arXiv:2306.01708", (DENSITY,)),
        "dare_ties": Combination(
            dare_ties, "agreement in sign, after a random choice", 2.5, "the two together", (DENSITY, SEED)
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
    delta = np.ascontiguousarray(delta)
    flat = delta.reshape(-1)
    if not keep:
        flat.fill(0)
        return delta
    sizes = -np.abs(flat)
    least = np.partition(sizes, keep - 1)[keep - 1]
    if np.isnan(least):
        return delta  # with its NaN, which is refused where it is rounded
    equal = np.flatnonzero(sizes == least)[max(0, keep - np.count_nonzero(sizes < least)) :]
    flat[sizes > least] = 0.0
    flat[equal] = 0.0
    return delta


def _dropped(deltas: Deltas, options: Options) -> list["Matrix"]:
    return [_drop(delta, number, options) for number, delta in enumerate(deltas)]


def _drop(delta: "Matrix", number: int, options: Options) -> "Matrix":
    key = hashlib.sha256(f"{int(options.of(SEED))}\n{number}\n{options.name}".encode()).digest()
    numbers = np.random.Philox(key=int.from_bytes(key[:16], "little")).random_raw(delta.size)
    numbers >>= np.uint64(11)
    is_dropped = (numbers >= np.uint64(ceil(options.of(DENSITY) * 2.0**53))).reshape(delta.shape)
    delta /= options.of(DENSITY)
    delta[is_dropped] = 0.0
    return delta


def _elected(deltas: Deltas, weights: Sequence[float]) -> "Matrix":
    total = sum(abs(weight) for weight in weights)
    for delta, weight in zip(deltas, weights, strict=True):
        np.multiply(delta, weight, out=delta)
    result = deltas[0].copy()
    for delta in deltas[1:]:
        result += delta
    is_plus = result >= 0
    result.fill(0)
    shares = np.zeros_like(result)
    for delta, weight in zip(deltas, weights, strict=True):
        agrees = delta > 0
        agrees ^= is_plus
        np.logical_not(agrees, out=agrees)
        agrees &= delta != 0
        np.add(result, delta, out=result, where=agrees)
        np.add(shares, abs(weight), out=shares, where=agrees)
    np.divide(total, shares, out=shares, where=shares > 0)
    result *= shares
    return result
