"""Adapters of image models: every module of SD 1.5, SDXL and Flux is found under every name that tools give it.

diffusers' own converters of whole checkpoints are the independent reference for the names of Stability and Black Forest
Labs; nothing here is compared with our own tables.
"""

from collections.abc import Mapping
from pathlib import Path

import diffusers
import peft
import pytest
import torch
from corpus.image_corpus import SparseFiles, base, factors, kohya, modules
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
)
from lorahub.adapters.adapter import Adapter
from lorahub.adapters.check import Report, check
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.names.weight import Weight
from lorahub.adapters.reader import read_adapter

pytestmark = pytest.mark.xdist_group("image-formats")

SCALES = {"sd15": 860_000_000, "sdxl": 2_560_000_000, "flux": 11_900_000_000}
PREFIXES = {
    "unet": "lora_unet_",
    "transformer": "lora_unet_",
    "text_encoder": "lora_te_",
    "text_encoder_2": "lora_te2_",
}


def fold(name: str, *, several: bool = False) -> str:
    component, _, rest = name.partition(".")
    prefix = "lora_te1_" if several and component == "text_encoder" else PREFIXES[component]
    return prefix + rest.replace(".", "_")


def places(report: Report) -> dict[str, list[tuple[str, tuple[int, int] | None]]]:
    return {update.module: [(p.tensor, p.rows) for p in weight.places] for update, weight in report.bound}


def judged(adapter: Adapter, pipeline: str) -> Report:
    report = check(adapter, base(pipeline).named("acme/base"))
    assert report.coverage.used + report.coverage.named == report.coverage.of > 0
    return report


@pytest.mark.parametrize("pipeline", ["sd15", "sdxl"])
def test_every_folded_name_leads_to_its_module(pipeline: str) -> None:
    wanted = {fold(name, several=pipeline == "sdxl"): shape for name, shape in modules(pipeline).items()}
    expected = {fold(name, several=pipeline == "sdxl"): f"{name}.weight" for name in modules(pipeline)}
    adapter = read_adapter(kohya(wanted))
    report = judged(adapter, pipeline)
    assert len(wanted) > 300
    assert (report.verdict, report.findings) == ("fits", ())
    assert {module: tensor for module, ((tensor, _),) in places(report).items()} == expected
    assert {(u.rank, u.scale) for u in adapter.updates} == {(4, 0.5)}
    assert all(u.shape == wanted[u.module] for u in adapter.updates)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (0.0, 1.0), (4.0, 1.0), (1.0, 0.25)])
def test_the_scale_is_alpha_over_rank(alpha: float | None, scale: float) -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    adapter = read_adapter(kohya({fold(name): modules("sd15")[name]}, alpha=alpha))
    assert [u.scale for u in adapter.updates] == [scale]


def _other_names(pipeline: str, heads: tuple[str, ...]) -> Mapping[str, Weight]:
    return {
        name: weight
        for name, weight in BaseNames(base(pipeline)).weights.items()
        if name.removeprefix("unet.").removeprefix("transformer.").startswith(heads)
        and name.endswith(".weight")
        and ".processor." not in name  # XLabs' names
    }


LDM = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.")


@pytest.mark.parametrize("pipeline", ["sd15", "sdxl"])
def test_stabilitys_names_are_those_that_diffusers_converts(pipeline: str) -> None:
    """Each tensor holds a number; after diffusers' conversion it must stand where our dictionary says."""
    spelled = _other_names(pipeline, LDM)
    checkpoint, expected = {}, {}
    for number, (name, weight) in enumerate(spelled.items()):
        for parameter in ("weight", "bias"):
            alias = name.removesuffix("weight") + parameter
            tensor = weight.places[0].tensor.removesuffix("weight") + parameter
            if tensor in base(pipeline).tensors:
                value = 2 * number + (parameter == "bias")
                checkpoint[f"model.diffusion_model.{alias.removeprefix('unet.')}"] = torch.tensor([value])
                expected[tensor.removeprefix("unet.")] = value
    config = {
        "layers_per_block": 2,
        "class_embed_type": None,
        "addition_embed_type": "text_time" if pipeline == "sdxl" else None,
        "block_out_channels": (320, 640, 1280) if pipeline == "sdxl" else (320, 640, 1280, 1280),
    }
    found = {name: int(value[0]) for name, value in convert_ldm_unet_checkpoint(checkpoint, config).items()}
    assert found == expected
    ours = {name for name in base(pipeline).tensors if name.startswith("unet.")}
    assert {f"unet.{name}" for name in found} == ours, "a tensor of the UNet has no name in Stability's spelling"


def test_sdxl_in_stabilitys_names_fits() -> None:
    named = {
        fold(name.removesuffix(".weight")): weight.shape
        for name, weight in _other_names("sdxl", LDM).items()
        if weight.places[0].tensor.removesuffix(".weight") in modules("sdxl")
    }
    assert len(named) > 500
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q" in named
    report = judged(read_adapter(kohya(named)), "sdxl")
    assert (report.verdict, report.matched, report.findings) == ("fits", len(named), ())


BFL = ("double_blocks.", "single_blocks.")


def test_flux_in_black_forest_labs_names_is_split_as_diffusers_splits_it() -> None:
    spelled = _other_names(
        "flux", (*BFL, "img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer.linear")
    )
    checkpoint = _flux_checkpoint(spelled)
    found = convert_flux_transformer_checkpoint_to_diffusers(dict(checkpoint))
    for name, weight in spelled.items():
        whole = checkpoint[name.removeprefix("transformer.")]
        for place in weight.places:
            start, stop = place.rows or (0, whole.shape[0])
            assert torch.equal(found[place.tensor.removeprefix("transformer.")], whole[start:stop]), name
    split = {place.tensor for weight in spelled.values() for place in weight.places}
    missing = {f"{name}.weight" for name in modules("flux") if name.startswith("transformer.")} - split
    assert missing == {"transformer.norm_out.linear.weight"}, "final_layer.adaLN swaps its halves: it has no plain name"


def _flux_checkpoint(spelled: Mapping[str, Weight]) -> dict[str, torch.Tensor]:
    """One column a weight, each row another number; what the converter wants beside them is filled in."""
    checkpoint: dict[str, torch.Tensor] = {}
    for number, (name, weight) in enumerate(spelled.items()):
        rows = weight.shape[0]
        plain = name.removeprefix("transformer.")
        checkpoint[plain] = torch.arange(rows, dtype=torch.float64).reshape(rows, 1) + number * 1e6
        checkpoint[plain.removesuffix("weight") + "bias"] = torch.zeros(rows)
    for block, count in (("double_blocks", 19), ("single_blocks", 38)):
        for number in range(count):
            streams = ("img_attn.norm", "txt_attn.norm") if block == "double_blocks" else ("norm",)
            for stream in streams:
                for side in ("query_norm", "key_norm"):
                    checkpoint[f"{block}.{number}.{stream}.{side}.scale"] = torch.zeros(1)
    for parameter in ("weight", "bias"):
        checkpoint[f"final_layer.adaLN_modulation.1.{parameter}"] = torch.zeros(2, 1)
    return checkpoint


def test_flux_in_kohyas_names_fits() -> None:
    spelled = _other_names("flux", BFL)
    named = {fold(name.removesuffix(".weight")): weight.shape for name, weight in spelled.items()}
    assert "lora_unet_double_blocks_0_img_attn_qkv" in named
    assert "lora_unet_single_blocks_37_linear1" in named
    report = judged(read_adapter(kohya(named)), "flux")
    assert (report.verdict, report.matched, report.findings) == ("fits", len(named), ())
    rows = dict(places(report)["lora_unet_single_blocks_0_linear1"])
    assert list(rows.values()) == [(0, 3072), (3072, 6144), (6144, 9216), (9216, 21504)]


def test_an_adapter_for_another_model_does_not_fit() -> None:
    sd15 = {fold(name): shape for name, shape in modules("sd15").items()}
    report = judged(read_adapter(kohya(sd15)), "sdxl")
    assert report.verdict == "incompatible"
    assert {found.rule for found in report.findings} == {"LH201", "LH202"}
    flux = {fold(name.removesuffix(".weight")): w.shape for name, w in _other_names("flux", BFL).items()}
    nothing = judged(read_adapter(kohya(flux)), "sd15")
    assert [found.rule for found in nothing.findings] == ["LH210"]


# --- diffusers --------------------------------------------------------------------------------------------------------


def diffusers_file(names: Mapping[str, tuple[int, ...]], down: str, up: str, rank: int = 8) -> SparseFiles:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in names.items():
        one, two = factors(shape, rank)
        shapes |= {f"{name}.{down}": one, f"{name}.{up}": two}
    return SparseFiles("pytorch_lora_weights.safetensors", shapes, metadata={"base_model": "acme/base"})


@pytest.mark.parametrize("pipeline", ["sd15", "sdxl", "flux"])
@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("lora_A.weight", "lora_B.weight"),
        ("lora.down.weight", "lora.up.weight"),
        ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    ],
)
def test_diffusers_own_names(pipeline: str, down: str, up: str) -> None:
    adapter = read_adapter(diffusers_file(modules(pipeline), down, up))
    report = judged(adapter, pipeline)
    assert adapter.format == "diffusers"
    assert (report.verdict, report.matched, report.findings) == ("fits", len(modules(pipeline)), ())
    assert {module: tensor for module, ((tensor, _),) in places(report).items()} == {
        n: f"{n}.weight" for n in modules(pipeline)
    }
    assert {(u.rank, u.scale) for u in adapter.updates} == {(8, 1.0)}


def test_attention_processors_of_old_diffusers() -> None:
    owner = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
    down, up = factors(modules("sd15")[f"{owner}.to_q"], 4)
    shapes = {
        f"{owner}.processor.to_{x}_lora.{way}.weight": shape
        for x in ("q", "out")
        for way, shape in (("down", down), ("up", up))
    }
    adapter = read_adapter(SparseFiles("old.safetensors", shapes, metadata={"base_model": "acme/base"}))
    report = judged(adapter, "sd15")
    assert {t for ((t, _),) in places(report).values()} == {f"{owner}.to_q.weight", f"{owner}.to_out.0.weight"}
    assert report.verdict == "fits"


def test_original_names_of_a_diffusion_transformer() -> None:
    names = {
        f"diffusion_model.{n.removeprefix('transformer.').removesuffix('.weight')}": w.shape
        for n, w in _other_names("flux", BFL).items()
    }
    report = judged(read_adapter(diffusers_file(names, "lora_A.weight", "lora_B.weight")), "flux")
    assert (report.verdict, report.matched, report.findings) == ("fits", len(names), ())


# --- LyCORIS ----------------------------------------------------------------------------------------------------------


def lycoris(kind: str, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    out, width = shape[0], shape[1]
    down, up = factors(shape, 4)
    kinds = {
        "loha": {"hada_w1_a": (out, 4), "hada_w1_b": (4, width), "hada_w2_a": (out, 4), "hada_w2_b": (4, width)},
        "lokr": {"lokr_w1": (8, 8), "lokr_w2_a": (out // 8, 4), "lokr_w2_b": (4, width // 8)},
        "ia3": {"weight": (out,)},
        "full": {"diff": shape, "diff_b": (out,)},
        "dora": {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": (1, width)},
        "oft": {"oft_blocks": (out // 32, 32, 32)},
    }
    return {f"{name}.{ending}": size for ending, size in kinds[kind].items()}


@pytest.mark.parametrize("kind", ["loha", "lokr", "ia3", "full", "dora", "oft"])
def test_lycoris_methods(kind: str) -> None:
    owner = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    name = fold(owner) if kind != "oft" else fold(owner).replace("lora_unet_", "oft_unet_")
    shapes = lycoris(kind, name, modules("sd15")[owner])
    adapter = read_adapter(SparseFiles("x.safetensors", shapes, metadata={"ss_sd_model_name": "acme/base"}))
    report = judged(adapter, "sd15")
    assert adapter.format == "kohya"
    assert (report.verdict, report.findings) == ("fits", ())
    assert [t for ((t, _),) in places(report).values()] == [f"{owner}.weight"]
    wrong = {
        ending: (size[0] + 8, *size[1:]) if index == 0 and kind != "lokr" else size
        for index, (ending, size) in enumerate(shapes.items())
    }
    if kind not in ("lokr", "dora", "loha"):
        broken = judged(
            read_adapter(SparseFiles("x.safetensors", wrong, metadata={"ss_sd_model_name": "acme/base"})), "sd15"
        )
        assert [found.rule for found in broken.findings] == ["LH202"]


@pytest.mark.parametrize(("kind", "part"), [("loha", "hada_w2_b"), ("lokr", "lokr_w2_b"), ("dora", "lora_up.weight")])
def test_half_a_lycoris_update_is_missing(kind: str, part: str) -> None:
    owner = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    shapes = {
        name: size
        for name, size in lycoris(kind, fold(owner), modules("sd15")[owner]).items()
        if not name.endswith(part)
    }
    shapes |= lycoris("loha", fold(owner.replace("to_k", "to_q")), modules("sd15")[owner])
    report = judged(
        read_adapter(SparseFiles("x.safetensors", shapes, metadata={"ss_sd_model_name": "acme/base"})), "sd15"
    )
    assert [found.rule for found in report.findings] == ["LH208"]


def test_the_scales_of_the_models_are_right() -> None:
    """So that a layout made here is the published model's."""
    for pipeline, expected in SCALES.items():
        main = "transformer" if pipeline == "flux" else "unet"
        total = sum(
            torch.Size(t.shape).numel() for name, t in base(pipeline).tensors.items() if name.startswith(f"{main}.")
        )
        assert total == pytest.approx(expected, rel=0.01), pipeline


def test_a_file_that_diffusers_saved_has_pefts_ranks_and_scales(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_k", "conv1"],
        rank_pattern={"to_k": 2},
        alpha_pattern={"conv1": 8},
    )
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    unet.add_adapter(config)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=peft.get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=config.to_dict(),
    )
    adapter = read_adapter(FolderFiles(tmp_path))
    theirs = {
        f"unet.{name}": (layer.r["default"], layer.scaling["default"], tuple(layer.weight.shape))
        for name, layer in unet.named_modules()
        if isinstance(layer, peft.tuners.lora.LoraLayer)
    }
    assert len(theirs) > 10
    assert {u.module: (u.rank, u.scale, u.shape) for u in adapter.updates} == theirs
    assert [found.rule for found in adapter.findings] == ["LH105"]
