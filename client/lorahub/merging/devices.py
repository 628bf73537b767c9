"""Which device merges are computed on, by name, without torch where none is needed."""

from importlib.util import find_spec
from pathlib import Path

from lorahub.errors import InvalidUsage
from lorahub.merging.plan import Device

_GPUS = ("nvidia[0-9]*", "kfd", "dxg")
"""What Linux calls them in /dev: NVIDIA's, AMD's, those of WSL."""


def open_device(name: str) -> Device | None:
    """None is the CPU by itself. `auto` takes a GPU that torch can use, if there is one; any other name is torch's,
    `torch:cpu` for its CPU, which gains nothing. Raises `InvalidUsage` where a named one can't be used.
    """
    if is_cpu(name):
        return None
    if name != "auto":
        return _opened(name.removeprefix("torch:"))
    try:
        return _opened("cuda")
    except InvalidUsage:
        return None


def is_cpu(name: str) -> bool:
    """Whether a name is for the CPU, as far as can be said in no time: to ask torch takes a second and 300 MB."""
    has_gpu = any(next(Path("/dev").glob(pattern), None) for pattern in _GPUS)
    return name == "cpu" or (name == "auto" and not (has_gpu and find_spec("torch")))


def _opened(name: str) -> Device:
    try:
        from lorahub.merging.certified import TorchDevice
    except (ImportError, OSError) as error:  # the latter where a library of CUDA is missing
        raise InvalidUsage(
            f"the device {name} needs PyTorch: {error}", hint="pip install 'lorahub-registry[train]'"
        ) from None
    return TorchDevice(name)
