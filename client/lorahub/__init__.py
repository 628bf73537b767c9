"""lorahub: push, check, pull, train, serve and merge LoRA adapters.

    lorahub.check("./out", "hf:acme/llama-7b")      does it fit?
    with lorahub.Hub() as hub:                      a registry, as one user
        hub.push("./out", "acme/sql")
        hub.pull("acme/sql@v1").path
    lorahub.train, lorahub.merge, lorahub.Session   make adapters, fold them in, switch between them

Every name is imported when it is asked for: who only checks a folder waits for no HTTP client, and who only pulls needs
no PyTorch. Errors are in `lorahub.errors`, each with a message, a hint and a code.
"""

from typing import TYPE_CHECKING

import lorahub_start

lorahub_start.require_ours()

from lorahub import errors  # noqa: E402 (if the rest isn't ours, it is of no use)
from lorahub.errors import InvalidConfiguration, LorahubError  # noqa: E402

if TYPE_CHECKING:
    from lorahub.hub.hub import Hub, Pulled, Pushed
    from lorahub.hub.outcomes import Checked
    from lorahub.hub.shortcuts import check, merge
    from lorahub.merging.recipe import Ingredient, Recipe
    from lorahub.serving.session import Session
    from lorahub.training.config import TrainConfig
    from lorahub.training.run import Run, train

__version__ = "0.2.0"
__all__ = [
    "Checked",
    "Hub",
    "Ingredient",
    "LorahubError",
    "Pulled",
    "Pushed",
    "Recipe",
    "Run",
    "Session",
    "TrainConfig",
    "__version__",
    "check",
    "errors",
    "merge",
    "train",
]

_HOMES = {
    "Checked": "hub.outcomes",
    "Hub": "hub.hub",
    "Ingredient": "merging.recipe",
    "Pulled": "hub.hub",
    "Pushed": "hub.hub",
    "Recipe": "merging.recipe",
    "Run": "training.run",
    "Session": "serving.session",
    "TrainConfig": "training.config",
    "check": "hub.shortcuts",
    "merge": "hub.shortcuts",
    "train": "training.run",
}
_EXTRA = ("torch", "transformers", "peft", "safetensors")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # to a type checker, a name that isn't above is an error

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'lorahub' has no attribute {name!r}")
        from importlib import import_module

        try:
            return getattr(import_module(f"lorahub.{_HOMES[name]}"), name)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in _EXTRA:
                raise
            return _lacking(name, error.name)

    def _lacking(name: str, library: str) -> object:
        """In place of what can't be imported, so that to look at the package is no error, but to use it is."""

        def lacking(*_: object, **__: object) -> None:
            raise InvalidConfiguration(
                f"lorahub.{name} needs PyTorch and transformers, and {library} is not installed",
                hint="pip install 'lorahub-registry[train]'",
            )

        lacking.__name__ = lacking.__qualname__ = name
        return lacking
