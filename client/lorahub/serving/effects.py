"""What adapters other than plain LoRA make of a module: of what goes in (x), of what comes out (y)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorahub.serving.slots import FactorPair

Forward = Callable[..., Tensor]

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu}
)


@dataclass(frozen=True, slots=True)
class ShiftEffect:
    """y + by: BitFit. `by` (out)."""

    by: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.by,)

    def __call__(self, forward: Forward, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        return forward(x, *rest, **named) + self.by


@dataclass(frozen=True, slots=True)
class FactorEffect:
    """y ∘ by, in feed-forward modules x ∘ by: IA3 (arXiv 2205.05638). `by` (out), or (in)."""

    by: Tensor
    is_of_input: bool

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.by,)

    def __call__(self, forward: Forward, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        return forward(x * self.by, *rest, **named) if self.is_of_input else forward(x, *rest, **named) * self.by


@dataclass(frozen=True, slots=True)
class Rescaled:
    """y ∘ gain + shift + (x·A)·B: DoRA (arXiv 2402.09353), its norms computed once. `gain` and `shift` (out)."""

    pair: FactorPair
    gain: Tensor
    shift: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.pair.a, self.pair.b, self.gain, self.shift)

    def __call__(self, forward: Forward, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        y = forward(x, *rest, **named)
        return y * self.gain + self.shift + self.pair.delta(x).to(y.dtype)

    @classmethod
    def of(cls, pair: FactorPair, magnitude: Tensor, weight: Tensor, bias: Tensor | None) -> "Rescaled":
        """`weight` (out, in), all in float64. W' = m / ‖V‖ · V with V = W + B·A, a norm for each output."""
        gain = magnitude / torch.linalg.vector_norm(weight + (pair.a.T @ pair.b).T, dim=1)
        kept = torch.zeros_like(gain) if bias is None else bias * (1 - gain)
        return cls(FactorPair(pair.a, pair.b * gain), gain, kept)


@dataclass(frozen=True, slots=True)
class BottleneckEffect:
    """y + up · f(down · y): Houlsby's and Pfeiffer's adapters (arXiv 1902.00751, 2005.00247).

    `down` (bottleneck, width), `up` (width, bottleneck), perhaps with biases.
    """

    down: Tensor
    up: Tensor
    down_bias: Tensor | None
    up_bias: Tensor | None
    activation: str

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.down, self.up, self.down_bias, self.up_bias) if t is not None)

    def __call__(self, forward: Forward, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        return self.behind(forward(x, *rest, **named))

    def behind(self, y: Tensor) -> Tensor:
        inner = ACTIVATIONS[self.activation](functional.linear(y, self.down, self.down_bias))
        return y + functional.linear(inner, self.up, self.up_bias)


@dataclass(frozen=True, slots=True)
class ExpertPair:
    """A parameter's factors, the scale in `b`: `a` (experts, rank, in), `b` (experts, out, rank), without the first
    dimension where the parameter has two. `is_turned`: it is (experts, in, out).
    """

    a: Tensor
    b: Tensor
    is_turned: bool = False

    def added(self, weight: Tensor) -> Tensor:
        left, right = (self.a.mT, self.b.mT) if self.is_turned else (self.b, self.a)
        total = torch.addmm if weight.ndim == 2 else torch.baddbmm
        return total(weight, left.to(weight.dtype), right.to(weight.dtype))


@dataclass(frozen=True, slots=True)
class ParameterEffect:
    """A module with bare parameters: while its forward runs, it sees W + B·A in their place.

    The sum is made for each forward and given up behind it, as PEFT does it: it takes the room of the parameter.
    """

    module: nn.Module
    pairs: Mapping[str, ExpertPair]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for pair in self.pairs.values() for tensor in (pair.a, pair.b))

    def __call__(self, forward: Forward, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        seen: dict[str, Any] = self.module._parameters  # noqa: SLF001  elsewhere nothing but parameters may stand
        before = {name: seen[name] for name in self.pairs}
        try:
            seen |= {name: pair.added(before[name]) for name, pair in self.pairs.items()}
            return forward(x, *rest, **named)
        finally:
            seen |= before
