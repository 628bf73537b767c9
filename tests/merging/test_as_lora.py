"""Adapters of other methods as plain LoRA: what is added is what the merge adds, or the best of the rank."""

import json
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from lorahub.adapters.files import FolderFiles
from lorahub.cli.main import main
from lorahub.errors import NotConvertible
from lorahub.merging.adapters import Made
from lorahub.merging.as_lora import as_lora
from lorahub.merging.low_rank import Limit, of_blocks, product_of
from lorahub.merging.steps import Hadamard, Product
from merging.test_against_peft import MERGED, merge, write_pair
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

EXACT = frozenset(
    "adalora gaussian hra hra-gram-schmidt loha-all lokr-both lokr-conv lokr-factor tokens-with-lora trainable-tokens "
    "vera pissa olora delora miss vblora deft deft-qr deft-para miss-mini peanut peanut-silu pvera unilora".split()
)
"""What is of a low rank by its own algebra; plain LoRA is too."""
NO_MATRIX = {
    "ln-tuning": "no matrix",
    "ln-tuning-all": "no matrix",
    "lora-saved-modules": "no matrix",
    "lora-saved-norms": "no matrix",
    "lora-bias-all": "only the bias",
}
RANK = 2


def parts_of(name: str) -> bool:
    return name not in NO_MATRIX and not name.startswith("lora-experts")


def weights(folder: Path) -> dict[str, NDArray[np.float64]]:
    files = folder.glob("*.safetensors")
    return {name: tensor.double().numpy() for path in files for name, tensor in load_file(path).items()}


def converted(base: Path, adapter: Path, folder: Path, limit: Limit) -> tuple[Made, Path]:
    made = as_lora(FolderFiles(adapter), FolderFiles(base), limit=limit, base_name="base")
    folder.mkdir()
    for path, content in made.files.items():
        (folder / path).write_bytes(content)
    return made, folder


def deltas(base: Path, adapter: Path, folder: Path) -> dict[str, NDArray[np.float64]]:
    """W′ − W of what changed, in float64: `test_against_peft` holds the merge against PEFT's."""
    before = weights(base)
    merge(base, adapter, folder, dtype="F64")
    found = {name: after - before[name] for name, after in weights(folder).items()}
    return {name: delta for name, delta in found.items() if delta.any()}


@pytest.mark.parametrize("name", [*filter(parts_of, MERGED), "pissa", "olora"])
def test_it_is_exact_or_the_best_of_its_rank_and_says_what_is_lost(name: str, tmp_path: Path) -> None:
    base, adapter = write_pair(name, tmp_path, torch.float32)
    wanted = deltas(base, adapter, tmp_path / "merged")
    made, folder = converted(base, adapter, tmp_path / "lora", Limit(RANK))
    found = deltas(base, folder, tmp_path / "again")
    assert found.keys() == wanted.keys()
    lost = size = 0.0
    for tensor, delta in wanted.items():
        if delta.ndim < 2:  # biases are exact
            np.testing.assert_allclose(found[tensor], delta, atol=1e-7)
            continue
        squares = np.linalg.svd(delta.reshape(len(delta), -1), compute_uv=False) ** 2
        least = (squares[RANK:].sum() / squares.sum()) ** 0.5
        mine = float(np.linalg.norm(found[tensor] - delta) / np.linalg.norm(delta))
        assert abs(mine - least) < 1e-6, tensor
        lost, size = lost + squares[RANK:].sum(), size + squares.sum()
    assert abs(made.error - (lost / size) ** 0.5) < 1e-6
    if name in EXACT or name.startswith(("lora", "rslora")):
        made, folder = converted(base, adapter, tmp_path / "exact", Limit())
        assert made.error == 0
        for tensor, delta in deltas(base, folder, tmp_path / "exactly").items():
            assert np.linalg.norm(wanted[tensor] - delta) <= 1e-7 * np.linalg.norm(delta), tensor
    else:
        with pytest.raises(NotConvertible, match="without a loss"):
            converted(base, adapter, tmp_path / "exact", Limit())


@pytest.mark.parametrize(("name", "why"), [*NO_MATRIX.items(), ("lora-experts", "a stack of experts")])
def test_what_no_lora_can_hold_is_refused(name: str, why: str, tmp_path: Path) -> None:
    base, adapter = write_pair(name, tmp_path, torch.float32)
    with pytest.raises(NotConvertible, match=why):
        converted(base, adapter, tmp_path / "lora", Limit(RANK))


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.999])
def test_a_share_is_kept_with_the_smallest_rank(keep: float, tmp_path: Path) -> None:
    base, adapter = write_pair("dora", tmp_path, torch.float32)
    wanted = deltas(base, adapter, tmp_path / "merged")
    _, folder = converted(base, adapter, tmp_path / "lora", Limit(keep=keep))
    down = load_file(folder / "adapter_model.safetensors")
    for tensor, delta in wanted.items():
        squares = np.linalg.svd(delta, compute_uv=False) ** 2
        least = int(np.searchsorted(np.cumsum(squares), keep * squares.sum())) + 1
        assert len(down[f"base_model.model.{tensor.removesuffix('.weight')}.lora_A.weight"]) == least


def test_peft_loads_it_and_gives_the_same_logits(tmp_path: Path) -> None:
    base, adapter = write_pair("hra", tmp_path, torch.float32)
    _, folder = converted(base, adapter, tmp_path / "lora", Limit())
    tokens = torch.tensor([[1, 5, 9, 2]])
    logits = []
    for one in (adapter, folder):
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's, of transformers' newest names
            logits.append(peft.PeftModel.from_pretrained(model, one)(tokens).logits.detach())
    torch.testing.assert_close(*logits, atol=2e-6, rtol=1e-5)


Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`lorahub` in this process: both of its outputs."""
    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / ".home"))

    def call(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        told = capsys.readouterr()
        assert ended.value.code == code, told.out + told.err
        return told.out + told.err

    return call


def test_a_command_makes_it_in_any_format_and_says_what_it_costs(run: Run, tmp_path: Path) -> None:
    base, adapter = write_pair("dora", tmp_path, torch.float32)
    shown = run("convert", adapter, tmp_path / "gguf", "--to", "gguf", "--base", base, "--rank", 2, "--json")
    made = as_lora(FolderFiles(adapter), FolderFiles(base), limit=Limit(2), base_name="base")
    result = json.loads(shown)["result"]
    assert result["error"] == pytest.approx(made.error)
    assert result["errors"].keys() == made.errors.keys()
    assert (tmp_path / "gguf" / "adapter.gguf").stat().st_size == result["files"]["adapter.gguf"]
    said = run("convert", adapter, tmp_path / "lora", "--to", "lora", "--base", base, "--keep", 0.9)
    assert "of ‖ΔW‖ is lost, most in model.layers." in said
    assert "vllm: ✓" in run("check", tmp_path / "lora", "--base", base, "--for", "vllm")


def test_a_refusal_names_the_way_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    base, adapter = write_pair("dora", tmp_path, torch.float32)
    for target in ("gguf", "lora"):
        told = run("convert", adapter, tmp_path / "out", "--to", target, "--base", base, code=7)
        assert "--rank N" in told
        assert not (tmp_path / "out").exists()


def test_an_update_that_asks_for_no_weights_reads_none(tmp_path: Path) -> None:
    base, adapter = write_pair("loha-all", tmp_path, torch.float32)
    weights_file = next(base.glob("*.safetensors"))
    header = 8 + int.from_bytes(weights_file.read_bytes()[:8], "little")
    last: list[int] = []

    class Watched(FolderFiles):
        def read(self, path: str, start: int, stop: int) -> bytes:
            last.append(stop if path == weights_file.name else 0)
            return super().read(path, start, stop)

    as_lora(FolderFiles(adapter), Watched(base), base_name="base")
    assert max(last) == header


@pytest.mark.parametrize("shape", [(768, 256), (256, 768)])
def test_memory_is_that_of_the_update_and_of_the_smaller_square(shape: tuple[int, int]) -> None:
    whole = np.random.default_rng(0).standard_normal(shape)
    tracemalloc.start()
    of_blocks(shape, lambda: ((start, whole[start : start + 64]) for start in range(0, shape[0], 64)), Limit(8))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most <= whole.nbytes + 6 * 8 * min(shape) ** 2


@pytest.mark.parametrize("name", ["dora", "lora", "lokr-factor"])
def test_what_is_no_number_is_refused(name: str, tmp_path: Path) -> None:
    base, adapter = write_pair(name, tmp_path, torch.float32)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    next(tensor for tensor in tensors.values() if tensor.ndim > 1)[0, 0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    for limit in (Limit(RANK), Limit(keep=0.9)):
        with pytest.raises(NotConvertible, match="NaN"):
            converted(base, adapter, tmp_path / "lora", limit)


def test_two_products_of_a_large_rank_are_not_made_one() -> None:
    generator = np.random.default_rng(0)
    one, two = (Product(generator.normal(size=(16, 600)), generator.normal(size=(600, 16))) for _ in range(2))
    tracemalloc.start()
    found = product_of(Hadamard(one, two))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is None
    assert most < 1 << 20
