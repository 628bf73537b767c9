"""Merges on this machine: bytes, ranges, threads, interruptions, refusals, notes."""

import fcntl
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus.merge_corpus import make_adapter, make_base
from lorahub.adapters.files import FolderFiles
from lorahub.errors import AlreadyExists, Conflict, InvalidRecipe, NotMergeable
from lorahub.merging.combinations import COMBINATIONS, Options
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe, parse_recipe, recipe_of
from registry_process import LORAHUB
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sources")
    base = make_base(folder / "base", vocab_size=4096, hidden_size=64, shard="300KB")
    return base, make_adapter(folder / "adapter", base, "base", target_modules=["q_proj", "down_proj", "embed_tokens"])


def plan_of(base: Path, *adapters: Path, **recipe: Any) -> MergePlan:
    weights = recipe.pop("weights", [1.0] * len(adapters))
    made = Recipe("base", tuple(Ingredient(path.name, w) for path, w in zip(adapters, weights, strict=True)), **recipe)
    return MergePlan(made, Ingredients(FolderFiles(base), [FolderFiles(path) for path in adapters], {}))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LORAHUB, *map(str, arguments)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


# --- the same bytes, however they are asked for -----------------------------------------------------------------------


def test_two_thousand_ranges(sources: tuple[Path, Path], tmp_path: Path) -> None:
    write_model(plan_of(*sources), tmp_path / "whole")
    plan, chosen = plan_of(*sources), random.Random(3)
    paths = list(plan.files)
    for _ in range(2000):
        path = chosen.choice(paths)
        start = chosen.randrange(plan.files[path])
        stop = start + chosen.choice([1, 7, 100, 4096, 70_000, 1 << 20])
        with (tmp_path / "whole" / path).open("rb") as file:
            file.seek(start)
            assert plan.read(path, start, stop) == file.read(stop - start), (path, start, stop)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(sources: tuple[Path, Path], tmp_path: Path, threads: int) -> None:
    plan = plan_of(*sources)
    write_model(plan, tmp_path / "merged", threads=threads)
    for path in plan.weights:
        assert (tmp_path / "merged" / path).read_bytes() == plan.read(path, 0, plan.files[path])


def test_the_base_layout_is_kept(sources: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = sources
    write_model(plan_of(base, adapter), tmp_path / "merged")
    for path in base.glob("*.safetensors"):
        merged = (tmp_path / "merged" / path.name).read_bytes()
        length = int.from_bytes(merged[:8], "little")
        assert merged[: 8 + length] == path.read_bytes()[: 8 + length]
        assert len(merged) == path.stat().st_size
    assert (tmp_path / "merged" / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_killed_and_run_again(tmp_path: Path) -> None:
    """The second run takes over what the first has written, and ends with the same bytes."""
    base = make_base(tmp_path / "base", vocab_size=60_000, hidden_size=512, intermediate_size=1024)
    adapter = make_adapter(tmp_path / "adapter", base, "base", target_modules=["embed_tokens", "lm_head", "q_proj"])
    command = [LORAHUB, "merge", str(base), str(adapter), "-o", str(tmp_path / "merged"), "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / ".merged.merging" / "journal"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not journal.exists() or journal.read_text().count("\n") < 3):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = journal.read_text().count("\n") - 1
    assert written >= 2
    assert not (tmp_path / "merged").exists()
    again = run(*command[1:], LORAHUB_FORMAT="json")
    assert again.returncode == 0, again.stderr
    assert not journal.exists()
    write_model(plan_of(base, adapter), tmp_path / "calm")
    for path in (tmp_path / "calm").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "merged" / path.name).read_bytes()


def test_a_changed_base_begins_anew(sources: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = sources
    partial = tmp_path / ".merged.merging"
    partial.mkdir()
    (partial / "journal").write_text('{"digest": "of another merge"}\nmodel.safetensors 0\n')
    (partial / "model-00001-of-00004.safetensors").write_bytes(b"wrong")
    write_model(plan_of(base, adapter), tmp_path / "merged")
    write_model(plan_of(base, adapter), tmp_path / "calm")
    assert tensors(tmp_path / "merged").keys() == tensors(tmp_path / "calm").keys()


def test_a_folder_with_files_is_left_alone(sources: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(AlreadyExists):
        write_model(plan_of(*sources), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_two_at_once_are_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    partial = tmp_path / ".merged.merging"
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(Conflict, match="another merge"):
        write_model(plan_of(*sources), tmp_path / "merged")
    os.close(handle)
    write_model(plan_of(*sources), tmp_path / "merged")


# --- dtypes and rounding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "kind"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_other_dtypes(sources: tuple[Path, Path], tmp_path: Path, dtype: str, kind: torch.dtype) -> None:
    base, adapter = sources
    write_model(plan_of(base, adapter, dtype=dtype), tmp_path / "merged")
    made, before = tensors(tmp_path / "merged"), tensors(base)
    assert {tensor.dtype for tensor in made.values()} == {kind}
    factors = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
    exact = before[f"{name}.weight"].double() + 2 * b @ a
    assert torch.equal(made[f"{name}.weight"], exact.float().to(kind))
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == str(kind).removeprefix("torch.")


def test_beyond_the_dtype_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float16)
    adapter = make_adapter(tmp_path / "adapter", base, "base", lora_alpha=4000)
    with pytest.raises(NotMergeable, match="F16 can't hold"):
        write_model(plan_of(base, adapter, weights=[1e6]), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_rounding_loss_is_measured(sources: tuple[Path, Path]) -> None:
    base, adapter = sources
    in_bf16, in_f32 = plan_of(base, adapter).rounding_loss(), plan_of(base, adapter, dtype="F32").rounding_loss()
    assert in_bf16 is not None
    assert in_f32 is not None
    assert 1e-3 < in_bf16 < 0.5
    assert in_f32 < 1e-5


# --- several adapters -------------------------------------------------------------------------------------------------


def _deltas() -> list[np.ndarray]:
    chosen = np.random.default_rng(2)
    return [chosen.standard_normal((40, 30)) for _ in range(3)]


def test_a_sum_is_exact_and_weights_by_layer_count(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    one = make_adapter(tmp_path / "one", base, "base", seed=1)
    two = make_adapter(tmp_path / "two", base, "base", seed=2, use_dora=True)
    recipe = Recipe("base", (Ingredient("one", 0.7, {r"layers\.1\..*": 0.0}), Ingredient("two", -0.4)))
    files = Ingredients(FolderFiles(base), [FolderFiles(one), FolderFiles(two)], {})
    write_model(MergePlan(recipe, files), tmp_path / "both")
    write_model(plan_of(base, one, dtype="F64"), tmp_path / "first")
    write_model(plan_of(base, two, dtype="F64"), tmp_path / "second")
    before, both = tensors(base), tensors(tmp_path / "both")
    first, second = tensors(tmp_path / "first"), tensors(tmp_path / "second")
    for name, tensor in both.items():
        weight = before[name].double()
        share = 0.0 if "layers.1." in name else 0.7
        expected = weight + share * (first[name] - weight) - 0.4 * (second[name] - weight)
        assert torch.equal(tensor, expected.float()) or torch.allclose(tensor.double(), expected, rtol=2e-7, atol=1e-9)


def _combined(method: str, deltas: list[np.ndarray], weights: list[float], **options: float) -> np.ndarray:
    """Of copies: a method uses up what it is given."""
    return COMBINATIONS[method].apply([delta.copy() for delta in deltas], weights, Options(options, "w"))


def test_svd_is_the_best_of_its_rank() -> None:
    deltas, weights = _deltas(), [0.5, 1.0, -0.3]
    total = _combined("sum", deltas, weights)
    made = _combined("svd", deltas, weights, rank=5)
    s = np.linalg.svd(total, compute_uv=False)
    assert np.linalg.matrix_rank(made) == 5
    assert np.isclose(np.linalg.norm(total - made), np.sqrt(np.sum(s[5:] ** 2)))


def test_ties_keeps_what_agrees() -> None:
    deltas = [np.array([[1.0, -2.0, 3.0, 0.1]]), np.array([[3.0, 4.0, -1.0, 0.2]])]
    made = _combined("ties", deltas, [1.0, 1.0], density=0.75)
    assert made.tolist() == [[4.0, 8.0, 6.0, 0.0]]
    assert np.array_equal(_combined("ties", deltas[:1], [1.0]), deltas[0])


def test_dare_keeps_the_mean_and_repeats() -> None:
    delta = [np.ones((200, 200))]
    made = _combined("dare", delta, [1.0], density=0.3, seed=4)
    assert np.array_equal(made, _combined("dare", delta, [1.0], density=0.3, seed=4))
    assert not np.array_equal(made, _combined("dare", delta, [1.0], density=0.3, seed=5))
    assert set(np.unique(made)) == {0.0, 1 / 0.3}
    assert abs(made.mean() - 1) < 0.03


def test_magnitude_keeps_the_largest() -> None:
    delta = [np.array([[1.0, -5.0], [0.5, 3.0]])]
    assert _combined("magnitude", delta, [2.0], density=0.5).tolist() == [[0, -10], [0, 6]]
    equal = [np.array([[2.0, -2.0, 0.0, 2.0]])]
    assert _combined("magnitude", equal, [1.0], density=0.5).tolist() == [[2, -2, 0, 0]], "of equal ones, the first"
    assert not _combined("magnitude", equal, [1.0], density=0.01).any()


@pytest.mark.parametrize("method", sorted(COMBINATIONS))
def test_every_method_from_the_command_line(sources: tuple[Path, Path], tmp_path: Path, method: str) -> None:
    base, adapter = sources
    asked = {"density": ("--density", "0.5"), "rank": ("--rank", "2"), "seed": ("--seed", "3")}
    options = [word for one in COMBINATIONS[method].parameters for word in asked[one.name]]
    done = run(
        "merge", base, f"{adapter}=0.5", f"{adapter}=0.25", "-o", tmp_path / "merged", "--method", method, *options
    )
    assert done.returncode == 0, done.stderr
    before, after = tensors(base), tensors(tmp_path / "merged")
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[name], after[name]) for name in before) == 7


# --- recipes ----------------------------------------------------------------------------------------------------------


DIGESTS = {
    "sum": "0670c94d308b553c28d2889b34bb751da850781c11aecf8f8fb362ce207f1c7d",
    "svd": "84c63ff18c56c05e0daae436a77236a19160c49096812a4c7dd0333e6e911927",
    "magnitude": "7be678531e53dad5d2f14808c2a8a76624d43ee071ae8293a3151459380a9d98",
    "dare": "d18edd47791f0f835518d5fc1d3363dd499e62da36e28ae14a75143e96b826d5",
    "ties": "922a79073fd406ead23753a161cb3e64f96b869c4deceb6988ea20fc3a818f79",
    "dare_ties": "0840e6d9ef93acd094cded7d9df2cfd595ac8cb23062d7adff11e9b32e2754dc",
}


@pytest.mark.parametrize("method", sorted(COMBINATIONS))
def test_a_digest_of_before_is_a_digest_of_today(method: str) -> None:
    """Merged files are kept under it, and a job that was asked for is known by it."""
    asked = {"density": 0.5, "rank": 4, "seed": 3}
    recipe = recipe_of(
        {"base": "x@v1", "adapters": [{"source": "a@v1", "weight": 0.5}, {"source": "b", "layers": {"k": 0}}]}
        | {"method": method, "dtype": "bfloat16"}
        | {one.name: asked[one.name] for one in COMBINATIONS[method].parameters}
    )
    assert recipe.digest({"base": "0" * 64}) == DIGESTS[method]
    assert parse_recipe(recipe.as_yaml()) == recipe


def test_a_recipe_file_says_the_same(sources: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = sources
    first = run("merge", base, f"{adapter}=0.5", "-o", tmp_path / "one", "--save-recipe", tmp_path / "mix.yaml")
    second = run("merge", "--recipe", tmp_path / "mix.yaml", "-o", tmp_path / "two")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    for path in (tmp_path / "one").glob("*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "mapping"),
        ("[1]", "mapping"),
        ("base: x", "list of 1 to"),
        ("base: x\nadapters: []", "list of 1 to"),
        ("adapters: [a]", "base is missing"),
        ("base: x\nadapters: [a]\nmethod: best", "unknown method"),
        ("base: x\nadapters: [a]\ndensity: 0.5", "has no density"),
        ("base: x\nadapters: [a]\nmethod: ties\ndensity: 2", "share above 0"),
        ("base: x\nadapters: [a]\nmethod: svd", "asks for a rank"),
        ("base: x\nadapters: [{source: a, weight: .nan}]", "no number"),
        ("base: x\nadapters: [{source: a, wight: 1}]", "nothing else"),
        ("base: x\nadapters: [a]\ndtype: int4", "unknown dtype"),
        ("base: x\nadapters: [a]\nextra: 1", "unknown field"),
        ("base: &a [x]\nadapters: [*a]", "not YAML"),
        ("base: !!python/object/apply:os.system [ls]\nadapters: [a]", "not YAML"),
        ("a" * 70_000, "longer than"),
        ("{" * 5000, "not YAML"),
    ],
)
def test_recipes_that_are_none(text: str, what: str) -> None:
    with pytest.raises(InvalidRecipe, match=what):
        parse_recipe(text)


# --- refused from headers ---------------------------------------------------------------------------------------------


def test_one_that_doesnt_fit_says_why(sources: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden_size=128)
    done = run("merge", other, sources[1], "-o", tmp_path / "merged")
    assert done.returncode == 7
    assert "the update is" in done.stderr
    assert not (tmp_path / "merged").exists()


def test_a_dry_run_writes_nothing(sources: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = sources
    done = run("merge", base, adapter, "--dry-run", "--json")
    planned = json.loads(done.stdout)["result"]
    assert done.returncode == 0
    assert {path.name: path.stat().st_size for path in base.glob("*.safetensors")}.items() <= planned["files"].items()
    assert planned["cost"]["computed"] < planned["cost"]["bytes"]
    assert list(tmp_path.iterdir()) == []


def test_nan_in_an_adapter(sources: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = sources
    (tmp_path / "bad").mkdir()
    factors = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(factors))
    factors[name][0, 0] = float("nan")
    save_file(factors, tmp_path / "bad" / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "bad" / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with pytest.raises(NotMergeable, match="NaN"):
        write_model(plan_of(base, tmp_path / "bad"), tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


# --- vocabularies -----------------------------------------------------------------------------------------------------


def test_a_resized_vocabulary_comes_with_its_tokenizer(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, "base", target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    grown = {f"base_model.model.{name}.weight": torch.randn(130, 32) for name in ("model.embed_tokens", "lm_head")}
    save_file(load_file(file) | grown, file, {"format": "pt"})
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": ["embed_tokens", "lm_head"]}))
    (adapter / "tokenizer.json").write_text('{"of": "the adapter"}')
    write_model(plan_of(base, adapter), tmp_path / "merged")
    assert tensors(tmp_path / "merged")["lm_head.weight"].shape == (130, 32)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == 130
    assert (tmp_path / "merged" / "tokenizer.json").read_text() == '{"of": "the adapter"}'


def test_the_digest_is_of_what_it_is_made_of(sources: tuple[Path, Path]) -> None:
    base, adapter = sources
    said = [json.loads(run("merge", base, f"{adapter}={w}", "--dry-run", "--json").stdout) for w in ("1", "1", "0.5")]
    digests = [one["result"]["digest"] for one in said]
    assert digests[0] == digests[1] != digests[2]
    assert all(len(digest) == len(hashlib.sha256().hexdigest()) for digest in digests)
