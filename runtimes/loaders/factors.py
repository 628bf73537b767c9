"""What a runtime's loading code made of an adapter, added to the base's weights by transformers' own model.

For runtimes whose kernels don't run here: the files are read, renamed, stacked and scaled by their own code; that
ΔW = scale · up · down is then what they compute is the only thing that is taken on trust.
"""

from collections.abc import Iterable
from typing import Any

import torch
from language_model import log_probabilities, open_base

Factors = dict[str, tuple[torch.Tensor, torch.Tensor, float]]
"""Module → (down, up, scale); of an embedding (rank, rows) and (width, rank)."""


def linear_names(model: Any) -> set[str]:
    """The last names of the base's linear layers."""
    return {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}


def answer(base: str, factors: Factors, prompt: list[int]) -> Iterable[float]:
    """The log-probabilities; factors for modules that the base doesn't have are left out, as runtimes do."""
    model = open_base(base)
    modules = dict(model.named_modules())
    for name, (down, up, scale) in factors.items():
        part = modules.get(name)
        if part is None or not hasattr(part, "weight"):
            continue
        delta = scale * (up.float() @ down.float())
        if isinstance(part, torch.nn.Embedding):
            part.weight = torch.nn.Parameter(part.weight + delta.T)
        else:
            part.weight = torch.nn.Parameter(part.weight + delta)
    return log_probabilities(model, prompt)
