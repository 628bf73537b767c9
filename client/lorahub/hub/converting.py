"""Conversions by name: an adapter on disk, its base wherever it is known, and the files for a runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import convert
from lorahub.errors import InvalidInput, NotConvertible, Refusal, Unavailable
from lorahub.hub.bases import Bases
from lorahub.hub.sources import Sources, is_of_an_adapter, may_look_up


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written. `files` are sizes in bytes, by name."""

    folder: Path
    target: str
    files: Mapping[str, int]


def convert_to(sources: Sources, source: str | Path, folder: Path, target: str, base: str | None) -> Converted:
    """Raises `NotConvertible`, and what opening the source raises, and the base where it was named."""
    files = FolderFiles(sources.fetch(source, is_of_an_adapter).folder)
    made = _converted(files, target, base, Bases(sources))
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder} is a file", hint="name a folder for the result")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
    return Converted(folder, target, {name: len(content) for name, content in made.items()})


def _converted(files: FolderFiles, target: str, named: str | None, bases: Bases) -> Mapping[str, bytes]:
    """Where the base can't be asked for now, only what needs none is converted."""
    try:
        base = _base(bases, files, named)
    except Unavailable as fault:
        if named is not None:
            raise
        try:
            return convert(files, target)  # type: ignore[arg-type]  # click knows the targets
        except NotConvertible:
            raise fault from None
    return convert(files, target, base)  # type: ignore[arg-type]  # click knows the targets


def _base(bases: Bases, files: FolderFiles, named: str | None) -> BaseLayout | None:
    """The base that was named, or the one that the adapter names, if it is known."""
    if named is not None:
        return bases.open(named).base
    claimed = read_adapter(files).claim.name
    try:
        return bases.open(claimed).base if claimed and may_look_up(claimed) else None
    except Refusal:
        return None
