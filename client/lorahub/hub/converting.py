"""Conversions by name: an adapter on disk, its base wherever it is known, and the files for a runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.runtimes import Loads, RuntimeAtVersion, judge_runtimes
from lorahub.conversion import convert, refusal
from lorahub.conversion.lora import AS_LORA
from lorahub.errors import InvalidInput, NotConvertible, Refusal, Unavailable
from lorahub.hub.bases import Bases
from lorahub.hub.merging import Merger
from lorahub.hub.progress import Progress, Silence
from lorahub.hub.sources import Sources, is_of_an_adapter, may_look_up
from lorahub.merging.adapters import Made
from lorahub.merging.as_lora import as_lora, needs_weights
from lorahub.merging.low_rank import Limit

LORA = "lora"
"""The target that is a plain LoRA in whatever format the adapter has."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written. `files` are sizes in bytes, by name; `approximation` says what a LoRA lost, if it is one."""

    folder: Path
    target: str
    files: Mapping[str, int]
    approximation: Made | None = None


def convert_to(sources: Sources, source: str | Path, folder: Path, target: str, base: str | None) -> Converted:
    """Raises `NotConvertible`, and what opening the source raises, and the base where it was named."""
    files = FolderFiles(sources.fetch(source, is_of_an_adapter).folder)
    made = _converted(files, target, base, Bases(sources))
    return Converted(folder, target, _written(made, folder))


def approximate_to(
    sources: Sources,
    source: str | Path,
    folder: Path,
    target: str,
    base: str | None,
    *,
    limit: Limit,
    progress: Progress | None = None,
) -> Converted:
    """A plain LoRA of an adapter of any method, in the target's format, or of `LORA` its own.

    Raises what `as_lora` raises, and what opening the source and its base does.
    """
    files = FolderFiles(sources.fetch(source, is_of_an_adapter).folder)
    made = _approximated(sources, files, target, base, limit, progress or Silence())
    return Converted(folder, target, _written(made.files, folder), made)


def convert_for(
    sources: Sources,
    source: str | Path,
    folder: Path,
    asked: RuntimeAtVersion,
    base: str | None,
    *,
    lossy: float | None = None,
    progress: Progress | None = None,
) -> Converted:
    """What the runtime loads right: converted exactly, or the plain LoRA that loses at most the share `lossy` of ‖ΔW‖.

    Raises `NotConvertible` for what the runtime wouldn't load, or would load wrong.
    """
    files = FolderFiles(sources.fetch(source, is_of_an_adapter).folder)
    form = asked.runtime.form
    try:
        made = _converted(files, form, base, Bases(sources))
        _refuse_unloadable(made, asked)
    except NotConvertible:
        if lossy is None:
            raise
    else:
        return Converted(folder, form, _written(made, folder))
    lora = _approximated(sources, files, form, base, Limit(keep=1 - lossy**2), progress or Silence())
    _refuse_unloadable(lora.files, asked)
    return Converted(folder, form, _written(lora.files, folder), lora)


def _approximated(
    sources: Sources, files: FolderFiles, target: str, base: str | None, limit: Limit, shown: Progress
) -> Made:
    adapter = read_adapter(files)
    spec = base or adapter.claim.name
    if not spec or (base is None and not may_look_up(spec)):
        raise NotConvertible("the adapter doesn't name a base that can be looked up", hint="name it: --base BASE")
    with Merger(sources) as merger:
        opened = merger.base_files(spec, is_dry=not needs_weights(adapter))
        made = as_lora(
            files,
            opened,
            None if target == LORA else target,  # type: ignore[arg-type]  # click knows the targets
            limit=limit,
            base_name=spec,
            begin=partial(shown.begin, "converting"),
            advance=shown.advance,
        )
        shown.end()
    return made


def _refuse_unloadable(made: Mapping[str, bytes], asked: RuntimeAtVersion) -> None:
    adapter, runtime = read_adapter(BytesFiles(made)), asked.runtime
    verdict = next(judge_runtimes(adapter, None, adapter.findings, (asked,), refusal))
    if verdict.loads in (Loads.NO, Loads.WRONG):
        rule, message = verdict.reasons[0]
        raise NotConvertible(
            f"no form of it is one that {runtime.label} loads right: {message}", hint=AS_LORA, rule=rule
        )


def _written(made: Mapping[str, bytes], folder: Path) -> dict[str, int]:
    """Sizes by name, once all are there."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder} is a file", hint="name a folder for the result")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
    return {name: len(content) for name, content in made.items()}


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
