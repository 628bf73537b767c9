"""Where adapters meet the base. A slot stands in for one module's `forward`; all slots of a session read one `State`.

The module itself stays as it is, its weight is only read: y = W·x + (x·A)·B. A swap is the assignment of another state,
whatever the number of modules; without an adapter a slot hands back what the module gave, to the bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorahub.errors import InvalidUsage

Active = str | tuple[str | None, ...] | None
"""An adapter for all rows of a batch, one for each row, or the base alone."""


@dataclass(frozen=True, slots=True)
class FactorPair:
    """One module's factors: `a` (rank, in), `b` (rank, out) with the scale in it. Of an embedding, `a` is (rows, rank).

    In a mixture of k adapters both have a dimension (k) before these, and ranks are filled up with zeros.
    """

    a: Tensor
    b: Tensor
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        return self.b.shape[-2]

    def delta(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out); of an embedding, ids (…) -> (…, out)."""
        inner = functional.embedding(x, self.a) if self.is_embedding else functional.linear(x.to(self.a.dtype), self.a)
        return inner @ self.b

    def delta_by_row(self, x: Tensor, rows: Tensor) -> Tensor:
        """The same with an adapter for each row: x (rows, …, in), or ids (rows, …), and `rows` (rows) numbers of
        adapters. Raises `InvalidUsage` where the batch has other rows.
        """
        if x.ndim < 3 - self.is_embedding or len(x) != len(rows):
            raise InvalidUsage(
                f"the mix has {len(rows)} rows, the batch is {list(x.shape)}",
                hint="name one adapter, or None, for each row of the batch",
            )
        if self.is_embedding:
            inner = self.a[rows.view(-1, *[1] * (x.ndim - 1)), x].flatten(1, -2)
        else:
            inner = torch.bmm(x.flatten(1, -2).to(self.a.dtype), self.a[rows].transpose(1, 2))
        return torch.bmm(inner, self.b[rows]).view(*(x.shape if self.is_embedding else x.shape[:-1]), -1)


class Effect(Protocol):
    """What another method makes of a module: it stands between input and output. `forward` is the module's own."""

    @property
    def tensors(self) -> tuple[Tensor, ...]: ...

    def __call__(self, forward: Callable[..., Tensor], x: Tensor, *rest: Any, **named: Any) -> Tensor: ...


class Before(Protocol):
    """What stands before the tokens of the whole model. `given` are the arguments of its `forward`, by name."""

    @property
    def tensors(self) -> tuple[Tensor, ...]: ...

    @property
    def length(self) -> int: ...

    def __call__(self, forward: Callable[..., Any], model: Any, given: dict[str, Any], cache_name: str) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What acts now. `pairs` and `effects` are by module, a module has one of them; `front` acts on the whole model.

    `rows` (rows) says which of a mixture acts on which row of the batch.
    """

    active: Active = None
    pairs: Mapping[str, FactorPair] = field(default_factory=dict)
    rows: Tensor | None = None
    effects: Mapping[str, Effect] = field(default_factory=dict)
    front: Before | None = None


@dataclass(slots=True)
class Live:
    """What all slots of a session look at."""

    state: State = field(default_factory=State)


class ModuleSlot:
    """A module's `forward`, and behind it whatever acts on this module."""

    def __init__(self, name: str, module: nn.Module, live: Live) -> None:
        self.name = name
        self.live = live
        self._module = module
        self._before: Callable[..., Tensor] | None = module.__dict__.get("forward")
        self._forward: Callable[..., Tensor] = module.forward
        module.forward = self

    def __call__(self, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        state = self.live.state
        if self.name in state.effects:
            return state.effects[self.name](self._forward, x, *rest, **named)
        y = self._forward(x, *rest, **named)
        pair = state.pairs.get(self.name)
        if pair is None:
            return y
        delta = pair.delta(x) if state.rows is None else pair.delta_by_row(x, state.rows)
        return y + delta.to(y.dtype)

    @staticmethod
    def refuse_taken(module: nn.Module) -> None:
        """Two sessions would add to each other's output."""
        if isinstance(module.__dict__.get("forward"), ModuleSlot):
            raise InvalidUsage("another session has this model", hint="close it, or load both adapters into it")

    def remove(self) -> None:
        """The module is as it was."""
        if self._before is None:
            del self._module.forward
        else:
            self._module.forward = self._before
