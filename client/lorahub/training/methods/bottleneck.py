"""Adapter layers: y + up · f(down · y) behind the attention and the feed-forward (Houlsby, arXiv 1902.00751), or behind
the feed-forward alone (Pfeiffer, 2005.00247). `up` begins with 0, so that the model begins as it was.

Layer norms stay as they are, other than in Houlsby's paper.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from lorahub.adapters.formats.own import BOTTLENECK
from lorahub.adapters.patterns import layer_index
from lorahub.errors import InvalidUsage
from lorahub.training.config import TrainConfig
from lorahub.training.methods.trained import Named, is_conv1d, is_linear, trained, write

_ATTENTION = frozenset("attn self_attn attention self_attention mixer".split())
_AFTER_ATTENTION = frozenset("o_proj c_proj out_proj dense Wo wo".split())
_AFTER_FEED_FORWARD = frozenset("down_proj c_proj fc2 fc_out fc_o dense_4h_to_h proj_out w2 wo".split())
_CHILD = "bottleneck"


class BottleneckLayer(nn.Module):
    """(…, width) -> (…, width), over `size`."""

    def __init__(self, width: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(width, size, dtype=dtype, device=device)
        self.up = nn.Linear(size, width, dtype=dtype, device=device)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, y: Tensor) -> Tensor:
        inner = functional.gelu(self.down(y))
        learnt: Tensor = self.up(inner)
        return y + learnt


class Bottlenecks:
    name = "bottleneck"
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = {}
    is_slow_to_save = False

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._modules: list[str] = []

    def attach(self, model: PreTrainedModel) -> nn.Module:
        self._modules = list(self._places(model))
        if not self._modules:
            raise InvalidUsage(
                "no module is known here as the end of an attention or a feed-forward",
                hint="name the modules whose outputs go through a bottleneck: --targets o_proj,down_proj",
            )
        for name in self._modules:
            module: Any = model.get_submodule(name)
            weight = module.weight
            dtype = weight.dtype if weight.is_floating_point() and weight.dtype.itemsize > 1 else torch.float32
            width = module.weight.shape[1] if is_conv1d(module) else module.out_features
            module.add_module(_CHILD, BottleneckLayer(width, self._config.rank, dtype, weight.device))
            module.register_forward_hook(_behind)
        return model

    def _places(self, model: PreTrainedModel) -> Iterator[str]:
        wanted = self._config.targets
        for name, module in model.named_modules():
            if not is_linear(module) or layer_index(name) is None:
                continue
            if wanted != ("all-linear",):
                chosen = name.endswith(tuple(f".{target}" for target in wanted))
            elif self._config.bottleneck == "houlsby":
                chosen = _is_after_attention(name) or is_feed_forward(name)
            else:
                chosen = is_feed_forward(name)
            if chosen:
                yield name

    def groups(self, model: nn.Module) -> list[tuple[Named, float]]:
        return [(trained(model), 1.0)]

    def save(self, model: nn.Module, folder: Path) -> None:
        tensors = {
            f"{name}.{leaf}": value
            for name in self._modules
            for leaf, value in model.get_submodule(f"{name}.{_CHILD}").state_dict().items()
        }
        config = {
            "peft_type": BOTTLENECK,
            "r": self._config.rank,
            "activation": "gelu",
            "placement": self._config.bottleneck,
            "target_modules": sorted({name.rpartition(".")[2] for name in self._modules}),
        }
        write(folder, config, tensors)


def _behind(module: Any, _: Any, y: Tensor) -> Tensor:
    narrowed: Tensor = module.bottleneck(y)
    return narrowed


def _is_after_attention(name: str) -> bool:
    *path, leaf = name.split(".")
    return leaf in _AFTER_ATTENTION and not _ATTENTION.isdisjoint(path)


def is_feed_forward(name: str) -> bool:
    """Whether a module of this name is the last of a feed-forward."""
    *path, leaf = name.split(".")
    return leaf in _AFTER_FEED_FORWARD and _ATTENTION.isdisjoint(path)
