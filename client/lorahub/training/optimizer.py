"""AdamW on flat buffers: parameters in the model's dtype, their masters, moments and gradients in float32.

A bf16 parameter loses steps smaller than 1/256 of itself; its master doesn't. Parameters and gradients of the model
become views of the buffers, so that a step is a handful of operations whatever the number of tensors.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lorahub.training.config import Schedule

_DECAY = 0.2  # of the steps of warm-up, stable, decay
Groups = Sequence[tuple[Sequence[tuple[str, nn.Parameter]], float]]


class _Flat:
    """Parameters of one dtype and one factor on the learning rate, end to end."""

    def __init__(self, parameters: Sequence[nn.Parameter], factor: float) -> None:
        first = parameters[0]
        size = sum(parameter.numel() for parameter in parameters)
        self.factor = factor
        self.values = torch.empty(size, dtype=first.dtype, device=first.device)
        self.grads = torch.zeros_like(self.values)
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            self.values[start:stop] = parameter.data.flatten()
            parameter.data = self.values[start:stop].view_as(parameter)
            parameter.grad = self.grads[start:stop].view_as(parameter)
            start = stop
        is_exact = first.dtype is torch.float32
        self.master = nn.Parameter(self.values if is_exact else self.values.float())
        self.sums = self.grads if is_exact else torch.zeros_like(self.master)
        self.master.grad = self.sums

    def collect(self) -> None:
        """What the last backward gave joins the sum, in float32."""
        if self.sums is not self.grads:
            self.sums += self.grads
            self.grads.zero_()

    def publish(self) -> None:
        """The model sees its masters."""
        if self.values.data_ptr() != self.master.data_ptr():
            self.values.copy_(self.master.detach())


class FlatAdamW:
    """betas (0.9, 0.999); gradients are clipped to a norm of `clip` over all groups."""

    def __init__(self, groups: Groups, *, lr: float, weight_decay: float, clip: float) -> None:
        self._flats = [
            _Flat(parameters, factor) for named, factor in groups for parameters in _by_kind(p for _, p in named)
        ]
        self._lr = lr
        self._clip = clip
        device = self._flats[0].values.device
        self._adam = torch.optim.AdamW(
            [{"params": [flat.master]} for flat in self._flats],
            lr=lr,
            weight_decay=weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )

    @property
    def parameters(self) -> int:
        return sum(flat.master.numel() for flat in self._flats)

    def collect(self) -> None:
        for flat in self._flats:
            flat.collect()

    def grad_norm(self) -> float:
        """The norm of all gradients collected since the last step. Not finite where some gradient isn't."""
        return float(torch.stack([torch.linalg.vector_norm(flat.sums) for flat in self._flats]).norm())

    def step(self, factor: float, grad_norm: float) -> None:
        """`factor` is the schedule's, on the learning rate."""
        if grad_norm > self._clip:
            for flat in self._flats:
                flat.sums *= self._clip / grad_norm
        for group, flat in zip(self._adam.param_groups, self._flats, strict=True):
            group["lr"] = self._lr * factor * flat.factor
        self._adam.step()
        self.clear()
        for flat in self._flats:
            flat.publish()

    def clear(self) -> None:
        for flat in self._flats:
            flat.sums.zero_()
            flat.grads.zero_()

    # --- kept ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        kept: dict[str, Tensor] = {}
        for number, flat in enumerate(self._flats):
            kept[f"{number}.master"] = flat.master.detach()
            kept |= {f"{number}.{name}": value for name, value in self._adam.state[flat.master].items()}
        return kept

    def load(self, kept: Mapping[str, Tensor]) -> None:
        """Raises `KeyError`, `RuntimeError` where it is another model's."""
        for number, flat in enumerate(self._flats):
            with torch.no_grad():
                flat.master.copy_(kept[f"{number}.master"])
            state = {
                name: kept[f"{number}.{name}"]
                for name in ("step", "exp_avg", "exp_avg_sq")
                if f"{number}.{name}" in kept
            }
            device = flat.master.device
            self._adam.state[flat.master] = {
                name: value.to("cpu" if name == "step" and device.type == "cpu" else device, copy=True)
                for name, value in state.items()
            }
            flat.publish()


def _by_kind(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(kinds.values())


def schedule(step: int, steps: int, warmup: float, shape: Schedule = "linear") -> float:
    """The factor on the learning rate at step 0 … steps − 1: up in a line over `warmup` of them, then by `shape`.

    linear     down to 0 in a line
    cosine     down to 0 by half a wave (arXiv 1608.03983)
    constant   as it is
    wsd        as it is, and down to 0 in a line over the last fifth (arXiv 2404.06395)
    """
    rising = max(round(steps * warmup), 0)
    if step < rising:
        return (step + 1) / (rising + 1)
    left = (steps - step) / max(steps - rising, 1)
    if shape == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    if shape == "wsd":
        return min((steps - step) / max(round(steps * _DECAY), 1), 1.0)
    return 1.0 if shape == "constant" else left
