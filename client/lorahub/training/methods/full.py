"""Full fine-tuning: every weight, kept as a model; or, with a rank to extract, all linear layers of the body, kept as
the LoRA of that rank that comes closest.
"""

import errno
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorahub.adapters.adapter import Naming
from lorahub.adapters.patterns import layer_index
from lorahub.conversion.arrays import Array
from lorahub.conversion.lora import Layer, LoraAdapter
from lorahub.conversion.peft import write_peft
from lorahub.errors import InvalidUsage
from lorahub.merging.combinations import truncate
from lorahub.training.config import TrainConfig
from lorahub.training.methods.trained import Named, is_conv1d, is_linear, trained

SHARD = "4GB"
_TOKENIZER = (
    "tokenizer.json tokenizer_config.json tokenizer.model special_tokens_map.json added_tokens.json vocab.json "
    "vocab.txt merges.txt chat_template.jinja chat_template.json"
).split()
_SHOWN = 20


class Full:
    """What a LoRA can't hold, embeddings, head and norms, isn't trained where one is to be extracted."""

    name = "full"
    notes: Sequence[str] = ()

    def __init__(self, config: TrainConfig) -> None:
        self._rank = config.extract_lora
        self._is_quantised = config.load_4bit
        self.is_slow_to_save = self._rank is not None
        self._start: dict[str, Tensor] = {}
        self.facts: Mapping[str, Any] = {}

    def attach(self, model: PreTrainedModel) -> nn.Module:
        if self._is_quantised:
            raise InvalidUsage(
                "weights of 4 bits can't be trained themselves", hint="leave --load-4bit out, or use lora"
            )
        if self._rank is None:
            model.requires_grad_(requires_grad=True)
            return model
        for name, module in _linears(model):
            module.weight.requires_grad_(requires_grad=True)
            self._start[name] = module.weight.detach().to(
                "cpu" if module.weight.device.type != "meta" else "meta", copy=True
            )
        return model

    def groups(self, model: nn.Module) -> list[tuple[Named, float]]:
        return [(trained(model), 1.0)]

    def save(self, model: nn.Module, folder: Path) -> None:
        if self._rank is not None:
            self._save_lora(model, folder, self._rank)
            return
        saved: Any = model
        _require_room(model, folder)
        saved.save_pretrained(folder, max_shard_size=SHARD)
        source = Path(saved.name_or_path)
        for name in _TOKENIZER:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)

    def _save_lora(self, model: nn.Module, folder: Path, rank: int) -> None:
        config: Any = model.config
        layers: list[Layer] = []
        errors: dict[str, float] = {}
        lost = size = 0.0
        for name, module in _linears(model):
            delta = (module.weight.detach().cpu().double() - self._start[name].double()).numpy()
            left, right, errors[name] = truncate(delta.T if is_conv1d(module) else delta, min(rank, *delta.shape))
            layers.append(Layer(name, _array(right), _array(left), 1.0))
            changed = float(np.sum(delta**2))
            size, lost = size + changed, lost + errors[name] ** 2 * changed
        made = LoraAdapter(tuple(layers), Naming.DOTTED, architecture=config.model_type)
        for path, content in write_peft(made, None).items():
            (folder / path).write_bytes(content)
        worst = sorted(errors.items(), key=lambda pair: -pair[1])[:_SHOWN]
        self.facts = {"extracted": {"rank": rank, "error": (lost / size) ** 0.5 if size else 0.0, "worst": dict(worst)}}


def _linears(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if is_linear(module) and layer_index(name) is not None:
            yield name, module


def _array(values: Any) -> Array:
    return Array("F32", np.ascontiguousarray(values, "<f4"))


def _require_room(model: nn.Module, folder: Path) -> None:
    need = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OSError(errno.ENOSPC, f"the model takes {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are left", str(folder))
