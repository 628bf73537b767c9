"""IA3 by PEFT: a factor for each output of keys and values, and for each input of the feed-forward's last layer
(arXiv 2205.05638). They begin with 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
from torch import nn
from transformers import PreTrainedModel

from lorahub.errors import InvalidUsage
from lorahub.training.config import TrainConfig
from lorahub.training.methods.bottleneck import is_feed_forward
from lorahub.training.methods.trained import Named, is_conv1d, save_peft, trained


class Ia3:
    """Where PEFT knows the architecture, `all-linear` means its choice of modules."""

    name = "ia3"
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = {}
    is_slow_to_save = False

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def attach(self, model: PreTrainedModel) -> nn.Module:
        wanted = peft.IA3Config(
            task_type="CAUSAL_LM",
            fan_in_fan_out=any(is_conv1d(module) for module in model.modules()),
            **self._targets(model),
        )
        try:
            adapted: nn.Module = peft.get_peft_model(model, wanted, autocast_adapter_dtype=False)
        except ValueError as error:
            raise InvalidUsage(
                f"PEFT can't put IA3 there: {str(error).partition(chr(10))[0][:300]}",
                hint="name keys, values and the feed-forward's last layer: --targets k_proj,v_proj,down_proj",
            ) from None
        return adapted

    def _targets(self, model: PreTrainedModel) -> dict[str, Any]:
        targets = self._config.targets
        if targets == ("all-linear",):
            return {}
        last = {name.rpartition(".")[2] for name, _ in model.named_modules() if is_feed_forward(name)}
        feed = [name for name in targets if name.rpartition(".")[2] in last]
        return {"target_modules": list(targets), "feedforward_modules": feed}

    def groups(self, model: nn.Module) -> list[tuple[Named, float]]:
        return [(trained(model), 1.0)]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_peft(model, folder)
