"""Which device merges are computed on, by name, without torch where none is needed."""

from importlib.util import find_spec
from pathlib import Path

from lorahub.errors import UsageFault
from lorahub.merging.plan import Device

_GPUS = ("nvidia[0-9]*", "kfd", "dxg")
"""What Linux calls them in /dev: NVIDIA's, AMD's, those of WSL."""


def open_device(name: str) -> Device | None:
    """None is the CPU by itself. `auto` takes a GPU that torch can use, if there is one; any other name is torch's,
    `torch:cpu` for its CPU, which gains nothing. Raises `UsageFault` where a named one can't be used.
    """
    if is_cpu(name):
        return None
    if find_spec("torch") is None:
        raise UsageFault(f"the device {name} needs PyTorch", hint="pip install 'lorahub-registry[train]'")
    from lorahub.merging.certified import TorchDevice

    try:
        return TorchDevice("cuda" if name == "auto" else name.removeprefix("torch:"))
    except UsageFault:
        if name == "auto":
            return None
        raise


def is_cpu(name: str) -> bool:
    """Whether a name is for the CPU, as far as can be said in no time: to ask torch takes a second and 300 MB."""
    has_gpu = any(next(Path("/dev").glob(pattern), None) for pattern in _GPUS)
    return name == "cpu" or (name == "auto" and not (has_gpu and find_spec("torch")))
