"""Bytes that stand in memory from step to step: weights, gradients, AdamW's two moments. Activations come on top."""

from collections.abc import Mapping
from dataclasses import dataclass

NF4_BITS = 4.127
"""A parameter in NF4 with double quantisation: 4 bits, and 8 + 32/256 bits for each 64 (arXiv 2305.14314)."""


@dataclass(frozen=True, slots=True)
class Accounting:
    """Bytes for each parameter that is frozen, and for each that is trained."""

    frozen: float
    trained: float
    says: str
    frozen_linear: float | None = None
    """Bytes of each parameter of a frozen linear layer, where that differs."""


ACCOUNTINGS: Mapping[str, Accounting] = {
    "paper": Accounting(2, 6, "weights and moments in 16 bits, gradients not counted"),
    "16bit": Accounting(2, 8, "weights, gradients and moments in 16 bits"),
    "fp32": Accounting(4, 16, "weights, gradients and moments in 32 bits"),
    "mixed": Accounting(2, 16, "weights and gradients in 16 bits, master and moments in 32"),
    "qlora": Accounting(2, 16, "as mixed, frozen linear layers in NF4", frozen_linear=NF4_BITS / 8),
}


def memory(accounting: Accounting, *, parameters: int, linear: int, trained: int, is_full: bool) -> int:
    """Bytes. `linear` of the `parameters` are linear layers; `trained` are new ones, unless all are trained."""
    if is_full:
        return round(accounting.trained * parameters)
    of_linear = accounting.frozen if accounting.frozen_linear is None else accounting.frozen_linear
    frozen = of_linear * linear + accounting.frozen * (parameters - linear)
    return round(frozen + accounting.trained * trained)
