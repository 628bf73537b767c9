"""What PEFT puts before the tokens: keys and values of every layer (prefix tuning, arXiv 2101.00190), or embeddings of
virtual tokens (prompt tuning, 2104.08691).

Both are fragile: they want learning rates some hundred times LoRA's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
from torch import nn
from transformers import PreTrainedModel

from lorahub.errors import InvalidUsage
from lorahub.training.config import TrainConfig
from lorahub.training.methods.trained import Named, save_peft, trained


class _Virtual:
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = {}
    is_slow_to_save = False

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def groups(self, model: nn.Module) -> list[tuple[Named, float]]:
        return [(trained(model), 1.0)]

    def save(self, model: nn.Module, folder: Path) -> None:
        save_peft(model, folder)


class Prefix(_Virtual):
    name = "prefix"

    def attach(self, model: PreTrainedModel) -> nn.Module:
        if self._config.grad_ckpt:
            raise InvalidUsage("a prefix is a cache, which gradient checkpointing drops", hint="leave --grad-ckpt out")
        wanted = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self._config.virtual_tokens)
        adapted: nn.Module = peft.get_peft_model(model, wanted, autocast_adapter_dtype=False)
        return adapted


class Prompt(_Virtual):
    """Begins with embeddings of tokens of the vocabulary, from which prompts learn sooner than from noise."""

    name = "prompt"

    def attach(self, model: PreTrainedModel) -> nn.Module:
        wanted = peft.PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self._config.virtual_tokens,
            prompt_tuning_init=peft.PromptTuningInit.SAMPLE_VOCAB,
        )
        adapted: nn.Module = peft.get_peft_model(model, wanted, autocast_adapter_dtype=False)
        return adapted
