"""LoRA by PEFT: W·x + s·B·A·x with B = 0 at the start (arXiv 2106.09685)."""

from pathlib import Path
from typing import Any

import peft
from torch import nn
from transformers import PreTrainedModel

from lorahub.errors import UsageFault
from lorahub.training.config import TrainConfig

_QUERIES_AND_VALUES = ("q_proj", "v_proj", "query", "value", "c_attn", "query_key_value", "qkv_proj", "Wqkv")
"""What the projections are called, or the one that holds both, across the models of transformers."""


class Lora:
    name = "lora"

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def attach(self, model: PreTrainedModel) -> nn.Module:
        try:
            return peft.get_peft_model(model, self.peft_config(model), autocast_adapter_dtype=False)
        except ValueError as error:
            raise UsageFault(
                f"PEFT can't put a LoRA there: {str(error).partition(chr(10))[0][:300]}",
                hint="name modules of this model: --targets q_proj,v_proj, or --targets all-linear",
            ) from None

    def peft_config(self, model: PreTrainedModel) -> peft.LoraConfig:
        wanted = self._config
        return peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=wanted.rank,
            lora_alpha=wanted.scaling_alpha,
            lora_dropout=wanted.dropout,
            target_modules=_targets(model, wanted.targets),
            use_rslora=wanted.rslora,
            use_dora=wanted.dora,
            init_lora_weights=True if wanted.init == "default" else wanted.init,
            fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        )

    def groups(self, model: nn.Module) -> list[tuple[list[tuple[str, nn.Parameter]], float]]:
        return [([(name, p) for name, p in model.named_parameters() if p.requires_grad], 1.0)]

    def save(self, model: nn.Module, folder: Path) -> None:
        saved: Any = model
        saved.save_pretrained(folder)


def _targets(model: PreTrainedModel, targets: tuple[str, ...]) -> str | list[str]:
    if targets == ("all-linear",):
        return "all-linear"
    if targets != ("q,v",):
        return list(targets)
    leaves = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    found = [name for name in _QUERIES_AND_VALUES if name in leaves]
    if not found:
        raise UsageFault("this model names its query and value projections in no way known here", hint="use --targets")
    return found
