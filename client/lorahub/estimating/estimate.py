"""One method on one model: what it trains, what a checkpoint weighs, what a step needs."""

from dataclasses import dataclass
from typing import Any

from lorahub.estimating.memory import ACCOUNTINGS, memory
from lorahub.estimating.methods import MethodSettings, trainable
from lorahub.estimating.model import ModelShape

_TRAINS_THE_BASE = ("bitfit", "full")


@dataclass(frozen=True, slots=True)
class Estimate:
    """`memory` by accounting: bytes of (full fine-tuning, this method)."""

    method: str
    trainable: int
    parameters: int
    memory: dict[str, tuple[int, int]]

    @property
    def share(self) -> float:
        return self.trainable / self.parameters

    def checkpoint(self, bits: int) -> int:
        """Bytes of what is trained."""
        return self.trainable * bits // 8

    def as_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "trainable": self.trainable,
            "share": self.share,
            "checkpoint_bytes": {"16bit": self.checkpoint(16), "fp32": self.checkpoint(32)},
            "memory_bytes": {
                name: {"full": full, self.method: own, "ratio": full / own} for name, (full, own) in self.memory.items()
            },
        }


def estimate(model: ModelShape, method: str, settings: MethodSettings) -> Estimate:
    """Raises `InvalidUsage`, as `trainable` does."""
    trained = trainable(model, method, settings)
    linear = sum(out * width for out, width in model.linears.values())
    frozen = model.parameters - (trained if method in _TRAINS_THE_BASE else 0)
    by_accounting = {
        name: (
            memory(one, parameters=model.parameters, linear=linear, trained=0, is_full=True),
            memory(one, parameters=frozen, linear=min(linear, frozen), trained=trained, is_full=False),
        )
        for name, one in ACCOUNTINGS.items()
    }
    return Estimate(method, trained, model.parameters, by_accounting)
