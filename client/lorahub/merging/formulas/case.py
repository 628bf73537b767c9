"""One update with all that its formula needs."""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from lorahub.adapters.adapter import Update
from lorahub.adapters.base_changes import BaseChange
from lorahub.errors import NotMergeable
from lorahub.merging.factors import FactorReader

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix

Roles = Mapping[str, "Matrix"]


class Case:
    """One update with its factors in memory."""

    def __init__(
        self,
        update: Update,
        roles: Roles,
        factors: FactorReader,
        change: BaseChange | None,
        shape: tuple[int, ...],
        scale: float,
    ) -> None:
        self.update = update
        self.roles = roles
        self.factors = factors
        self.change = change
        self.shape = shape
        self.scale = scale

    @property
    def out_in(self) -> tuple[int, int]:
        """The weight's (out, in), convolutions flattened."""
        rows, columns = self.shape[0], prod(self.shape[1:])
        return (columns, rows) if self.update.transposed else (rows, columns)

    def refused(self, why: str, hint: str = "save the adapter again") -> NotMergeable:
        return NotMergeable(f"{self.update.module}: {why}", hint=hint)
