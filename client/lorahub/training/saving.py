"""The adapter's folder: the method's files, the card, the curve, and lorahub.json, last: a folder with it is whole."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lorahub.adapters.adapter_config import is_hub_id, parse_adapter_config
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.formats.own import BITFIT, BOTTLENECK
from lorahub.adapters.manifest import MANIFEST, StatedFile, write_manifest
from lorahub.adapters.reader import CONFIG, read_adapter
from lorahub.conversion import refusal
from lorahub.errors import AlreadyExists, InvalidUsage
from lorahub.hub.describe import stated_files
from lorahub.training.base import sha256_of
from lorahub.training.checkpoint import FOLDER, Progressed, publish
from lorahub.training.config import TrainConfig
from lorahub.training.curve import svg
from lorahub.training.devices import DevicePlace
from lorahub.training.history import HISTORY, TrainingStep, write_history
from lorahub.training.kept import ROLES, KeptAdapters
from lorahub.training.methods import Method
from lorahub.training.provenance import run_facts
from lorahub.training.vocabulary import Vocabulary

CARD, CURVE = "README.md", "curve.svg"


def require_room(folder: Path, *, is_resumed: bool) -> None:
    """Raises `AlreadyExists` where something else is there, which training would mix itself with, `InvalidUsage` where
    nothing can be written.
    """
    if (folder / FOLDER).exists():
        if not is_resumed:
            raise AlreadyExists(f"{folder} holds a run that didn't end", hint="--resume auto goes on with it")
    elif (folder / MANIFEST).exists() or (folder / CONFIG).exists():
        raise AlreadyExists(f"{folder} holds an adapter", hint="choose another folder with -o, or remove it")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExists(f"{folder} is not empty", hint="choose another folder with -o")
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise InvalidUsage(f"nothing can be written into {above}", hint="choose another folder with -o")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run before its first step; with what it has reached since, an adapter's folder."""

    name: str
    method: Method
    model: nn.Module
    base: BaseLayout
    config: TrainConfig
    place: DevicePlace
    made: Mapping[str, Any]
    """As lorahub.json has it, by part."""
    batches: int
    """In one epoch."""
    vocabulary: Vocabulary

    def write(
        self, place: Path, steps: list[TrainingStep], done: Progressed, *, stopped: str, kept: float | None
    ) -> dict[str, Any]:
        """Makes the folder `place`, and returns what its lorahub.json says. `kept` is the evaluation loss."""
        place.mkdir(parents=True)
        self.method.save(self.model, place)
        self.vocabulary.save(place)
        write_history(place / HISTORY, steps)
        run = run_facts(self.config, place / HISTORY, steps, done, stopped=stopped, kept=kept)
        run["epochs"] = done.step * self.config.accum / self.batches
        run["method"] = dict(self.method.facts) or None
        hardware = {**self.made["hardware"], "peak_memory": self.place.peak_memory()}
        made = {**self.made, "run": {**self.made["run"], **run}, "hardware": hardware}
        _name_base(place / CONFIG, self.base)
        (place / CARD).write_text(_card(self.method.name, self.base, made, _library(place)))
        (place / CURVE).write_text(svg(steps, f"Loss of {self.name}"))
        files = FolderFiles(place)
        adapter = read_adapter(files)
        is_model = CONFIG not in files.sizes
        stated = _weights(files) if is_model else stated_files(files, adapter)
        told: dict[str, Any] = json.loads(write_manifest(adapter, self.base, refusal, files=stated, before=made))
        if is_model:
            told |= {"adapter": None, "compatibility": {}}
        (place / MANIFEST).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
        return told


def save_adapter(folder: Path, kept: KeptAdapters, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Returns what lorahub.json says. What was kept for a run that stops goes when everything else is there."""
    place = folder / FOLDER / "adapter"
    shutil.rmtree(place, ignore_errors=True)
    try:
        told = write(place)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)  # half an adapter takes the room that is missing
        raise
    for source in sorted(place.iterdir(), key=lambda path: path.name == MANIFEST):
        publish(source, folder / source.name)
    kept.discard(*ROLES)
    shutil.rmtree(folder / FOLDER)
    return told


def _weights(files: FolderFiles) -> Iterator[StatedFile]:
    for path, size in sorted(files.sizes.items()):
        if path.endswith(".safetensors"):
            yield StatedFile(path, size, sha256_of(files.path(path)) or "")


def _library(place: Path) -> str:
    """Whose files these are."""
    config = place / CONFIG
    if not config.is_file():
        return "transformers"
    return "lorahub" if parse_adapter_config(config.read_bytes()).peft_type in (BOTTLENECK, BITFIT) else "peft"


def _name_base(path: Path, base: BaseLayout) -> None:
    """The base's name instead of where it lay on this machine; without a name nothing, for a path tells nobody more.

    PEFT writes sets in any order; sorted, the same run gives the same bytes.
    """
    if path.is_file():
        config = json.loads(path.read_bytes())
        config |= {key: sorted(config[key]) for key in ("target_modules",) if isinstance(config.get(key), list)}
        config |= {"base_model_name_or_path": base.name, "revision": base.revision}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _card(method: str, base: BaseLayout, made: Mapping[str, Any], library: str) -> str:
    run, data = made["run"], made["data"]
    named = base.name is not None and is_hub_id(base.name)
    front = [
        *([f"base_model: {base.name}"] if named else []),
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        "tags:",
        f"- {method}",
        "- lorahub",
    ]
    evaluated = run["eval_loss"]
    rows = [
        ("method", method),
        ("trained on", f"{data['train']['rows']} rows, {run['tokens']:,} tokens in {run['steps']} steps"),
        ("loss", f"{_number(run['loss']['first'])} → {_number(run['loss']['last'])}"),
    ]
    if evaluated["kept"] is not None:
        rows.append(("evaluation loss", f"{_number(evaluated['untrained'])} → {_number(evaluated['kept'])}"))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        "---\n" + "\n".join(front) + "\n---\n\n"
        f"Trained with `lorahub train`; lorahub.json has the settings, the data's digests and the curve.\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n![Loss]({CURVE})\n"
    )


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
