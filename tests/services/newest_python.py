"""Prints the newest Python of this machine, which may be the one that asks: on the PATH, or kept by pyenv or uv.

`make newest` installs the registry for it, and tests/system/test_newest_python.py runs that.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_KEPT = (".pyenv/versions/*/bin", ".local/share/uv/python/*/bin")
_ASKED = """
import ensurepip, sqlite3, sys
if sys.version_info >= (3, 11) and sys.version_info.releaselevel == "final" and sys.implementation.name == "cpython":
    print(*sys.version_info[:3])
"""


def found() -> Iterator[Path]:
    folders = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    for folder in [*folders, *(folder for kept in _KEPT for folder in Path.home().glob(kept))]:
        yield from (path for path in folder.glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name))


def version(python: Path) -> tuple[int, ...]:
    """Empty where it is none that lorahub runs on, or doesn't start."""
    said = subprocess.run([python, "-c", _ASKED], capture_output=True, text=True, check=False).stdout
    return tuple(int(part) for part in said.split())


if __name__ == "__main__":
    print(max([Path(sys.executable), *found()], key=version))
