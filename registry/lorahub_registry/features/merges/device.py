"""What workers compute merges on, found out in a process of its own: `python -m … NAME`.

torch is large, and whoever asks a GPU anything keeps some of its memory until he ends.
"""

import subprocess
import sys

from lorahub.errors import InvalidConfiguration, InvalidUsage
from lorahub.merging.devices import is_cpu, open_device

from lorahub_registry.settings import Settings

_SECONDS = 120.0
_CPU = "the CPU"


def examine(settings: Settings) -> str:
    """Its name, after it was tried. Raises `InvalidConfiguration` where it can't be used."""
    if is_cpu(settings.merge_device):
        return _CPU
    command = [sys.executable, "-m", "lorahub_registry.features.merges.device", settings.merge_device]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise _unusable(settings, f"it didn't answer in {_SECONDS:.0f} seconds") from None
    if tried.returncode:
        raise _unusable(settings, tried.stdout.strip() or tried.stderr.strip()[-300:])
    return tried.stdout.strip()


def require(settings: Settings) -> None:
    """As `examine`, for one that somebody named: `auto` takes what there is, and none is waited for at the start."""
    if settings.merge_device != "auto":
        examine(settings)


def _unusable(settings: Settings, reason: str) -> InvalidConfiguration:
    return InvalidConfiguration(
        f"LORAHUB_MERGE_DEVICE is {settings.merge_device}: {reason}", hint="auto takes a GPU if there is one; or cpu"
    )


def main(name: str) -> int:
    try:
        device = open_device(name)
    except InvalidUsage as error:
        sys.stdout.write(error.message)
        return 1
    sys.stdout.write(_CPU if device is None else str(device))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
