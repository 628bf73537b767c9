"""An environment for each row, made from its lock and kept under .runtimes/, which git ignores."""

import os
import subprocess
import sys
import venv
from pathlib import Path

from runtimes.engines import TORCH, Row

ROOT = Path(__file__).parent.parent
KEPT = ROOT / ".runtimes"
LOCKS = Path(__file__).parent / "locks"
_UV = ROOT / ".venv" / "tools" / "bin" / "uv"
_QUIET = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def python_of(row: Row) -> Path:
    """The interpreter with the row's packages; the first time, they are fetched."""
    place = KEPT / "environments" / row.name
    python = place / "bin" / "python"
    done = place / ".installed"
    lock = lock_of(row)
    if not done.exists() or done.read_bytes() != lock.read_bytes():
        venv.create(place, clear=True, with_pip=False, symlinks=True)
        packages = place / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        (packages / "torch.pth").write_text(f"{_torch()}\n")
        _install(packages, "--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", str(lock))
        if row.engine.also_known_as is not None:
            _name(packages, row.engine.also_known_as, row.version)
        done.write_bytes(lock.read_bytes())
    return python


def lock_of(row: Row) -> Path:
    """What its environment is made of, byte for byte; written when the row is new."""
    path = LOCKS / f"{row.name}.txt"
    if not path.exists():
        locked = _compiled([*row.engine.requires(row.version), "torch"])
        if row.engine.code is not None:
            locked += _compiled([f"{row.engine.code(row.version)}=={row.version}"], "--no-deps")
        path.write_text(locked)
    return path


def _compiled(wanted: list[str], *options: str) -> str:
    ran = subprocess.run(
        [
            *(_UV, "pip", "compile", "-", "--quiet", "--python-version", "3.11", "--generate-hashes", "--no-header"),
            *("--no-annotate", "--excludes", LOCKS / "excluded.txt", "--overrides", LOCKS / "torch.txt"),
            *("--no-emit-package", "torch", *options),
        ],
        input="\n".join(wanted),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return ran.stdout


def packages_of(row: Row) -> dict[str, str]:
    """Name → version, of what its lock names."""
    lines = [line.split(" ")[0] for line in lock_of(row).read_text().splitlines() if "==" in line and line[0] != " "]
    found = dict(line.split("==") for line in lines)
    return found | {"torch": TORCH}


def _name(packages: Path, name: str, version: str) -> None:
    """A distribution's metadata and nothing else."""
    told = packages / f"{name}-{version}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}+cpu\n")


def _torch() -> Path:
    """PyTorch, once for all: it is in no lock (constraints.txt says why) and as large as all the rest."""
    place = KEPT / f"torch-{TORCH}"
    if not (place / "torch").exists():
        _install(place, f"torch=={TORCH}")
    return place


def _install(target: Path, *what: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--target", str(target)]
    subprocess.run([*pip, *what], check=True, env=_QUIET)
