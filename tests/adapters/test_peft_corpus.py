"""Adapters of the real PEFT are read as PEFT itself understands them, and fit the base they were made on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corpus import golden
from corpus.peft_corpus import BASES, CASES, make_base, write, write_base
from lorahub.adapters.adapter import ROLES, Update
from lorahub.adapters.base_model import BaseLayout, BaseTensor, read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.merging.formulas import MERGEABLE
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.numpy import load_file, save_file
from torch import nn

pytestmark = pytest.mark.xdist_group("peft-corpus")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseLayout]:
    root = tmp_path_factory.mktemp("bases")
    return {name: read_base(FolderFiles(write_base(name, root / name)), name=f"acme/{name}") for name in BASES}


@pytest.mark.parametrize("name", CASES)
def test_fits_its_own_base(name: str, bases: dict[str, BaseLayout], tmp_path: Path) -> None:
    case = CASES[name]
    write(case, tmp_path)

    adapter = read_adapter(FolderFiles(tmp_path))
    report = check(adapter, bases[case.base])

    assert adapter.format == "peft"
    assert adapter.method == case.method
    assert {found.rule for found in report.findings} == case.expected, report.findings
    assert report.verdict == "fits"
    assert report.matched == report.of
    understood = [update for update in adapter.updates if update.method in MERGEABLE]
    assert {role for update in understood for role in update.tensors} <= ROLES.keys()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.method in ("lora", "loha", "lokr")])
def test_rank_scale_and_place_are_those_of_peft(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = write(case, tmp_path)
    shapes = {module: tuple(layer.weight.shape) for module, layer in _weighted(make_base(case.base))}

    adapter = read_adapter(FolderFiles(tmp_path))

    found = {(update.module, update.parameters[0]): update for update in adapter.updates}
    theirs = dict(_layers(model))
    assert found.keys() == theirs.keys()
    for key, layer in theirs.items():
        update = found[key]
        if case.method != "lokr":
            assert update.rank == layer.r["default"], key
        assert update.scale == pytest.approx(layer.scaling["default"], rel=1e-12), key
        if key[1] == "weight" and not case.config().__dict__.get("layer_replication"):
            assert _as_stored(update) == shapes[update.module], key


def _layers(model: nn.Module) -> list[tuple[tuple[str, str], BaseTunerLayer]]:
    found = []
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, BaseTunerLayer) and getattr(layer, "r", {}).get("default"):
            parameter = getattr(layer, "parameter_name", "weight")
            module = ".".join(part for part in name.split(".") if part != "base_layer")
            found.append(((module, parameter), layer))
    return found


def _weighted(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(getattr(layer, "weight", None), nn.Parameter)
    ]


def _as_stored(update: Update) -> tuple[int | None, ...]:
    return update.shape[::-1] if update.transposed else update.shape


def test_the_golden_ones_are_what_this_peft_writes(tmp_path: Path) -> None:
    """`make goldens` after an update of PEFT, and a look at what is new, mend it."""
    golden.write(tmp_path)
    ours, theirs = ({path.relative_to(top) for path in top.rglob("*.*")} for top in (golden.FOLDER, tmp_path))
    assert ours == theirs
    for path in ours:
        assert _content(golden.FOLDER / path) == _content(tmp_path / path), path


def _content(path: Path) -> Any:
    """Of weights only what they are: an SVD has other signs on another machine."""
    if path.suffix == ".safetensors":
        return {name: (str(array.dtype), array.shape) for name, array in load_file(path).items()}
    if path.suffix == ".pt":
        return path.read_bytes()[:4]  # what follows differs each time
    if path.suffix != ".json":
        return path.read_bytes()
    configuration = json.loads(path.read_bytes())
    for name in ("target_modules", "target_parameters"):  # sets to PEFT, whose order changes from run to run
        if isinstance(configuration.get(name), list):
            configuration[name].sort()
    return {name: said for name, said in configuration.items() if not name.endswith("_version")}


def test_an_adapter_of_transformers_own_loader_has_no_wrapper_in_its_names(
    bases: dict[str, BaseLayout], tmp_path: Path
) -> None:
    write(CASES["lora"], tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    bare = {name.removeprefix("base_model.model."): array for name, array in load_file(weights).items()}
    save_file({name.replace(".weight", ".default.weight"): array for name, array in bare.items()}, weights)

    report = check(read_adapter(FolderFiles(tmp_path)), bases["llama"])

    assert (report.verdict, report.matched, report.findings) == ("fits", 6, ())


def test_a_language_model_inside_another_is_found_under_both_spellings(tmp_path: Path) -> None:
    """Transformers 5 renames `language_model.model.…` on disk to `model.language_model.…` in memory."""
    write(CASES["lora"], tmp_path)
    adapter = read_adapter(FolderFiles(tmp_path))
    shapes = {"q_proj": (16, 16), "v_proj": (8, 16)}
    tensors = {
        f"language_model.model.layers.{layer}.self_attn.{leaf}.weight": BaseTensor("F32", shape)
        for layer in range(3)
        for leaf, shape in shapes.items()
    }
    vision = {f"vision_tower.layers.{layer}.self_attn.q_proj.weight": BaseTensor("F32", (12, 12)) for layer in range(3)}
    inner = replace(
        adapter,
        updates=tuple(
            replace(u, module=u.module.replace("model.layers", "model.language_model.layers")) for u in adapter.updates
        ),
    )
    report = check(inner, BaseLayout(tensors | vision, name="acme/llama", names=frozenset(["acme/llama"])))
    assert (report.verdict, report.matched) == ("fits", 6)
    assert {weight.name.partition(".")[0] for _, weight in report.bound} == {"language_model"}


def test_stacked_experts_lead_to_every_experts_own_tensors(bases: dict[str, BaseLayout], tmp_path: Path) -> None:
    """Gate over up in one update: the rows of each expert's two tensors on disk."""
    write(CASES["lora-experts"], tmp_path)
    report = check(read_adapter(FolderFiles(tmp_path)), bases["moe"])
    assert len(report.bound) == 4
    for update, weight in report.bound:
        if update.parameters == ("gate_up_proj",) and len(weight.places) > 1:
            assert [place.rows for place in weight.places] == [(0, 12), (12, 24)] * 4
            assert [place.expert for place in weight.places] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert update.shape == weight.shape
