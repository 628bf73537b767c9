"""BitFit: the biases that the model has, nothing else (arXiv 2106.10199). Kept as differences, which add exactly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lorahub.adapters.formats.own import BITFIT, DELTA
from lorahub.adapters.patterns import layer_index
from lorahub.errors import InvalidUsage
from lorahub.training.config import TrainConfig
from lorahub.training.methods.trained import Named, is_linear, trained, write


class BitFit:
    name = "bitfit"
    facts: Mapping[str, Any] = {}
    is_slow_to_save = False

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._start: dict[str, Tensor] = {}
        self.notes: Sequence[str] = ()

    def attach(self, model: PreTrainedModel) -> nn.Module:
        biases = {name: value for name, value in model.named_parameters() if name.endswith(".bias")}
        if not biases:
            raise InvalidUsage(
                f"{type(model).__name__} has no biases here: BitFit would train nothing",
                hint="use --method lora, or a model with biases (GPT-2, OPT, Pythia)",
            )
        for value in biases.values():
            value.requires_grad = True
        self._start = {name: value.detach().clone() for name, value in biases.items()}
        self.notes = _notes(model)
        return model

    def groups(self, model: nn.Module) -> list[tuple[Named, float]]:
        return [(trained(model), 1.0)]

    def save(self, model: nn.Module, folder: Path) -> None:
        now = dict(model.named_parameters())
        tensors = {name: now[name].detach().float() - start.float() for name, start in self._start.items()}
        write(folder, {"peft_type": BITFIT, "bias": DELTA}, tensors)


def _notes(model: nn.Module) -> list[str]:
    """What the checker will say as LH222."""
    linear = [module for name, module in model.named_modules() if is_linear(module) and layer_index(name) is not None]
    having = sum(getattr(module, "bias", None) is not None for module in linear)
    if having == len(linear):
        return []
    return [f"only {having} of {len(linear)} linear layers have a bias: BitFit can't change the others"]
