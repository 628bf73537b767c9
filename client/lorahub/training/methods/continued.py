"""An adapter of PEFT's that is there already, trained on: whatever it is, it stays that, with its own settings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
from torch import nn
from transformers import PreTrainedModel

from lorahub.errors import InvalidUsage
from lorahub.training.config import MethodName, TrainConfig
from lorahub.training.methods.lora import LoraMethod
from lorahub.training.methods.trained import Named, load_peft, save_peft

_METHODS: Mapping[str, MethodName] = {
    "LORA": "lora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
}


class Continued:
    facts: Mapping[str, Any] = {}
    is_slow_to_save = False

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        """Raises `InvalidUsage` for what PEFT didn't write."""
        self._folder = folder
        self._settings = _settings(folder)
        self.config = _as_it_is(config, self._settings)
        self.name: str = self.config.method
        self.notes: Sequence[str] = (f"goes on with {folder.name}: its own rank, targets and method count",)

    def attach(self, model: PreTrainedModel) -> nn.Module:
        is_shape, is_prompt = next(model.parameters()).is_meta, self._settings.is_prompt_learning
        if not (is_shape or is_prompt):
            return load_peft(model, self._folder, is_trainable=True)
        self._settings.inference_mode = False
        made: nn.Module = peft.get_peft_model(model, self._settings, autocast_adapter_dtype=False)
        if not is_shape:  # PEFT loads prompts for inference alone
            peft.set_peft_model_state_dict(made, peft.load_peft_weights(str(self._folder), device=str(model.device)))
        return made

    def groups(self, model: nn.Module) -> list[tuple[Named, float]]:
        return LoraMethod(self.config).groups(model)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_peft(model, folder)


def _settings(folder: Path) -> peft.PeftConfig:
    try:
        found: peft.PeftConfig = peft.PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # noqa: BLE001 (PEFT raises what it meets)
        raise InvalidUsage(
            f"{folder} is no adapter that PEFT reads: {str(error).partition(chr(10))[0][:200]}",
            hint="make it one: lorahub convert ADAPTER -o FOLDER --to peft-normalized",
        ) from None
    if found.peft_type not in _METHODS:
        kind, known = getattr(found.peft_type, "value", found.peft_type), ", ".join(sorted(_METHODS.values()))
        raise InvalidUsage(
            f"{folder} is of the method {kind}; --from goes on with {known}",
            hint="make it a LoRA: lorahub convert ADAPTER -o FOLDER --to lora",
        )
    return found


def _as_it_is(config: TrainConfig, settings: Any) -> TrainConfig:
    """The settings of the run with those that the adapter has of its own."""
    config = replace(config, method=_METHODS[settings.peft_type], init="default")
    if config.method in ("prefix", "prompt"):
        return replace(config, virtual_tokens=settings.num_virtual_tokens)
    targets = settings.target_modules or ()
    config = replace(
        config, targets=(targets,) if isinstance(targets, str) else tuple(sorted(targets)) or config.targets
    )
    if config.method != "lora":
        return config
    alpha = int(settings.lora_alpha) if float(settings.lora_alpha).is_integer() else None
    return replace(
        config,
        rank=settings.r,
        alpha=alpha,
        dropout=settings.lora_dropout,
        rslora=settings.use_rslora,
        dora=settings.use_dora,
    )
