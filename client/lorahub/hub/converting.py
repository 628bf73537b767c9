"""Conversions by name: an adapter on disk, its base wherever it is known, and the files for a runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorahub.adapters.base_model import BaseModel
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import Target, convert
from lorahub.errors import InvalidInput, LorahubError
from lorahub.hub.bases import Bases
from lorahub.hub.configuration import Configuration
from lorahub.hub.transport import Transport

FOR_RUNTIME: Mapping[str, Target] = {
    "peft": "peft",
    "vllm": "peft-normalized",
    "sglang": "peft-normalized",
    "lorax": "peft-normalized",
    "llama.cpp": "gguf",
    "ollama": "gguf",
    "diffusers": "diffusers",
    "comfyui": "kohya",
    "mlx": "mlx",
}
"""Runtime -> the format that it loads right."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written. `files` are sizes in bytes, by name."""

    folder: Path
    target: str
    files: Mapping[str, int]


def convert_to(
    settings: Configuration,
    transport: Callable[[], Transport],
    source: Path,
    folder: Path,
    target: str,
    base: str | None,
) -> Converted:
    """Raises `NotConvertible`, and what opening the base raises where it was named."""
    files = FolderFiles(source)
    made = convert(files, target, _base(Bases(settings, transport), files, base))  # type: ignore[arg-type]  # click knows the targets
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder} is a file", hint="name a folder for the result")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
    return Converted(folder, target, {name: len(content) for name, content in made.items()})


def _base(bases: Bases, files: FolderFiles, named: str | None) -> BaseModel | None:
    """The base that was named, or the one that the adapter names, if it is known; some formats need none."""
    if named is not None:
        return bases.open(named).base
    claimed = read_adapter(files).claim.name
    try:
        return bases.open(claimed).base if claimed else None
    except LorahubError:
        return None
