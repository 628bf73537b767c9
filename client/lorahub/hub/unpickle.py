"""The child of `lorahub import --unsafe-pickle`: one pickle in, with torch's `weights_only`; one safetensors out."""

import sys
from collections.abc import Mapping
from typing import Any

_WRAPPERS = ("state_dict", "model", "adapter", "module")


def main(source: str, target: str) -> None:
    _limit()
    try:
        import torch
        from safetensors.torch import save_file
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed: pip install 'lorahub-registry[train]'")
    loaded = torch.load(source, map_location="cpu", weights_only=True)  # noqa: TID251 (this is what the sandbox is for)
    tensors = {name: value for name, value in _flat(loaded).items() if isinstance(value, torch.Tensor)}
    if not tensors:
        sys.exit("there are no tensors in it")
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, target, {"format": "pt"})


def _flat(value: Any) -> Mapping[str, Any]:
    """The state dict, out of the one wrapper that trainers put around it."""
    if not isinstance(value, Mapping):
        sys.exit(f"it holds {type(value).__name__}, not a state dict")
    for key in _WRAPPERS:
        if isinstance(value.get(key), Mapping):
            return _flat(value[key])
    return value


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows has no limits of this kind
        return
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 30, 16 << 30))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
