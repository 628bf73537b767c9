"""Adapters of the real PEFT and their bases as files, so that what reads them is tested without PyTorch.

`make goldens` writes them anew, with the PEFT that is installed; a test of the corpus compares them with it. Beside the
adapter of each case lies `peft.json`: what PEFT itself makes of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "golden"


@dataclass(frozen=True)
class Golden:
    folder: Path
    base: str
    method: str
    rules: frozenset[str]
    """Of warnings and notes that it deserves on its own base."""
    layers: Mapping[tuple[str, str], tuple[int | None, float, tuple[int, ...] | None]]
    """Module and parameter → rank, scale, and shape as stored; None where PEFT has none or another's."""


@cache
def adapters(folder: Path = FOLDER) -> Mapping[str, Golden]:
    return {place.name: _read(place) for place in sorted((folder / "adapters").iterdir())}


def bases(folder: Path = FOLDER) -> Mapping[str, Path]:
    return {place.name: place for place in sorted((folder / "bases").iterdir())}


def file(name: str, folder: Path = FOLDER) -> bytes:
    """`saved.pt`, or `saved-before-1.6.pt`: what PyTorch wrote then."""
    return (folder / "files" / name).read_bytes()


def _read(folder: Path) -> Golden:
    told = json.loads((folder / "peft.json").read_bytes())
    layers = {
        (module, parameter): (rank, scale, shape and tuple(shape))
        for module, parameter, rank, scale, shape in told["layers"]
    }
    return Golden(folder, told["base"], told["method"], frozenset(told["rules"]), layers)


# --- with PEFT --------------------------------------------------------------------------------------------------------


def write(folder: Path) -> None:
    from corpus import peft_corpus as corpus

    for name in corpus.BASES:
        corpus.write_base(name, folder / "bases" / name)
    _write_variants(folder / "bases")
    for name, case in corpus.CASES.items():
        place = folder / "adapters" / name
        model = corpus.write(case, place)
        (place / "README.md").unlink()
        _sort_targets(place / "adapter_config.json")
        told = {
            "base": case.base,
            "method": case.method,
            "rules": sorted(case.expected),
            "layers": _layers(case, model),
        }
        (place / "peft.json").write_text(json.dumps(told, indent=1) + "\n")
    for place in folder.rglob("generation_config.json"):
        place.unlink()
    _write_files(folder / "files")


def _sort_targets(config: Path) -> None:
    """PEFT writes a set, in no order."""
    said = json.loads(config.read_bytes())
    if isinstance(said.get("target_modules"), list):
        said["target_modules"].sort()
    config.write_text(json.dumps(said, indent=2) + "\n")


def _layers(case: Any, model: Any) -> list[tuple[str, str, int | None, float, list[int] | None]]:
    """See `Golden.layers`; of the methods whose factors have a rank."""
    from corpus.peft_corpus import make_base
    from peft.tuners.tuners_utils import BaseTunerLayer

    if case.method not in ("lora", "loha", "lokr"):
        return []
    parts = make_base(case.base).named_modules()
    shapes = {name: [*part.weight.shape] for name, part in parts if hasattr(part, "weight")}
    is_replicated = bool(getattr(case.config(), "layer_replication", None))
    found = []
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, BaseTunerLayer) and getattr(layer, "r", {}).get("default"):
            parameter = getattr(layer, "parameter_name", "weight")
            module = ".".join(part for part in name.split(".") if part != "base_layer")
            rank = None if case.method == "lokr" else layer.r["default"]
            shape = shapes[module] if parameter == "weight" and not is_replicated else None
            found.append((module, parameter, rank, layer.scaling["default"], shape))
    return found


def _write_variants(folder: Path) -> None:
    """Bases that resemble `llama`: wider, shallower, forbidding, incomplete, quantised."""
    import numpy as np
    from corpus.peft_corpus import llama
    from safetensors.numpy import load_file, save_file

    llama(hidden_size=32).save_pretrained(folder / "llama-wide")
    llama(num_hidden_layers=2).save_pretrained(folder / "llama-shallow")
    llama().save_pretrained(folder / "llama-noncommercial")
    (folder / "llama-noncommercial" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    llama().save_pretrained(folder / "llama-incomplete", max_shard_size="5KB")
    next((folder / "llama-incomplete").glob("model-00001*")).unlink()
    packed = {
        name.replace(".weight", ".qweight") if "_proj.weight" in name else name: (
            np.ones((2, 2), np.int32) if "_proj.weight" in name else array
        )
        for name, array in load_file(folder / "llama" / "model.safetensors").items()
    }
    (folder / "llama-packed").mkdir()
    save_file(packed, folder / "llama-packed" / "model.safetensors")


def _write_files(folder: Path) -> None:
    import torch

    folder.mkdir()
    for name, is_zip in (("saved.pt", True), ("saved-before-1.6.pt", False)):
        torch.save({"w": torch.zeros(4)}, folder / name, _use_new_zipfile_serialization=is_zip)


if __name__ == "__main__":
    import shutil

    shutil.rmtree(FOLDER, ignore_errors=True)
    write(FOLDER)
