"""Checkpoints: all that the next step depends on, in one file of safetensors that is whole or not there.

<adapter>/.training/00000120.safetensors   after step 120; the two newest stay
<adapter>/.training/best.safetensors       with --patience: the one that evaluated best
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorahub.errors import InvalidUsage
from lorahub.training.optimizer import FlatAdamW

FOLDER = ".training"
_BEST = "best.safetensors"
_KEPT = 2


@dataclass(slots=True)
class Progressed:
    """How far a run is: what isn't a tensor."""

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int = 0
    waited: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    resumed: list[str] = field(default_factory=list)
    """sha256 of the checkpoints it went on from."""
    planned: int = 0
    """How many steps the run was to have; 0 where nobody wrote it down."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path
    progress: Progressed
    fingerprint: dict[str, Any]
    tensors: Mapping[str, Tensor]

    def restore(self, optimizer: FlatAdamW, *, parameters_only: bool = False) -> None:
        """The optimizer, through it the model, and the random numbers. Raises `InvalidUsage` for another model's."""
        try:
            optimizer.load({name: value for name, value in self.tensors.items() if not name.startswith("rng.")})
        except (KeyError, RuntimeError):
            raise InvalidUsage(
                f"{self.path} is a checkpoint of another model", hint="train into another folder"
            ) from None
        if not parameters_only:
            torch.set_rng_state(self.tensors["rng.cpu"])
            if "rng.cuda" in self.tensors and torch.cuda.is_available():
                torch.cuda.set_rng_state(self.tensors["rng.cuda"])


class Checkpoints:
    """The checkpoints of one run. `fingerprint` is what has to be the same for a run to go on: settings, data, base."""

    def __init__(self, adapter: Path, fingerprint: Mapping[str, Any]) -> None:
        self._folder = adapter / FOLDER
        self._fingerprint = dict(fingerprint)

    def save(self, optimizer: FlatAdamW, progress: Progressed, *, is_best: bool = False) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / (_BEST if is_best else f"{progress.step:08d}.safetensors")
        tensors = {**optimizer.state(), "rng.cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        told = {"progress": json.dumps(asdict(progress)), "fingerprint": json.dumps(self._fingerprint)}
        part = path.with_suffix(".part")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata=told)
        publish(part, path)
        if not is_best:
            for old in self._all()[:-_KEPT]:
                old.unlink()
        return path

    def discard(self, step: int) -> None:
        """Takes back what was saved after `step`: the next loss showed that it is no good."""
        for path in self._all():
            if int(path.stem) >= step:
                path.unlink()

    @property
    def newest(self) -> Path | None:
        return next(reversed(self._all()), None)

    @property
    def has_best(self) -> bool:
        return (self._folder / _BEST).is_file()

    def best(self) -> Checkpoint:
        return read_checkpoint(self._folder / _BEST)

    def open(self, wanted: str) -> Checkpoint | None:
        """`auto` is the newest, if there is one; else a file, or a run's folder. Raises `InvalidUsage`."""
        path = self.newest if wanted == "auto" else _named(Path(wanted))
        if path is None:
            return None
        found = read_checkpoint(path)
        for name, value in self._fingerprint.items():
            before = found.fingerprint.get(name)
            if before != value:
                raise InvalidUsage(
                    f"{path} was made with {name} {_short(before)}, this run has {_short(value)}",
                    hint="go on with the same settings, data and base, or train into another folder",
                )
        return found

    def _all(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.safetensors") if path.stem.isdecimal())


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises `InvalidUsage` for what isn't one."""
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            progress = Progressed(**json.loads(told["progress"]))
            fingerprint = json.loads(told["fingerprint"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidUsage(
            f"{path} is no checkpoint: {str(error)[:200]}", hint="--resume auto takes the newest"
        ) from None
    return Checkpoint(path, progress, fingerprint, tensors)


def publish(part: Path, path: Path) -> None:
    """The file gets its name when it is on the disk, and then for good."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _named(path: Path) -> Path:
    if path.is_dir():
        folder = path / FOLDER if (path / FOLDER).is_dir() else path
        found = sorted(p for p in folder.glob("*.safetensors") if p.stem.isdecimal())
        if not found:
            raise InvalidUsage(f"{path} holds no checkpoint", hint="name the folder of a run that was interrupted")
        return found[-1]
    return path


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
