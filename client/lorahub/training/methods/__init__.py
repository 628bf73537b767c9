"""One way to adapt a frozen model each. The loop knows none of them: it trains what requires a gradient."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from transformers import PreTrainedModel

from lorahub.training.config import TrainConfig
from lorahub.training.methods.bitfit import BitFit
from lorahub.training.methods.bottleneck import Bottlenecks
from lorahub.training.methods.full import Full
from lorahub.training.methods.ia3 import Ia3
from lorahub.training.methods.lora import LoraMethod
from lorahub.training.methods.virtual import Prefix, Prompt


class Method(Protocol):
    """One way to adapt a frozen model: what it adds, which parameters it trains, how it is kept on disk."""

    name: str

    @property
    def notes(self) -> Sequence[str]:
        """What a user should look at, known once it is attached."""
        ...

    @property
    def is_slow_to_save(self) -> bool:
        """Whether that takes so long that it is done where a run stops, not at each checkpoint."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What lorahub.json should say of it beside the settings, known once it is saved."""
        ...

    def attach(self, model: PreTrainedModel) -> nn.Module:
        """The model to train; exactly the method's parameters require a gradient.

        `model` may be on the meta device, where only shapes count. Raises `InvalidUsage` where the model has nothing
        for this method to train.
        """
        ...

    def groups(self, model: nn.Module) -> list[tuple[list[tuple[str, nn.Parameter]], float]]:
        """All parameters that are trained, by name, in groups with their factor on the learning rate."""
        ...

    def save(self, model: nn.Module, folder: Path) -> None:
        """The files of the adapter, safetensors only; `folder` is there and empty."""
        ...


METHODS: Mapping[str, Callable[[TrainConfig], Method]] = {
    "lora": LoraMethod,
    "prefix": Prefix,
    "prompt": Prompt,
    "bottleneck": Bottlenecks,
    "bitfit": BitFit,
    "ia3": Ia3,
    "full": Full,
}
