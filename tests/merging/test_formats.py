"""Adapters of other formats, merged: against their formulas, written here once more, and against PEFT's file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from corpus.merge_corpus import make_adapter, make_base
from corpus.peft_corpus import write_base
from lorahub.adapters.base_model import read_base
from lorahub.adapters.files import FolderFiles
from lorahub.conversion import convert
from lorahub.errors import NotMergeable
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def merge(base: Path, adapter: Path, folder: Path) -> Tensors:
    recipe = Recipe("base", (Ingredient("adapter"),), dtype="F64")
    write_model(MergePlan(recipe, Ingredients(FolderFiles(base), [FolderFiles(adapter)], {})), folder)
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("target", ["mlx", "peft-normalized"])
def test_the_same_adapter_in_another_format(tmp_path: Path, target: str) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(tmp_path / "adapter", base, "base", target_modules=["q_proj", "down_proj"], use_rslora=True)
    (tmp_path / "other").mkdir()
    for path, content in convert(FolderFiles(adapter), target, read_base(FolderFiles(base))).items():  # type: ignore[arg-type]
        (tmp_path / "other" / path).write_bytes(content)
    first, second = merge(base, adapter, tmp_path / "one"), merge(base, tmp_path / "other", tmp_path / "two")
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=0, atol=1e-8), name


def test_gguf_is_sent_to_convert_first(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float32)
    adapter = make_adapter(tmp_path / "adapter", base, "base", target_modules=["q_proj"])
    (tmp_path / "gguf").mkdir()
    for path, content in convert(FolderFiles(adapter), "gguf", read_base(FolderFiles(base))).items():
        (tmp_path / "gguf" / path).write_bytes(content)
    with pytest.raises(NotMergeable) as refused:
        merge(base, tmp_path / "gguf", tmp_path / "out")
    assert "lorahub convert" in (refused.value.hint or "")


# --- kohya and LyCORIS ------------------------------------------------------------------------------------------------


def lora(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    down, up = t["lora_down.weight"], t["lora_up.weight"]
    scale = float(t["alpha"]) / len(down)
    delta = torch.einsum("orxy,rikl->oikl", up, down) if w.ndim == 4 else up @ down
    return w + scale * delta


def locon(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    delta = torch.einsum(
        "or,rskl,si->oikl", t["lora_up.weight"][:, :, 0, 0], t["lora_mid.weight"], t["lora_down.weight"][:, :, 0, 0]
    )
    return w + float(t["alpha"]) / len(t["lora_down.weight"]) * delta


def loha(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    delta = (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
    return w + float(t["alpha"]) / t["hada_w1_b"].shape[0] * delta.reshape(w.shape)


def lokr(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    two = t["lokr_w2"] if "lokr_w2" in t else t["lokr_w2_a"] @ t["lokr_w2_b"]
    scale = 1.0 if "lokr_w2" in t else float(t["alpha"]) / t["lokr_w2_b"].shape[0]
    return w + scale * torch.kron(t["lokr_w1"], two).reshape(w.shape)


def dora_by_output(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    v = lora(w, t)
    return v * (t["dora_scale"].reshape(-1) / v.flatten(1).norm(dim=1)).reshape(-1, *[1] * (w.ndim - 1))


def dora_by_input(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    v = lora(w, t)
    norms = v.transpose(0, 1).flatten(1).norm(dim=1)
    return v * (t["dora_scale"].reshape(-1) / norms).reshape(1, -1, *[1] * (w.ndim - 2))


def full(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    return w + t["diff"]


def ia3_by_output(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    return w * (1 + t["weight"].reshape(-1, 1))


def ia3_by_input(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    return w * (1 + t["weight"].reshape(1, -1))


def oft(w: torch.Tensor, t: Tensors) -> torch.Tensor:
    """kohya-ss `networks/oft.py`: Cayley of the skew part, turning outputs."""
    q = t["oft_blocks"] - t["oft_blocks"].transpose(1, 2)
    unit = torch.eye(q.shape[-1], dtype=torch.float64)
    r = (unit + q) @ torch.linalg.inv(unit - q)
    split = w.reshape(*r.shape[:2], -1)
    return torch.einsum("knm,knp->kmp", r, split).reshape(w.shape)


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


ALPHA = torch.tensor(3.0)
CASES: dict[str, tuple[str, Callable[[torch.Tensor, Tensors], torch.Tensor], Tensors]] = {
    "lora": ("head", lora, {"lora_down.weight": noise(2, 6), "lora_up.weight": noise(4, 2), "alpha": ALPHA}),
    "lora-conv": (
        "first",
        lora,
        {"lora_down.weight": noise(2, 3, 3, 3), "lora_up.weight": noise(8, 2, 1, 1), "alpha": ALPHA},
    ),
    "locon-tucker": (
        "first",
        locon,
        {
            "lora_down.weight": noise(2, 3, 1, 1),
            "lora_up.weight": noise(8, 2, 1, 1),
            "lora_mid.weight": noise(2, 2, 3, 3),
            "alpha": ALPHA,
        },
    ),
    "loha": (
        "head",
        loha,
        {
            "hada_w1_a": noise(4, 2),
            "hada_w1_b": noise(2, 6),
            "hada_w2_a": noise(4, 2),
            "hada_w2_b": noise(2, 6),
            "alpha": ALPHA,
        },
    ),
    "lokr": (
        "head",
        lokr,
        {"lokr_w1": noise(2, 2), "lokr_w2_a": noise(2, 1), "lokr_w2_b": noise(1, 3), "alpha": ALPHA},
    ),
    "lokr-full": ("head", lokr, {"lokr_w1": noise(2, 2), "lokr_w2": noise(2, 3), "alpha": ALPHA}),
    "dora-by-output": (
        "first",
        dora_by_output,
        {
            "lora_down.weight": noise(2, 3, 3, 3),
            "lora_up.weight": noise(8, 2, 1, 1),
            "alpha": ALPHA,
            "dora_scale": noise(8, 1, 1, 1).abs() + 1,
        },
    ),
    "dora-by-input": (
        "first",
        dora_by_input,
        {
            "lora_down.weight": noise(2, 3, 3, 3),
            "lora_up.weight": noise(8, 2, 1, 1),
            "alpha": ALPHA,
            "dora_scale": noise(1, 3, 1, 1).abs() + 1,
        },
    ),
    "full": ("second", full, {"diff": noise(6, 8, 1, 1)}),
    "ia3-by-output": ("head", ia3_by_output, {"weight": noise(4)}),
    "ia3-by-input": ("head", ia3_by_input, {"weight": noise(6), "on_input": torch.tensor(1.0)}),
    "oft": ("head", oft, {"oft_blocks": noise(2, 2, 2)}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_lycoris(name: str, tmp_path: Path) -> None:
    module, formula, factors = CASES[name]
    base = write_base("conv", tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    prefix = "oft_unet_" if name == "oft" else "lora_unet_"
    tensors = {f"{prefix}{module}.{key}": value.contiguous() for key, value in factors.items()}
    save_file(tensors, tmp_path / "adapter" / "lora.safetensors", {"ss_network_module": "networks.lora"})
    merged = merge(base, tmp_path / "adapter", tmp_path / "out")
    before = load_file(base / "model.safetensors")
    expected = formula(before[f"{module}.weight"].double(), {key: value.double() for key, value in factors.items()})
    assert not torch.equal(expected, before[f"{module}.weight"].double())
    assert torch.allclose(merged[f"{module}.weight"], expected, rtol=1e-12, atol=1e-14)
    others = [key for key in before if key != f"{module}.weight"]
    assert all(torch.equal(merged[key], before[key].double()) for key in others)
