"""Experts by all their names: stacked in memory, one a tensor on disk, and adapters of either on the other."""

import json
from collections.abc import Callable
from pathlib import Path

import lorahub
import pytest
import torch
import transformers
from corpus.peft_corpus import Case, lora, write, write_base
from lorahub.adapters.base_model import BaseLayout, BaseTensor, read_base
from lorahub.adapters.check import Report, check
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.adapters.names.experts import TURNED
from lorahub.adapters.reader import read_adapter
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from safetensors.torch import load_file, save, save_file

WIDTH, INNER, EXPERTS = 16, 12, 4  # of the base `moe`
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def single_experts(
    folder: Path, *, rank: int = 2, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
) -> Path:
    """An adapter of transformers 4, where each expert was a module: some have LoRAs, one an alpha of its own."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for expert in (0, 1, 3):
        for name in names:
            inner = INNER, WIDTH
            out, width = inner[::-1] if name == names[2] else inner
            key = f"base_model.model.model.layers.1.mlp.experts.{expert}.{name}"
            tensors[f"{key}.lora_A.weight"] = 0.3 * torch.randn(rank, width, generator=generator)
            tensors[f"{key}.lora_B.weight"] = 0.3 * torch.randn(out, rank, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "acme/moe",
        "r": rank,
        "lora_alpha": 6,
        "alpha_pattern": {f"experts.3.{names[0]}": 1},
        "target_modules": list(names),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def fused(base: Path, folder: Path) -> Path:
    """The base with its experts stacked on disk, as other families publish theirs."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text((base / "config.json").read_text())
    return folder


def merged(base: Path, adapter: Path, folder: Path) -> dict[str, torch.Tensor]:
    plan = MergePlan(
        Recipe("base", (Ingredient("adapter"),)), Ingredients(FolderFiles(base), [FolderFiles(adapter)], {})
    )
    write_model(plan, folder)
    return load_file(folder / "model.safetensors")


def checked(adapter: Path, base: Path) -> Report:
    return check(read_adapter(FolderFiles(adapter)), read_base(FolderFiles(base), name="acme/moe"))


def expected(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The base's tensors, each expert's with s·B·A added by hand."""
    weights, factors = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    alphas = json.loads((adapter / "adapter_config.json").read_text())["alpha_pattern"]
    for key, down in factors.items():
        if key.endswith(".lora_A.weight"):
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = factors[key.replace("lora_A", "lora_B")]
            alpha = next((value for ending, value in alphas.items() if module.endswith(ending)), 6)
            weights[f"{module}.weight"] += alpha / len(down) * (up @ down)
    return weights


def test_adapters_of_single_experts_fit_both_layouts(tmp_path: Path) -> None:
    base = write_base("moe", tmp_path / "base")
    stacked = fused(base, tmp_path / "stacked")
    adapter = single_experts(tmp_path / "adapter")
    right = expected(base, adapter)

    for place in (base, stacked):
        report = checked(adapter, place)
        assert (report.verdict, report.matched, report.of) == ("fits", 9, 9), report.findings
    apart = merged(base, adapter, tmp_path / "apart")
    together = merged(stacked, adapter, tmp_path / "together")

    assert apart.keys() == right.keys()
    for name, value in right.items():
        torch.testing.assert_close(apart[name], value, rtol=0, atol=1e-6)
    experts = "model.layers.1.mlp.experts"
    for expert in range(EXPERTS):
        gate, up, down = (right[f"{experts}.{expert}.{name}.weight"] for name in ("gate_proj", "up_proj", "down_proj"))
        torch.testing.assert_close(
            together[f"{experts}.gate_up_proj"][expert], torch.cat([gate, up]), rtol=0, atol=1e-6
        )
        torch.testing.assert_close(together[f"{experts}.down_proj"][expert], down, rtol=0, atol=1e-6)
    before = load_file(stacked / "model.safetensors")
    assert torch.equal(together["model.layers.0.mlp.experts.down_proj"], before["model.layers.0.mlp.experts.down_proj"])


def test_adapters_of_single_experts_act_in_a_session_as_when_merged(tmp_path: Path) -> None:
    base = write_base("moe", tmp_path / "base")
    adapter = single_experts(tmp_path / "adapter")
    merged(base, adapter, tmp_path / "merged")
    model, whole = (
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (base, tmp_path / "merged")
    )
    ids = torch.arange(1, 17)[None]
    with torch.inference_mode(), lorahub.Session(model) as session:
        plain = model(ids).logits
        session.load("x", adapter)
        session.use("x")
        assert not torch.allclose(model(ids).logits, plain, atol=1e-4)
        torch.testing.assert_close(model(ids).logits, whole(ids).logits, rtol=1e-5, atol=1e-6)
        session.use(None)
        assert torch.equal(model(ids).logits, plain)


@pytest.mark.parametrize(
    "targets", [["gate_up_proj", "down_proj"], BOTH, ["experts.down_proj", "0.mlp.experts.gate_up_proj"]]
)
def test_parameters_are_matched_by_their_ending(targets: list[str], tmp_path: Path) -> None:
    base = write_base("moe", tmp_path / "base")
    write(Case("moe", lambda: lora(target_modules=[], target_parameters=targets)), tmp_path / "adapter")
    report = checked(tmp_path / "adapter", base)
    assert report.verdict == "fits"
    assert {weight.name for _, weight in report.bound} == {
        f"model.layers.{layer}.mlp.experts.{parameter}"
        for layer in (0, 1)
        for parameter in ("gate_up_proj", "down_proj")
        if layer == 0 or parameter == "down_proj" or not targets[1].startswith("0.")
    }


def test_more_parameters_may_be_named_than_the_base_has(tmp_path: Path) -> None:
    """PEFT wraps those that are there; which these are, only the base tells."""
    base = write_base("moe", tmp_path / "base")
    write(Case("moe", lambda: lora(target_modules=[], target_parameters=BOTH)), tmp_path / "adapter")
    place = tmp_path / "adapter" / "adapter_config.json"
    names = ["gate_up_proj", "gate_proj", "up_proj", "w1", "down_proj"]
    place.write_text(json.dumps(json.loads(place.read_text()) | {"target_parameters": names}))

    report = checked(tmp_path / "adapter", base)

    assert report.verdict == "fits"
    nested = {weight.name.rpartition(".")[2]: update.tensors["down"].name for update, weight in report.bound}
    assert "base_layer" in nested["gate_up_proj"]
    assert "base_layer" not in nested["down_proj"]


def test_a_router_is_a_parameter_with_two_dimensions(tmp_path: Path) -> None:
    base = write_base("moe", tmp_path / "base")
    case = Case(
        "moe", lambda: lora(target_modules=[], target_parameters=["gate.weight"], rank_pattern={"gate.weight": 3})
    )
    adapted = write(case, tmp_path / "adapter")
    report = checked(tmp_path / "adapter", base)
    assert (report.verdict, report.matched) == ("fits", 2)
    assert {(update.shape, update.rank) for update, _ in report.bound} == {((EXPERTS, WIDTH), 3)}
    ours = merged(base, tmp_path / "adapter", tmp_path / "merged")
    theirs = adapted.merge_and_unload().state_dict()
    name = "model.layers.1.mlp.gate.weight"
    torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


def test_experts_that_have_no_tensors_are_told(tmp_path: Path) -> None:
    base = write_base("moe", tmp_path / "base")
    write(Case("moe", lambda: lora(target_modules=["q_proj"], target_parameters=BOTH)), tmp_path / "adapter")
    place = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = {name: value for name, value in load_file(place).items() if ".layers.1.mlp.experts.lora" not in name}
    save_file(tensors, place, {"format": "pt"})

    told = [found for found in checked(tmp_path / "adapter", base).findings if found.rule == "LH207"]

    assert [piece.name for found in told for piece in found.evidence] == ["model.layers.1.mlp.experts.down_proj"]


BROKEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a row less": lambda tensor: tensor[:-1],
    "a rank less": lambda tensor: tensor[:-4],
    "a column less": lambda tensor: tensor[:, :-1],
    "a column more": lambda tensor: torch.cat([tensor, tensor[:, :1]], 1),
    "another dimension": lambda tensor: tensor[None],
    "transposed": lambda tensor: tensor.T,
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize(
    "ending", ["experts.base_layer.lora_A", "experts.base_layer.lora_B", "experts.lora_A", "gate.lora_A"]
)
def test_a_broken_stack_never_fits(what: str, ending: str, tmp_path: Path) -> None:
    base = write_base("moe", tmp_path / "base")
    write(Case("moe", lambda: lora(target_modules="all-linear")), tmp_path / "adapter")
    place = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(place)
    name = next(name for name in tensors if ending in name)
    changed = BROKEN[what](tensors[name])
    save_file(tensors | {name: changed.contiguous()}, place, {"format": "pt"})
    assert checked(tmp_path / "adapter", base).verdict == "incompatible"


def test_stacks_that_are_called_weights_on_disk_are_no_linear_layers() -> None:
    """Step 3's: `moe.up_proj.weight` is `mlp.experts.gate_up_proj` in memory, which `target_modules` doesn't reach."""
    layer = "model.layers.0"
    shapes = {
        f"{layer}.self_attn.q_proj.weight": (8, 8),
        f"{layer}.moe.gate_proj.weight": (EXPERTS, 6, 8),
        f"{layer}.moe.up_proj.weight": (EXPERTS, 6, 8),
        f"{layer}.moe.down_proj.weight": (EXPERTS, 8, 6),
        f"{layer}.share_expert.up_proj.weight": (6, 8),
    }
    base = BaseLayout(
        {name: BaseTensor("F32", shape) for name, shape in shapes.items()},
        {"architectures": ["Step3p7ForConditionalGeneration"], "tie_word_embeddings": False},
    )
    start = "base_model.model.model.language_model.layers.0"
    tensors = {}
    for name, out in {f"{start}.self_attn.q_proj": 8, f"{start}.mlp.shared_experts.up_proj": 6}.items():
        tensors |= {f"{name}.lora_A.weight": torch.zeros(2, 8), f"{name}.lora_B.weight": torch.zeros(out, 2)}
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "up_proj", "down_proj"]}
    files = {"adapter_config.json": json.dumps(settings).encode(), "adapter_model.safetensors": save(tensors)}
    report = check(read_adapter(BytesFiles(files)), base)
    assert (report.verdict, report.matched, report.of) == ("fits", 2, 2)
    assert "LH207" not in {found.rule for found in report.findings}


def test_the_models_that_turn_their_experts_are_known() -> None:
    """`is_transposed`, where PEFT looks, in every class of transformers."""
    sources = Path(transformers.__file__).parent.glob("models/*/modeling_*.py")
    found = {source.parent.name for source in sources if "is_transposed=True" in source.read_text()}
    assert found == {name for name in TURNED if not name.endswith("_text")}
