"""Adapters that the real PEFT wrote are read as PEFT itself understands them, and fit the base they were made on.

`test_peft_corpus.py` has the same of the PEFT that is installed, and compares it with what lies here.
"""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from corpus import golden
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import FolderFiles, header_of
from lorahub.adapters.reader import read_adapter
from safetensors.numpy import load_file, save_file

ADAPTERS = golden.adapters()


@cache
def base(name: str) -> BaseLayout:
    return read_base(FolderFiles(golden.bases()[name]), name=f"acme/{name}")


@pytest.mark.parametrize("name", ADAPTERS)
def test_fits_its_own_base(name: str) -> None:
    made = ADAPTERS[name]
    adapter = read_adapter(FolderFiles(made.folder))
    report = check(adapter, base(made.base))
    assert (adapter.format, adapter.method) == ("peft", made.method)
    assert {found.rule for found in report.findings} == made.rules, report.findings
    assert (report.verdict, report.matched) == ("fits", report.of)
    assert (report.coverage.used, report.coverage.named) == (report.coverage.of, 0)
    assert report.coverage.of == len(header_of(FolderFiles(made.folder), "adapter_model.safetensors").tensors)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_tensor_of_nobody_is_named_and_never_fits(name: str, tmp_path: Path) -> None:
    made = ADAPTERS[name]
    for number, foreign in enumerate(
        ("spare.lora_Q", "base_model.model.spare.state", "x", "spare_a.lora_A.lora_B.extra.thing")
    ):
        folder = shutil.copytree(made.folder, tmp_path / str(number))
        place = folder / "adapter_model.safetensors"
        save_file(load_file(place) | {foreign: np.ones((2, 2), np.float32)}, place)
        report = check(read_adapter(FolderFiles(folder)), base(made.base))
        assert report.verdict in ("incompatible", "undecided"), foreign
        assert foreign in {piece.name for found in report.findings for piece in found.evidence}
        assert (report.coverage.used + report.coverage.named, report.coverage.named) == (report.coverage.of, 1)


@pytest.mark.parametrize("name", [name for name, made in ADAPTERS.items() if made.layers])
def test_rank_scale_and_place_are_those_of_peft(name: str) -> None:
    made = ADAPTERS[name]
    updates = {(one.module, one.parameters[0]): one for one in read_adapter(FolderFiles(made.folder)).updates}
    assert updates.keys() == made.layers.keys()
    for key, (rank, scale, shape) in made.layers.items():
        update = updates[key]
        assert rank is None or update.rank == rank, key
        assert update.scale == pytest.approx(scale, rel=1e-12), key
        stored = update.shape[::-1] if update.transposed else update.shape
        assert shape is None or stored == shape, key


def test_there_is_one_of_every_method() -> None:
    assert len({made.method for made in ADAPTERS.values()}) >= 25
