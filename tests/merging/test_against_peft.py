"""Every mergeable case of the PEFT corpus, against PEFT in float64 and against PEFT's own merged files."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lorahub
import numpy as np
import peft
import pytest
import torch
import transformers
from corpus import peft_corpus
from corpus.peft_corpus import CASES, Case, lora
from lorahub.adapters.files import FolderFiles
from lorahub.errors import NotMergeable
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from safetensors.torch import load_file, save_file

REFUSED = frozenset("vera-no-projection prompt p-tuning prefix adaption-prompt".split())
"""Not weights, or made of random numbers that the file doesn't hold."""
PEFT_CANT = frozenset({"lora-replicated"})
PEFT_IS_WRONG = frozenset({"lora-tied-head"})
FLOAT32_INSIDE = frozenset({"oft", "oft-shared", "boft", "hra", "osf"})
"""PEFT decomposes or rotates in float32 even where all is float64."""


def _case(base: str, config: type[peft.PeftConfig], **settings: Any) -> Case:
    return Case(base, lambda: config(**{"target_modules": ["q_proj", "up_proj"], **settings}))


MORE: dict[str, Case] = {
    "lora-rank-1": Case("llama", lambda: lora(r=1)),
    "lora-rank-32": Case("llama", lambda: lora(r=32)),
    "lora-alpha-odd": Case("llama", lambda: lora(r=3, lora_alpha=7)),
    "rslora-odd": Case("llama", lambda: lora(r=3, lora_alpha=7, use_rslora=True)),
    "lora-mlp": Case("llama", lambda: lora(target_modules=["gate_proj", "up_proj", "down_proj"])),
    "dora-all": Case("llama", lambda: lora(use_dora=True, target_modules="all-linear")),
    "dora-rslora": Case("llama", lambda: lora(use_dora=True, use_rslora=True)),
    "dora-embedding": Case("llama", lambda: lora(use_dora=True, target_modules=["embed_tokens"])),
    "lora-gpt2-embedding": Case("gpt2", lambda: lora(target_modules=["wpe"])),
    "rslora-conv": Case("conv", lambda: lora(target_modules=["first", "second"], use_rslora=True)),
    "lora-saved-norms": Case("llama", lambda: lora(modules_to_save=["input_layernorm"])),
    "lora-moe-attention": Case("moe", lambda: lora(target_modules=["q_proj", "k_proj", "o_proj"])),
    "ia3-gpt2": Case(
        "gpt2",
        lambda: peft.IA3Config(
            target_modules=["c_attn", "c_proj"], feedforward_modules=["c_proj"], fan_in_fan_out=True
        ),
    ),
    "loha-all": Case("llama", lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=["gate_proj", "down_proj"])),
    "lokr-factor": Case(
        "llama", lambda: peft.LoKrConfig(r=2, alpha=5, target_modules=["gate_proj"], decompose_factor=4)
    ),
    "oft-cayley": Case(
        "llama", lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"], use_cayley_neumann=False)
    ),
    "hra-gram-schmidt": Case("llama", lambda: peft.HRAConfig(r=4, target_modules=["q_proj"], apply_GS=True)),
    "supertuning-lora": _case("llama", peft.SupertuningConfig, sparsity=0.9, r=2, lora_alpha=6),
    "fourierft-seed": _case("llama", peft.FourierFTConfig, n_frequency=50, random_loc_seed=12, scaling=30.0),
    "waveft-plain": _case("llama", peft.WaveFTConfig, n_frequency=50, use_idwt=False, random_loc_seed=3),
    "road-2": _case("llama", peft.RoadConfig, group_size=8, variant="road_2"),
    "road-4": _case("llama", peft.RoadConfig, group_size=4, variant="road_4"),
    "road-bias": _case("conv", peft.RoadConfig, group_size=4, target_modules=["head"]),
    "miss-bat": _case("llama", peft.MissConfig, r=4, init_weights="bat"),
    "miss-mini": _case("llama", peft.MissConfig, r=4, mini_r=2, init_weights="mini"),
    "deft-qr": _case("llama", peft.DeftConfig, r=3, decomposition_method="qr", alpha=6),
    "deft-para": _case("llama", peft.DeftConfig, r=3, decomposition_method="qr", para=True),
    "peanut-silu": _case("llama", peft.PeanutConfig, r=3, act_fn="silu", scaling=4.0),
    "ln-tuning-all": Case("llama", lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"])),
    "tokens-with-lora": Case("llama", lambda: lora(trainable_token_indices=[2, 4], target_modules=["q_proj"])),
}
EVERY = {**CASES, **MORE}
NEVER_FLOAT64 = frozenset({"pissa", "olora"})
MERGED = sorted(EVERY.keys() - REFUSED - PEFT_CANT - PEFT_IS_WRONG - NEVER_FLOAT64)


def merge(base: Path, adapter: Path, folder: Path, **recipe: Any) -> dict[str, torch.Tensor]:
    made = Recipe(base.name, (Ingredient(adapter.name),), **recipe)
    plan = MergePlan(made, Ingredients(FolderFiles(base), [FolderFiles(adapter)], {}))
    write_model(plan, folder)
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def write_pair(name: str, folder: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[Path, Path]:
    """The base of a case in this dtype, and its adapter."""
    case = EVERY[name]
    base = peft_corpus.write_base(case.base, folder / "base")
    for path in base.glob("*.safetensors"):
        save_file({key: value.to(dtype) for key, value in load_file(path).items()}, path, {"format": "pt"})
    peft_corpus.write(case, folder / "adapter")
    weights = {key: value for path in base.glob("*.safetensors") for key, value in load_file(path).items()}
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    copies = [key for key in tensors if key.endswith("base_layer.weight")]  # PEFT saves the embeddings it adapts
    for key in copies:
        tensors[key] = weights[key.removeprefix("base_model.model.").replace("base_layer.", "")]
    if copies:
        save_file(tensors, file, {"format": "pt"})
    return base, folder / "adapter"


def peft_merged(name: str, base: Path, adapter: Path, folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What PEFT makes of the same files, with the model in `dtype`."""
    model = peft_corpus.make_base(EVERY[name].base)
    weights = {key: value for path in base.glob("*.safetensors") for key, value in load_file(path).items()}
    if isinstance(model, transformers.PreTrainedModel):
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    else:
        model.load_state_dict(weights)
        model = model.to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=dtype is not torch.float64)
        merged: Any = (adapted.to(dtype) if dtype is torch.float64 else adapted).merge_and_unload()
    if not isinstance(merged, transformers.PreTrainedModel):
        return dict(merged.state_dict())
    merged.save_pretrained(folder)
    return {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}


def ulps(ours: torch.Tensor, theirs: torch.Tensor) -> np.ndarray:
    """How many BF16 numbers lie between, by element."""

    def ordered(tensor: torch.Tensor) -> np.ndarray:
        bits = tensor.contiguous().view(torch.int16).numpy().astype(np.int32)
        return np.where(bits < 0, -(bits & 0x7FFF), bits)

    return np.abs(ordered(ours) - ordered(theirs))


@pytest.mark.parametrize("name", MERGED)
def test_equal_to_a_float64_reference(name: str, tmp_path: Path) -> None:
    base, adapter = write_pair(name, tmp_path)
    ours = merge(base, adapter, tmp_path / "ours")
    reference = peft_merged(name, base, adapter, tmp_path / "theirs", torch.float64)
    assert ours.keys() == reference.keys()
    before = {key: value for path in base.glob("*.safetensors") for key, value in load_file(path).items()}
    assert any(not torch.equal(ours[key], before[key]) for key in before)
    allowed = 2e-3 if name in FLOAT32_INSIDE else 1e-4
    for key, tensor in reference.items():
        apart = ulps(ours[key], tensor.to(torch.float32).to(torch.bfloat16))
        near_zero = (tensor.abs() < (1e-3 if name == "osf" else 1e-6)).numpy()  # a decomposition in float32
        assert apart[~near_zero].max(initial=0) <= 1, key
        assert (apart[~near_zero] > 0).sum() <= max(1, allowed * apart.size), key


TWICE_ROUNDED = (
    *(name for name in CASES if name.startswith("lora-experts")),
    "lora-embedding",
    "lora-gpt2-embedding",
    *"c3a deft deft-para deft-qr delora osf peanut peanut-silu randlora road road-2 road-4 supertuning".split(),
    "supertuning-lora",
)
"""PEFT rounds ΔW to BF16 before it adds it, and then the sum."""


@pytest.mark.parametrize("name", sorted(set(MERGED) - {*TWICE_ROUNDED, "road-bias"}))
def test_equal_to_the_file_that_peft_writes(name: str, tmp_path: Path) -> None:
    """To one BF16 number on at most 1 element of 10,000: PEFT computes in float32, and rounds once too."""
    base, adapter = write_pair(name, tmp_path)
    ours = merge(base, adapter, tmp_path / "ours")
    theirs = peft_merged(name, base, adapter, tmp_path / "theirs", torch.bfloat16)
    for key in theirs:
        apart = ulps(ours[key], theirs[key].to(torch.bfloat16))
        assert apart.max(initial=0) <= 1, key
        assert (apart > 0).sum() <= max(2, 1e-4 * apart.size), key


@pytest.mark.parametrize("name", TWICE_ROUNDED)
def test_nearer_to_the_truth_where_peft_rounds_twice(name: str, tmp_path: Path) -> None:
    base, adapter = write_pair(name, tmp_path)
    ours = merge(base, adapter, tmp_path / "ours")
    theirs = peft_merged(name, base, adapter, tmp_path / "theirs", torch.bfloat16)
    exact = peft_merged(name, base, adapter, tmp_path / "exact", torch.float64)

    def wrong(made: dict[str, torch.Tensor]) -> int:
        rounded = {key: tensor.to(torch.float32).to(torch.bfloat16) for key, tensor in exact.items()}
        return sum(int((ulps(made[key].to(torch.bfloat16), rounded[key]) > 0).sum()) for key in exact)

    assert wrong(ours) <= 2
    assert wrong(theirs) > 10, "PEFT rounds once now: compare with its file instead"


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_with_a_reason_before_anything_is_written(name: str, tmp_path: Path) -> None:
    base, adapter = write_pair(name, tmp_path)
    with pytest.raises(NotMergeable, match=r"isn't merged here|nothing to merge|projections"):
        merge(base, adapter, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    assert not list(tmp_path.glob(".*.merging"))


def test_there_are_enough_cases() -> None:
    assert len(MERGED) >= 55


# --- where PEFT is wrong: against the forward pass of the adapter, unmerged -------------------------------------------

IDS = torch.arange(1, 17)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: torch.Tensor = model(IDS).logits
    return result


def forward_pair(case: Case, folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of the adapter unmerged, of our merge, and of PEFT's."""
    base = peft_corpus.write_base(case.base, folder / "base")
    peft_corpus.write(case, folder / "adapter")
    merge(base, folder / "adapter", folder / "ours")
    ours = transformers.AutoModelForCausalLM.from_pretrained(folder / "ours", dtype=torch.float32)

    def adapted() -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return peft.PeftModel.from_pretrained(model, folder / "adapter")

    unmerged = logits(adapted())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = adapted().merge_and_unload()
    return unmerged, logits(ours), logits(theirs)


WRONG: dict[str, Callable[[], Case]] = {
    "a LoRA on a tied head lands in the embedding too": lambda: CASES["lora-tied-head"],
    "a LoRA on a tied embedding lands in the head too": lambda: Case(
        "llama-tied", lambda: lora(target_modules=["embed_tokens"])
    ),
    "replicated layers share their weights": lambda: CASES["lora-replicated"],
    "a tied pair is added twice": lambda: Case(
        "llama-tied", lambda: lora(target_modules=["embed_tokens"], ensure_weight_tying=True)
    ),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_right_where_peft_is_wrong(what: str, tmp_path: Path) -> None:
    unmerged, ours, theirs = forward_pair(WRONG[what](), tmp_path)
    size = unmerged.norm()
    assert (ours - unmerged).norm() / size < 1e-5
    assert (theirs - unmerged).norm() / size > 1e-3, "PEFT has become right: compare with its file instead"


def test_saved_modules_on_one_side_of_a_tie(tmp_path: Path) -> None:
    unmerged, ours, _ = forward_pair(Case("llama-tied", lambda: lora(modules_to_save=["lm_head"])), tmp_path)
    assert (ours - unmerged).norm() / unmerged.norm() < 1e-5


def test_trained_tokens_keep_the_tie(tmp_path: Path) -> None:
    case = Case("llama-tied", lambda: lora(trainable_token_indices=[3, 5]))
    unmerged, ours, _ = forward_pair(case, tmp_path)
    assert (ours - unmerged).norm() / unmerged.norm() < 1e-5
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["tie_word_embeddings"] is True


def test_rslora_adapters_combined(tmp_path: Path) -> None:
    """PEFT's add_weighted_adapter scales them again; the sum of two is the sum of their ΔW."""
    base = peft_corpus.write_base("llama", tmp_path / "base")
    case = CASES["rslora"]
    peft_corpus.write(case, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    recipe = Recipe("base", (Ingredient("one", 0.75), Ingredient("two", 0.25)))
    files = [FolderFiles(tmp_path / "one"), FolderFiles(tmp_path / "two")]
    write_model(MergePlan(recipe, Ingredients(FolderFiles(base), files, {})), tmp_path / "both")
    alone = merge(base, tmp_path / "one", tmp_path / "alone")
    both = load_file(tmp_path / "both" / "model.safetensors")
    for name, tensor in alone.items():
        assert torch.allclose(both[name], tensor, atol=1e-7), name
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(model, tmp_path / "one", "one")
        adapted.load_adapter(tmp_path / "two", "two")
        adapted.add_weighted_adapter(["one", "two"], [0.75, 0.25], "sum", combination_type="cat")
        adapted.set_adapter("sum")
        merged = adapted.merge_and_unload().state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(merged[name], alone[name], atol=1e-4), "PEFT has become right"


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_base_changed_at_the_start_is_changed_here_too(name: str, tmp_path: Path) -> None:
    """PEFT takes a part of the base away when it loads; who adds s·BA to W alone is off by about half of it."""
    unmerged, ours, _ = forward_pair(CASES[name], tmp_path)
    assert (ours - unmerged).norm() / unmerged.norm() < 1e-4


def test_the_sdk_is_the_same(tmp_path: Path) -> None:
    base, adapter = write_pair("lora", tmp_path)
    by_plan = merge(base, adapter, tmp_path / "plan")
    folder = lorahub.Hub("http://127.0.0.1:9").merge(
        Recipe(str(base), (Ingredient(str(adapter)),)), tmp_path / "by-sdk"
    )
    by_sdk = load_file(folder / "model.safetensors")
    assert all(torch.equal(by_sdk[name], tensor) for name, tensor in by_plan.items())
