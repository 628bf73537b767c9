"""lorahub: push, check and pull LoRA adapters. `Hub` is the SDK; `lorahub …` the command line."""

from typing import TYPE_CHECKING, Any

import lorahub_start

lorahub_start.require_ours()

from lorahub.errors import LorahubError  # noqa: E402 (if the rest isn't ours, it is of no use)

if TYPE_CHECKING:
    from lorahub.hub.hub import Hub
    from lorahub.serving.session import Session
    from lorahub.training.config import TrainConfig
    from lorahub.training.run import train

__version__ = "0.2.0"
__all__ = ["Hub", "LorahubError", "Session", "TrainConfig", "__version__", "train"]


def __getattr__(name: str) -> Any:
    """The SDK brings an HTTP client along; who imports only names or errors doesn't pay for it."""
    if name == "Hub":
        from lorahub.hub.hub import Hub

        return Hub
    if name == "Session":
        from lorahub.serving.session import Session

        return Session
    if name == "TrainConfig":
        from lorahub.training.config import TrainConfig

        return TrainConfig
    if name == "train":
        from lorahub.training.run import train

        return train
    raise AttributeError(f"module 'lorahub' has no attribute {name!r}")
