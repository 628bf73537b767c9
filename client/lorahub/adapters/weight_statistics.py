"""How large an update is, and of what rank, without ever forming it.

ΔW = scale · up · down, with up (out, r) and down (r, in), has the singular values of R_up · R_downᵀ, r × r, of
the triangles of two thin QR decompositions (Golub and Van Loan, Matrix Computations, 5.2): r² numbers instead
of out · in. Everything is computed in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from lorahub.adapters.adapter import Update
from lorahub.adapters.safetensors_header import TensorEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]

MOST_VALUES = 32
MOST_ELEMENTS = 1 << 28
"""Elements of one module's factors: 2 GiB in float64."""
_MOST_RANK = 4096
_CORES = frozenset({"mid", "t1", "t2"})
_CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True, slots=True)
class UpdateStatistics:
    """What was measured of one ΔW. `singular_values` descending, at most `MOST_VALUES`.

    `effective_rank` is exp of the entropy of the normalised singular values (Roy & Vetterli, 2007); `stable_rank` is
    ‖ΔW‖_F² / σ₁². `relative` is ‖ΔW‖_F / ‖W‖_F where ‖W‖ is known. Figures of an update with NaN are None.
    """

    frobenius: float | None
    singular_values: tuple[float, ...] = ()
    effective_rank: float | None = None
    stable_rank: float | None = None
    nonfinite: int = 0
    relative: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "frobenius": self.frobenius,
            "spectral": self.singular_values[0] if self.singular_values else None,
            "singular_values": list(self.singular_values),
            "effective_rank": self.effective_rank,
            "stable_rank": self.stable_rank,
            "nonfinite": self.nonfinite,
            "is_zero": self.frobenius == 0,
            "relative": self.relative,
        }


def decode(entry: TensorEntry, raw: bytes) -> "Matrix":
    """The tensor as float64. Raises `ValueError` for a dtype that no adapter has."""
    import numpy as np

    if entry.dtype == "BF16":
        words = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        return _shaped(words.view(np.float32).astype(np.float64), entry)
    if entry.dtype not in _CODES:
        raise ValueError(f"{entry.name} is {entry.dtype}")
    return _shaped(np.frombuffer(raw, _CODES[entry.dtype]).astype(np.float64), entry)


def _shaped(values: "Matrix", entry: TensorEntry) -> "Matrix":
    stored = values.reshape(entry.stored_shape)
    return stored.T if entry.is_turned else stored


def is_computable(update: Update) -> bool:
    """Whether the method has a product of factors here, within bounds. Tucker's cores make it another product."""
    if update.tensors.keys() & _CORES:
        return False
    if update.method not in ("lora", "loha", "lokr", "adalora") or (update.rank or 1) > _MOST_RANK:
        return False
    return sum(entry.elements for entry in update.tensors.values()) <= MOST_ELEMENTS and len(update.shape) != 3


def statistics_of(
    update: Update, factors: Mapping[str, "Matrix"], *, base_norm: float | None = None
) -> UpdateStatistics:
    """`factors` by role, as `update.tensors` names them; `base_norm` is ‖W‖_F of the weight it is added to."""
    import numpy as np

    bad = sum(int(np.count_nonzero(~np.isfinite(factor))) for factor in factors.values())
    if bad:
        return UpdateStatistics(None, nonfinite=bad)
    values = np.sort(abs(update.scale) * _singular_values(update, factors))[::-1]
    return _summary(values, base_norm)


def _singular_values(update: Update, factors: Mapping[str, "Matrix"]) -> "Matrix":
    """The singular values of ΔW without its scale; for a Kronecker product all products of its halves'."""
    import numpy as np

    values = np.ones(1)
    for up, down in products_of(update, factors):
        values = np.outer(values, _low_rank(up, down)).ravel()
    return values


def products_of(update: Update, factors: Mapping[str, "Matrix"]) -> list[tuple["Matrix", "Matrix"]]:
    """(up (out, r), down (r, in)) of each matrix whose Kronecker product is ΔW without its scale: of LoKr there are
    two, of anything else one. Kernels are flattened into `in`.
    """
    if update.method == "lokr":
        return [_half(factors, "w1"), _half(factors, "w2")]
    if update.method == "loha":
        return [_hadamard(factors)]
    down, up = factors["down"], factors["up"]
    down, up = down.reshape(down.shape[0], -1), up.reshape(up.shape[0], -1)
    if "diagonal" in factors:
        down = down * factors["diagonal"].reshape(-1, 1)
    return [(up, down)]


def _low_rank(up: "Matrix", down: "Matrix") -> "Matrix":
    import numpy as np

    left = _triangle(up) if up.shape[0] > up.shape[1] else up
    right = _triangle(down.T) if down.shape[1] > down.shape[0] else down.T
    return np.linalg.svd(left @ right.T, compute_uv=False).astype(np.float64)


def _triangle(tall: "Matrix") -> "Matrix":
    import numpy as np

    return cast("Matrix", np.linalg.qr(tall, mode="r"))


def _hadamard(factors: Mapping[str, "Matrix"]) -> tuple["Matrix", "Matrix"]:
    """LoHa as a product of rank r²: (a₁b₁) ∘ (a₂b₂) = (a₁ ⊙ a₂)(b₁ ⊙ b₂), row-wise and column-wise Khatri-Rao."""
    import numpy as np

    a1, b1, a2, b2 = (factors[role] for role in ("w1_a", "w1_b", "w2_a", "w2_b"))
    up = np.einsum("oi,oj->oij", a1, a2).reshape(a1.shape[0], -1)
    down = np.einsum("in,jn->ijn", b1, b2).reshape(-1, b1.shape[1])
    return up, down


def _half(factors: Mapping[str, "Matrix"], half: str) -> tuple["Matrix", "Matrix"]:
    """One half of LoKr as two factors; a whole matrix is itself times one."""
    import numpy as np

    if half not in factors:
        return factors[f"{half}_a"], factors[f"{half}_b"]
    whole = factors[half].reshape(factors[half].shape[0], -1)
    return whole, np.eye(whole.shape[1])


def _summary(values: "Matrix", base_norm: float | None) -> UpdateStatistics:
    import numpy as np

    norm = float(np.sqrt(np.sum(values**2)))
    shown = tuple(float(value) for value in values[:MOST_VALUES])
    relative = norm / base_norm if base_norm else None
    if norm == 0:
        return UpdateStatistics(0.0, shown, 0.0, 0.0, relative=relative)
    shares = values[values > 0] / values.sum()
    entropy = float(-np.sum(shares * np.log(shares)))
    return UpdateStatistics(norm, shown, float(np.exp(entropy)), norm**2 / float(values[0]) ** 2, relative=relative)
