"""A name that one process of a machine holds: a locked file, which the system lets go of when the process is gone."""

import fcntl
import time
from pathlib import Path
from typing import BinaryIO

_TRIES, _PAUSE_SECONDS = 20, 0.05  # somebody may just be looking whether it is held


def hold(path: Path) -> BinaryIO | None:
    """Until the file is closed, or the process ends. None where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = path.open("ab")
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return file
    file.close()
    return None


def is_held(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
