"""Turns a pickled state dict into safetensors, in a process of its own that is thrown away.

Unpickling runs whatever the file says. `weights_only` lets torch build tensors and nothing else; should that ever fail,
the child has no token, no home and no environment, may write one file, and ends after two minutes.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lorahub.adapters.file_kinds import is_by_product
from lorahub.errors import InvalidAdapter, InvalidUsage

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_SECONDS = 120
_KEPT = ("adapter_config.json", "README.md", "tokenizer.json", "tokenizer_config.json")
_NAMES = {"adapter_model.bin": "adapter_model.safetensors", "pytorch_adapter.bin": "adapter.safetensors"}


def import_pickle(source: Path, folder: Path) -> Path:
    """Writes safetensors for the pickle in `source`, a file or a folder that has one, into `folder`.

    Raises `InvalidUsage` where there is none, `InvalidAdapter` where it holds anything but tensors.
    """
    pickle = _pickle_in(source)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _NAMES.get(pickle.name, f"{pickle.stem}.safetensors")
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "weights.safetensors"
        _convert(pickle.resolve(), made)
        shutil.move(made, target)
    for name in _KEPT:
        if source.is_dir() and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return target


def _pickle_in(source: Path) -> Path:
    found = [source] if source.is_file() else sorted(path for path in source.glob("*") if path.suffix in _PICKLES)
    weights = [path for path in found if path.suffix in _PICKLES and not is_by_product(path.name)]
    if len(weights) != 1:
        said = ", ".join(path.name for path in weights) or "none"
        raise InvalidUsage(
            f"{source} should hold one pickled checkpoint; there is: {said}", hint="name the file itself"
        )
    return weights[0]


def _convert(pickle: Path, target: Path) -> None:
    command = [sys.executable, "-I", "-m", "lorahub.hub.unpickle", str(pickle), str(target)]
    try:
        result = subprocess.run(  # noqa: S603 (our own program)
            command, env={}, cwd=target.parent, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise InvalidAdapter(f"{pickle.name} was not read within {_SECONDS} seconds") from None
    if result.returncode != 0 or not target.is_file():
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        raise InvalidAdapter(
            f"{pickle.name} can't be imported: {reason}",
            hint="only tensors and plain containers are taken from pickles",
        )
