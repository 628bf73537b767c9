"""Image and video models of every family: names with and without prefixes, whole norms, what isn't understood.

tests/sweep/test_diffusers.py has every class of diffusers and every spelling; here is what stands beside the names.
"""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.check import Report, check
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import convert
from lorahub.errors import AdapterDoesNotFit, NotConvertible
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from safetensors.torch import load, load_file, save

pytestmark = pytest.mark.xdist_group("image-families")

TOOL = Path(__file__).parents[2] / "tools/image_names.py"
RANK = 2
KOHYA = ("lora_down.weight", "lora_up.weight")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        image_dim=8,
        added_kv_proj_dim=24,
    )
    return _pipeline(tmp_path_factory.mktemp("wan"), model, "WanTransformer3DModel")


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    )
    return _pipeline(tmp_path_factory.mktemp("flux"), model, "FluxTransformer2DModel")


def _pipeline(folder: Path, model: torch.nn.Module, kind: str) -> Path:
    model.save_pretrained(folder / "transformer")
    (folder / "model_index.json").write_text(f'{{"_class_name": "P", "transformer": ["diffusers", "{kind}"]}}')
    return folder


def base(folder: Path) -> BaseLayout:
    return read_base(FolderFiles(folder), name="acme/base")


def lora(shapes: Mapping[str, tuple[int, int]], ends: tuple[str, str] = ("lora_A.weight", "lora_B.weight")) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    tensors: Tensors = {}
    for name, (out, width) in shapes.items():
        tensors[f"{name}.{ends[0]}"] = torch.randn(RANK, width, generator=generator)
        tensors[f"{name}.{ends[1]}"] = torch.randn(out, RANK, generator=generator)
    return tensors


def files(tensors: Tensors) -> BytesFiles:
    return BytesFiles({"lora.safetensors": save({name: tensor.contiguous() for name, tensor in tensors.items()})})


def judged(tensors: Tensors, folder: Path) -> Report:
    return check(read_adapter(files(tensors)), base(folder))


def merged(tensors: Tensors, folder: Path, place: Path) -> Tensors:
    plan = MergePlan(Recipe("base", (Ingredient("one"),)), Ingredients(FolderFiles(folder), [files(tensors)], {}))
    return load_file(write_model(plan, place / "merged") / "transformer/diffusion_pytorch_model.safetensors")


def rules(report: Report) -> set[str]:
    return {found.rule for found in report.findings} - {"LH105"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_table_is_what_diffusers_converters_do_today() -> None:
    spec = importlib.util.spec_from_file_location("image_names", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["image_names"] = module
    spec.loader.exec_module(module)
    assert module.TABLE.read_text() == module.written(), "run make names"


# --- what a file may have beside factors ------------------------------------------------------------------------------


def test_whole_norms_and_biases_in_an_authors_names(wan: Path, tmp_path: Path) -> None:
    block = "diffusion_model.blocks.1"
    added = {
        f"{block}.self_attn.q.diff_b": "blocks.1.attn1.to_q.bias",
        f"{block}.cross_attn.norm_k_img.diff": "blocks.1.attn2.norm_added_k.weight",
        f"{block}.norm3.diff": "blocks.1.norm2.weight",
        f"{block}.norm3.diff_b": "blocks.1.norm2.bias",
    }
    tensors = lora({f"{block}.self_attn.q": (24, 24)})
    tensors |= {name: torch.randn(24, generator=torch.Generator().manual_seed(2)) for name in added}

    report = judged(tensors, wan)
    assert (report.verdict, report.matched, rules(report)) == ("fits", 5, set())
    before = load_file(wan / "transformer/diffusion_pytorch_model.safetensors")
    after = merged(tensors, wan, tmp_path)
    for name, target in added.items():
        assert torch.equal(after[target], (before[target].double() + tensors[name].double()).float()), target
    with pytest.raises(NotConvertible, match=r"biases|full"):
        convert(files(tensors), "diffusers", base(wan))


def test_a_bias_of_lora_b_falls_on_the_pieces_of_a_fused_layer(flux: Path, tmp_path: Path) -> None:
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    tensors = lora({name: (48, 16)}) | {f"{name}.lora_B.bias": torch.arange(48.0)}

    assert judged(tensors, flux).verdict == "fits"
    before = load_file(flux / "transformer/diffusion_pytorch_model.safetensors")
    after = merged(tensors, flux, tmp_path)
    for start, target in ((0, "to_q"), (16, "to_k"), (32, "to_v")):
        bias = f"transformer_blocks.0.attn.{target}.bias"
        assert torch.equal(after[bias], before[bias] + torch.arange(float(start), start + 16))
    made = convert(files(tensors), "diffusers", base(flux))
    assert merged(load_bytes(made), flux, tmp_path / "again").keys() == after.keys()
    for key, value in merged(load_bytes(made), flux, tmp_path / "third").items():
        assert torch.equal(value, after[key]), key


def load_bytes(made: Mapping[str, bytes]) -> Tensors:
    (content,) = made.values()
    return load(content)


def test_halves_that_change_places(flux: Path, tmp_path: Path) -> None:
    """Black Forest Labs have shift before scale, diffusers the reverse."""
    tensors = lora({"diffusion_model.final_layer.adaLN_modulation.1": (32, 16)})
    down, up = tensors.values()

    assert judged(tensors, flux).verdict == "fits"
    before = load_file(flux / "transformer/diffusion_pytorch_model.safetensors")["norm_out.linear.weight"]
    after = merged(tensors, flux, tmp_path)["norm_out.linear.weight"]
    right = before.double() + (up.double() @ down.double()).roll(16, 0)
    assert torch.equal(after, right.float())


@pytest.mark.parametrize("prefix", ["transformer.", "diffusion_model.", "lora_transformer_", "lycoris_"])
def test_lokr_in_both_spellings(prefix: str, flux: Path, tmp_path: Path) -> None:
    module = "transformer_blocks.0.attn.to_q"
    name = prefix + (module if prefix.endswith(".") else module.replace(".", "_"))
    one, two = torch.randn(4, 4), torch.randn(4, 4)
    tensors = {f"{name}.lokr_w1": one, f"{name}.lokr_w2": two, f"{name}.alpha": torch.tensor(1e10)}

    report = judged(tensors, flux)
    assert (report.verdict, report.matched, rules(report)) == ("fits", 1, set())
    before = load_file(flux / "transformer/diffusion_pytorch_model.safetensors")[f"{module}.weight"]
    right = before.double() + torch.kron(one.double(), two.double())
    assert torch.equal(merged(tensors, flux, tmp_path)[f"{module}.weight"], right.float())


def test_the_name_of_an_adapter_behind_its_factors(flux: Path) -> None:
    ends = ("lora_A.sql.weight", "lora_B.sql.weight")
    report = judged(lora({"transformer.transformer_blocks.0.attn.to_q": (16, 16)}, ends), flux)
    assert (report.verdict, report.matched) == ("fits", 1)


def test_two_spellings_of_one_tensor(flux: Path) -> None:
    name = "transformer_blocks.0.attn.to_q"
    tensors = lora({f"transformer.{name}": (16, 16)}) | lora({f"diffusion_model.{name}": (16, 16)})
    report = judged(tensors, flux)
    assert (report.verdict, "LH215" in rules(report)) == ("incompatible", True)


def test_norms_that_a_control_adapter_replaces(flux: Path, tmp_path: Path) -> None:
    tensors = lora({"double_blocks.0.img_attn.proj": (16, 16)})
    norm = torch.randn(8)
    tensors["double_blocks.0.img_attn.norm.query_norm.scale"] = norm
    assert judged(tensors, flux).verdict == "fits"
    assert torch.equal(merged(tensors, flux, tmp_path)["transformer_blocks.0.attn.norm_q.weight"], norm)


def test_tokens_bundled_with_an_adapter_are_told_of(flux: Path, tmp_path: Path) -> None:
    tensors = lora({"transformer.transformer_blocks.0.attn.to_q": (16, 16)})
    bundle = tensors | {"bundle_emb.person.clip_l": torch.randn(2, 8), "bundle_emb.person.t5": torch.randn(2, 8)}

    report = judged(bundle, flux)
    told = {piece.name for found in report.findings if found.rule == "LH223" for piece in found.evidence}
    assert (report.verdict, report.matched) == ("fits", 1)
    assert told == {"bundle_emb.person.clip_l", "bundle_emb.person.t5"}
    alone = merged(tensors, flux, tmp_path / "alone")
    assert all(torch.equal(value, alone[key]) for key, value in merged(bundle, flux, tmp_path).items())


def test_the_second_text_encoder_of_a_single_file(tmp_path: Path) -> None:
    """SDXL's single files have OpenCLIP's names, whose three projections are one parameter."""
    stem = "conditioner.embedders.1.model.transformer.resblocks.0"
    before = {f"{stem}.attn.in_proj_weight": torch.randn(48, 16), f"{stem}.mlp.c_fc.weight": torch.randn(32, 16)}
    before["model.diffusion_model.input_blocks.0.0.weight"] = torch.randn(8, 4, 3, 3)
    (tmp_path / "model.safetensors").write_bytes(save(before))
    stem_of_adapter = "lora_te2_text_model_encoder_layers_0"
    tensors = lora({f"{stem_of_adapter}_self_attn_k_proj": (16, 16), f"{stem_of_adapter}_mlp_fc1": (32, 16)}, KOHYA)
    down, up = list(tensors.values())[:2]

    report = judged(tensors, tmp_path)
    assert (report.verdict, report.matched, rules(report)) == ("fits", 2, set())
    plan = MergePlan(Recipe("base", (Ingredient("one"),)), Ingredients(FolderFiles(tmp_path), [files(tensors)], {}))
    after = load_file(write_model(plan, tmp_path / "merged") / "model.safetensors")
    right = before[f"{stem}.attn.in_proj_weight"].double()
    right[16:32] += up.double() @ down.double()
    assert torch.equal(after[f"{stem}.attn.in_proj_weight"], right.float())
    made = convert(files(tensors), "diffusers", base(tmp_path))
    assert {name.removesuffix(".lora_A.weight") for name in load_bytes(made) if "lora_A" in name} == {
        "text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
    }


def test_the_connectors_of_ltx_2_have_the_authors_name_too(tmp_path: Path) -> None:
    """`LTX2LoraLoaderMixin` renames it so; PEFT's form of it has no folder before the name."""
    (tmp_path / "connectors").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    weights = {"video_text_proj_in.weight": torch.zeros(16, 16), "video_connector.proj.weight": torch.zeros(16, 16)}
    (tmp_path / "connectors/model.safetensors").write_bytes(save(weights))
    tensors = lora({"text_embedding_projection.video_aggregate_embed": (16, 16)})

    report = judged(tensors, tmp_path)
    assert (report.verdict, report.matched, rules(report)) == ("fits", 1, set())
    written = convert(files(tensors), "diffusers", base(tmp_path))
    peft = convert(BytesFiles(written), "peft", base(tmp_path))
    for made in (written, convert(BytesFiles(peft), "diffusers", base(tmp_path))):
        assert {name.partition(".lora_")[0] for name in load_bytes(made)} == {"connectors.video_text_proj_in"}


def test_rows_that_are_in_the_order_of_heads_are_undecided() -> None:
    """DiffSynth's files for MiniMax-H3: the same names and shapes as everybody's."""
    ends = ("lora_A.default.weight", "lora_B.default.weight")
    adapter = read_adapter(files(lora({"blocks.0.attn.qkv_proj": (48, 16)}, ends)))
    assert [found.rule for found in adapter.findings if found.rule == "LH306"] == ["LH306"]
    assert not adapter.is_known


# --- what isn't understood --------------------------------------------------------------------------------------------


def test_a_control_adapter_is_undecided_and_its_wider_layer_named(flux: Path, tmp_path: Path) -> None:
    tensors = lora({"img_in": (16, 8), "double_blocks.0.img_attn.proj": (16, 16)})

    report = judged(tensors, flux)
    assert (report.verdict, report.matched, rules(report)) == ("undecided", 1, {"LH306"})
    (finding,) = [found for found in report.findings if found.rule == "LH306"]
    assert "control LoRA" in finding.message
    assert [piece.name for piece in finding.evidence] == ["transformer.img_in"]
    with pytest.raises(AdapterDoesNotFit, match="control LoRA"):
        merged(tensors, flux, tmp_path)


@pytest.mark.parametrize(
    "name", ["diffusion_model.towers.0.mixer.key", "transformer.towers.0.mixer.key", "lora_unet_towers_0_mixer_key"]
)
def test_names_of_no_known_family_are_undecided(name: str, flux: Path, tmp_path: Path) -> None:
    tensors = lora({name: (16, 16)}, KOHYA)
    report = judged(tensors, flux)
    assert (report.verdict, report.matched, rules(report)) == ("undecided", 0, {"LH306"})
    assert "towers" in next(found for found in report.findings if found.rule == "LH306").message
    with pytest.raises(AdapterDoesNotFit, match="towers"):
        merged(tensors, flux, tmp_path)
    with pytest.raises(NotConvertible):
        convert(files(tensors), "diffusers", base(flux))
    with pytest.raises(NotConvertible):
        convert(files(tensors), "diffusers")


def test_a_base_of_no_known_family_has_its_own_names_only(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "P", "transformer": ["diffusers", "NewModel"]}')
    weights = {f"towers.{n}.mixer.key.weight": torch.zeros(16, 16) for n in range(2)}
    (folder / "transformer/model.safetensors").write_bytes(save(weights))

    own = judged(lora({"diffusion_model.towers.0.mixer.key": (16, 16)}), folder)
    assert (own.verdict, own.matched) == ("fits", 1)
    other = judged(lora({"diffusion_model.double_blocks.0.img_attn.qkv": (48, 16)}), folder)
    assert (other.verdict, rules(other)) == ("undecided", {"LH306"})


def test_an_adapter_for_another_family_does_not_fit(flux: Path, wan: Path) -> None:
    for_wan = judged(lora({"diffusion_model.blocks.0.self_attn.q": (24, 24)}), flux)
    assert (for_wan.verdict, rules(for_wan)) == ("incompatible", {"LH210"})
    for_flux = judged(lora({"diffusion_model.double_blocks.0.img_attn.qkv": (48, 16)}), wan)
    assert (for_flux.verdict, rules(for_flux)) == ("incompatible", {"LH210"})


# --- convert says "exactly" only when it is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_model.blocks.0.self_attn.q",  # Wan
        "diffusion_model.layers.0.attention.qkv",  # Lumina 2, Z-Image
        "transformer.double_blocks.0.img_attn.qkv",
        "unet.input_blocks.4.1.proj_in",
    ],
)
def test_an_authors_names_need_the_base(name: str) -> None:
    with pytest.raises(NotConvertible, match="without the base"):
        convert(files(lora({name: (48, 16)})), "diffusers")


def test_diffusers_own_names_need_no_base() -> None:
    names = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_mlp")
    tensors = lora({f"diffusion_model.{name}": (16, 16) for name in names})
    found = load_bytes(convert(files(tensors), "diffusers"))
    assert {key.removesuffix(".lora_A.weight") for key in found if "lora_A" in key} == {
        f"transformer.{name}" for name in names
    }
    assert all(
        np.array_equal(found[key.replace("diffusion_model", "transformer")], value) for key, value in tensors.items()
    )


def test_a_module_that_the_base_lacks_is_no_conversion(flux: Path) -> None:
    tensors = lora({"transformer.transformer_blocks.7.attn.to_q": (16, 16)})
    assert convert(files(tensors), "diffusers")
    with pytest.raises(NotConvertible, match="aren't in the base"):
        convert(files(tensors), "diffusers", base(flux))
