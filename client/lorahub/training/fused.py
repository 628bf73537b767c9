"""LoRA's linear layer as one function: W·x + s·B·(A·x), added in place, and one gradient for x.

PEFT's own forward makes the update, scales it and adds it: two more passes over the layer's output, and over its
input's gradient in the backward. The mathematics is the same.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional


def fuse(model: nn.Module) -> int:
    """Gives plain LoRA layers of `model` the forward above, and says how many there are.

    Others keep PEFT's: with dropout, DoRA, several adapters, a bias of their own, or a base that isn't a frozen
    `nn.Linear`.
    """
    layers = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        layer.forward = _Forward(layer)  # type: ignore[method-assign]
    return len(layers)


def _is_plain(layer: Any) -> bool:
    (name, *others) = layer.active_adapters or [None]
    if others or name not in layer.lora_A or type(layer.base_layer) is not nn.Linear:
        return False
    is_frozen = not any(parameter.requires_grad for parameter in layer.base_layer.parameters())
    is_silent = isinstance(layer.lora_dropout[name], nn.Identity) and not layer.use_dora.get(name, False)
    same = layer.lora_A[name].weight.dtype is layer.base_layer.weight.dtype
    own_forward = layer.lora_variant.get(name) is None and layer.lora_B[name].bias is None
    return is_frozen and is_silent and same and own_forward and not layer.fan_in_fan_out


class _Forward:
    """A layer's forward; asked for anything beyond its input, or once it is merged, PEFT's own."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._own = layer.forward
        (self._name,) = layer.active_adapters

    def __call__(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        layer = self._layer
        if given or named or layer.merged or layer.disable_adapters or layer.active_adapters != [self._name]:
            out: Tensor = self._own(x, *given, **named)
            return out
        base, a, b = layer.base_layer, layer.lora_A[self._name].weight, layer.lora_B[self._name].weight
        fused: Tensor = _Fused.apply(x, base.weight, base.bias, a, b, layer.scaling[self._name])  # type: ignore[no-untyped-call]
        return fused


class _Fused(torch.autograd.Function):
    """x (…, in), weight (out, in), a (r, in), b (out, r) → (…, out), all of one dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.t()
        out = functional.linear(rows.view(x.shape), weight, bias)
        out.view(len(rows), -1).addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale, ctx.shape = scale, x.shape
        return out  # itself, no view of it: models change it in place

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        rows, weight, a, b, low = ctx.saved_tensors
        grad = given.reshape(-1, given.shape[-1])
        small = (grad @ b).mul_(ctx.scale)
        grad_b = (grad.t() @ low).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(small, a).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, small.t() @ rows, grad_b, None
