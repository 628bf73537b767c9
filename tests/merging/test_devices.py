"""Merges by a device: the bytes are the CPU's, whatever the order of its sums. torch's own CPU stands for a GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lorahub
import numpy as np
import pytest
import torch
from corpus.merge_corpus import Stored, make_adapter, make_base
from hypothesis import given, settings
from hypothesis import strategies as st
from lorahub.adapters.files import FolderFiles
from lorahub.errors import InvalidUsage, NotMergeable
from lorahub.merging import certified
from lorahub.merging.certified import TorchDevice, certified_rows
from lorahub.merging.devices import open_device
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Device, Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from lorahub.merging.rounding import narrow, widen
from lorahub.merging.steps import Product
from registry_process import LORAHUB, Registry
from safetensors.torch import load_file, save_file

PLACE = torch.device("cpu")
DTYPES = ["BF16", "F16", "F32"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A base with weights of several blocks, and three adapters: two LoRAs, and a DoRA for one of their modules."""
    folder = tmp_path_factory.mktemp("sources")
    base = make_base(folder / "base", hidden_size=256, intermediate_size=2100, shard="3MB")
    plain = {"target_modules": ["q_proj", "down_proj", "gate_proj"]}
    return (
        base,
        make_adapter(folder / "one", base, "base", seed=1, **plain),
        make_adapter(folder / "two", base, "base", seed=2, r=8, **plain),
        make_adapter(folder / "dora", base, "base", seed=3, use_dora=True, target_modules=["q_proj", "k_proj"]),
    )


def plan_of(base: Path, *adapters: Path, device: Device | None = None, **recipe: Any) -> MergePlan:
    made = Recipe("base", tuple(Ingredient(path.name) for path in adapters), **recipe)
    of = Ingredients(FolderFiles(base), [FolderFiles(path) for path in adapters], {})
    return MergePlan(made, of, device=device)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- whole models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("adapters", [[1], [1, 2], [1, 3]], ids=["one", "two", "beside DoRA"])
def test_a_folder_has_the_same_bytes(
    sources: tuple[Path, ...], tmp_path: Path, dtype: str, adapters: list[int]
) -> None:
    chosen = [sources[0], *(sources[number] for number in adapters)]
    device = TorchDevice("cpu")
    write_model(plan_of(*chosen, dtype=dtype), tmp_path / "cpu")
    write_model(plan_of(*chosen, dtype=dtype, device=device), tmp_path / "device", threads=3)
    assert contents(tmp_path / "device") == contents(tmp_path / "cpu")
    assert device.blocks_done >= 6
    plan = plan_of(*chosen, dtype=dtype, device=device)
    for path in plan.weights:
        whole = (tmp_path / "cpu" / path).read_bytes()
        assert plan.read(path, 100_001, 300_007) == whole[100_001:300_007]


def test_float64_and_what_is_no_sum_are_the_cpus(sources: tuple[Path, ...], tmp_path: Path) -> None:
    device = TorchDevice("cpu")
    write_model(plan_of(*sources[:3], method="ties", parameters={"density": 0.5}), tmp_path / "cpu")
    write_model(plan_of(*sources[:3], method="ties", parameters={"density": 0.5}, device=device), tmp_path / "device")
    assert contents(tmp_path / "device") == contents(tmp_path / "cpu")
    wide = _changed(sources[0], tmp_path / "wide", lambda _, value: value.double())
    write_model(plan_of(wide, sources[1]), tmp_path / "cpu-64")
    write_model(plan_of(wide, sources[1], device=device), tmp_path / "device-64")
    assert contents(tmp_path / "device-64") == contents(tmp_path / "cpu-64")
    assert device.blocks_done + device.blocks_again == 0


def _changed(folder: Path, copy: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """The folder with other tensors."""
    shutil.copytree(folder, copy)
    for path in copy.glob("*.safetensors"):
        save_file({name: change(name, value).contiguous() for name, value in load_file(path).items()}, path)
    return copy


# --- numbers at the edge ----------------------------------------------------------------------------------------------


STEPS = {
    "BF16": [2.0**-8, 2.0**-8 * (1 + 2.0**-23), 2.0**-8 * (1 - 2.0**-24), 2.0**-8 + 2.0**-24, 2.0**-8 - 2.0**-25],
    "F16": [2.0**-11, 2.0**-11 * (1 + 2.0**-23), 2.0**-11 * (1 - 2.0**-24), 2.0**-11 + 2.0**-24],
    "F32": [2.0**-24, 2.0**-24 * (1 + 2.0**-23), 2.0**-24 * (1 - 2.0**-24), -(2.0**-25)],
}
"""What is added to 1: half of a last place, a little more, a little less, and half of a float32's beside it."""


@pytest.mark.parametrize("dtype", DTYPES)
def test_halfway_between_two_numbers(sources: tuple[Path, ...], tmp_path: Path, dtype: str) -> None:
    base = _changed(sources[0], tmp_path / "ones", lambda _, value: torch.ones_like(value))
    steps = torch.tensor(STEPS[dtype], dtype=torch.float32)

    def crafted(name: str, value: torch.Tensor) -> torch.Tensor:
        new = torch.zeros_like(value)
        if "lora_A" in name:
            new[0] = 1
        else:
            new[:, 0] = steps.repeat(len(new) // len(steps) + 1)[: len(new)] / scale
        return new

    said = json.loads((sources[1] / "adapter_config.json").read_text())
    scale = said["lora_alpha"] / said["r"]
    adapter = _changed(sources[1], tmp_path / "crafted", crafted)
    device = TorchDevice("cpu")
    write_model(plan_of(base, adapter, dtype=dtype), tmp_path / "cpu")
    write_model(plan_of(base, adapter, dtype=dtype, device=device), tmp_path / "device")
    assert contents(tmp_path / "device") == contents(tmp_path / "cpu")
    assert device.blocks_again > 0
    paths = (tmp_path / "device").glob("*.safetensors")
    merged = {name: value for path in paths for name, value in load_file(path).items()}
    found = merged["model.layers.0.mlp.down_proj.weight"][: len(steps), 0]
    assert torch.equal(found, (1 + steps.double()).float().to(found.dtype))


@given(
    seed=st.integers(0, 1 << 32),
    rank=st.sampled_from([1, 2, 7, 16, 300]),
    wanted=st.sampled_from(DTYPES),
    bits=st.sampled_from([1, 3, 8, 24, 53]),
    spread=st.sampled_from([0, 3, 40, 160, 500]),
)
@settings(max_examples=150, deadline=None)
def test_certain_rows_are_the_kernels(seed: int, rank: int, wanted: str, bits: int, spread: int) -> None:
    """The device gets the ranks in another order. Few bits make ties, wide spreads what is too small or too large."""
    chosen = np.random.default_rng(seed)

    def numbers(*shape: int) -> Any:
        rough = np.round(chosen.standard_normal(shape) * 2.0**bits) * 2.0**-bits
        return rough * 2.0 ** chosen.integers(-spread, spread + 1, shape)

    left, right = numbers(12, rank), numbers(rank, 20)
    with np.errstate(over="ignore", invalid="ignore"):
        base = numbers(12, 20).astype("<f4")
        whole = widen(base.tobytes(), "F32").reshape(12, 20) + left @ right
    order = chosen.permutation(rank)
    rows, is_certain = certified_rows(PLACE, Product(left[:, order], right[order]), base.tobytes(), "F32", wanted)
    for row in np.flatnonzero(is_certain):
        assert rows[row].tobytes() == narrow(whole[row], wanted)


HALVES = {"BF16": (16, 0x8000), "F16": (13, 0x1000), "F32": (0, 0)}
"""The bits that float32 has more, and which of them are set halfway between two numbers."""


@given(seed=st.integers(0, 1 << 32), rank=st.sampled_from([2, 7, 16, 300]), wanted=st.sampled_from(DTYPES))
@settings(max_examples=100, deadline=None)
def test_where_the_order_of_a_sum_decides(seed: int, rank: int, wanted: str) -> None:
    """Numbers so near to where rounding turns that another order comes out on its other side."""
    chosen = np.random.default_rng(seed)
    left, right = chosen.standard_normal((12, rank)), chosen.standard_normal((rank, 20))
    more, half = HALVES[wanted]
    near = (chosen.standard_normal((12, 20)).astype("<f4").view("<u4") >> more << more | half).view("<f4")
    turn = near + chosen.choice([-0.5, 0.5], near.shape) * np.spacing(near).astype(np.float64)
    base = np.where(chosen.random(near.shape) < 0.03, turn - left @ right, near)
    whole = base + left @ right
    order = chosen.permutation(rank)
    rows, is_certain = certified_rows(PLACE, Product(left[:, order], right[order]), base.tobytes(), "F64", wanted)
    for row in np.flatnonzero(is_certain):
        assert rows[row].tobytes() == narrow(whole[row], wanted)


def test_zeros_of_either_sign_are_never_certain() -> None:
    none = Product(np.array([[-0.0], [0.0]]), np.array([[1.0, 2.0]]))
    _, is_certain = certified_rows(PLACE, none, np.array([[-0.0, 1], [0.0, 1]], "<f4").tobytes(), "F32", "BF16")
    assert not is_certain.any()


@pytest.mark.parametrize(("worth", "dtype"), [(float("nan"), "BF16"), (1e6, "F16"), (3e38, "BF16")])
def test_what_the_dtype_cannot_hold_is_refused_alike(
    sources: tuple[Path, ...], tmp_path: Path, worth: float, dtype: str
) -> None:
    def spoilt(name: str, value: torch.Tensor) -> torch.Tensor:
        if "down_proj" in name:
            value[0, 0] = worth
        return value

    adapter = _changed(sources[1], tmp_path / "spoilt", spoilt)
    said = []
    for device in (None, TorchDevice("cpu")):
        with pytest.raises(NotMergeable, match="can't hold") as refused:
            write_model(plan_of(sources[0], adapter, dtype=dtype, device=device), tmp_path / "merged")
        said.append(str(refused.value))
        assert [path.name for path in tmp_path.iterdir()] == ["spoilt"]
    assert said[0] == said[1]


# --- a device that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("no room"), RuntimeError("CUDA error: it fell off the bus")])
def test_a_device_that_fails_costs_time_only(
    sources: tuple[Path, ...], tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, tries = TorchDevice("cpu"), []

    def failing(*_: object) -> None:
        tries.append(1)
        raise fault

    monkeypatch.setattr(certified, "certified_rows", failing)
    write_model(plan_of(*sources[:2]), tmp_path / "cpu")
    write_model(plan_of(*sources[:2], device=device), tmp_path / "device")
    assert contents(tmp_path / "device") == contents(tmp_path / "cpu")
    assert device.blocks_done == 0
    is_lost = not isinstance(fault, torch.OutOfMemoryError)
    assert (len(tries) == 1) == is_lost
    assert ("given up: CUDA error" in device.account) == is_lost


@pytest.mark.parametrize("name", ["meta", "no-such-device", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused(name: str) -> None:
    with pytest.raises(InvalidUsage, match=f"nothing can be merged on {name}"):
        open_device(name)


def test_the_cpu_needs_no_torch() -> None:
    """Nor does `auto` where there is no GPU."""
    code = "import sys; from lorahub.merging.devices import open_device as o; print(o('cpu'), 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "None False\n"
    if not has_gpu():
        told = subprocess.run(
            [sys.executable, "-c", code.replace("cpu", "auto")], capture_output=True, text=True, check=True
        ).stdout
        assert told == "None False\n"


def has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu(sources: tuple[Path, ...], tmp_path: Path, dtype: str) -> None:
    device = open_device("cuda")
    assert isinstance(device, TorchDevice)
    write_model(plan_of(*sources[:3], dtype=dtype), tmp_path / "cpu")
    write_model(plan_of(*sources[:3], dtype=dtype, device=device), tmp_path / "device")
    assert contents(tmp_path / "device") == contents(tmp_path / "cpu")
    assert device.blocks_done > device.blocks_again


# --- who chooses ------------------------------------------------------------------------------------------------------


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LORAHUB, *map(str, arguments)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_from_the_command_line(sources: tuple[Path, ...], tmp_path: Path) -> None:
    merge = ("merge", *sources[:2], "-o")
    done = run(*merge, tmp_path / "device", "--device", "torch:cpu")
    assert done.returncode == 0, done.stderr
    assert "on cpu" in done.stdout
    assert "again on the CPU" in done.stdout
    assert run(*merge, tmp_path / "cpu").returncode == 0
    assert contents(tmp_path / "device") == contents(tmp_path / "cpu")
    refused = run(*merge, tmp_path / "none", "--device", "cuda:99")
    assert refused.returncode == 2
    assert "nothing can be merged on cuda:99" in refused.stderr
    assert not (tmp_path / "none").exists()
    elsewhere = run("merge", *sources[:2], "--server", "ana/merged", "--device", "cuda")
    assert elsewhere.returncode == 2
    assert "--device is for a merge on this machine" in elsewhere.stderr


def test_a_worker_merges_on_the_device_it_is_told(tmp_path: Path, store: Callable[..., Stored]) -> None:
    told = {"LORAHUB_WORKER": "true", "LORAHUB_MERGE_DEVICE": "torch:cpu", "LORAHUB_LOG_LEVEL": "info"}
    registry = Registry(tmp_path / "registry", told)
    registry.log = tmp_path / "log"
    registry.start()
    try:
        stored = store(registry, ("ana", registry.add_user("ana")), sizes={"shard": "1MB"})
        recipe = Recipe(stored.base, (Ingredient(stored.adapter),))
        with lorahub.Hub(registry.url, token=stored.token) as hub:
            job = hub.merges.wait(hub.merges.start(recipe, "ana/merged").id)
            pulled = hub.pull(job.reference, tmp_path / "pulled").path
            here = Recipe(str(stored.base_folder), (Ingredient(str(stored.adapter_folder)),))
            local = hub.merge(here, tmp_path / "here")
            on_device = hub.merge(here, tmp_path / "device", device="torch:cpu")
        for path in local.glob("*.safetensors"):
            assert path.read_bytes() == (pulled / path.name).read_bytes() == (on_device / path.name).read_bytes()
    finally:
        registry.stop()
    assert re.search(r"merged on cpu: [1-9]\d* blocks", registry.log.read_text())
    registry.assert_sound()


def test_a_worker_is_not_started_for_a_device_that_is_not_there(folder_registry: Registry) -> None:
    settings = {**folder_registry.settings, "LORAHUB_MERGE_DEVICE": "cuda:99", "LORAHUB_WORKER": "true"}
    for command in (["worker"], ["serve", "--port", "0"]):
        refused = run(*command, "--home", folder_registry.home, **settings)
        assert refused.returncode == 2, refused.stderr
        assert "LORAHUB_MERGE_DEVICE is cuda:99: nothing can be merged on cuda:99" in refused.stderr
    told = run("admin", "doctor", "--home", folder_registry.home, **settings)
    assert told.returncode == 8
    assert "✗ merge device" in told.stdout
