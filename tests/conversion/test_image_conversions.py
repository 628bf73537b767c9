"""Image adapters made by diffusers itself: in kohya's form and back they do the same to the same UNet."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import pytest
import torch
import transformers
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.check import check
from lorahub.adapters.files import BytesFiles, FolderFiles
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import NotConvertible, convert
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.numpy import load, save
from torch import nn

pytestmark = pytest.mark.xdist_group("image-conversions")

WEIGHTS = "pytorch_lora_weights.safetensors"
ATTENTION = ["to_q", "to_v", "to_out.0", "proj_in", "conv1"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"lora_alpha": 2},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "patterns": {"rank_pattern": {"to_v": 2, "conv1": 6}, "alpha_pattern": {"to_q": 1, "conv1": 5}, "lora_alpha": 8},
}


def make_unet() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    ).eval()


def make_text_encoder() -> nn.Module:
    torch.manual_seed(1)
    config = transformers.CLIPTextConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=50,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
    )
    return transformers.CLIPTextModel(config).eval()


def outputs(unet: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    pixels, text = (torch.randn(shape, generator=generator) for shape in ((1, 4, 8, 8), (1, 5, 16)))
    with torch.no_grad():
        return unet(pixels, 7, text).sample


def add_noise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@dataclass(frozen=True)
class Made:
    """A file that diffusers wrote, and what the UNet does with it."""

    files: FolderFiles
    expected: torch.Tensor


def make(folder: Path, *, text: bool = False, **settings: Any) -> Made:
    """`save_lora_weights` of a pipeline, with the settings in the header as its training scripts write them."""
    config = {"r": 4, "lora_alpha": 4, "target_modules": ATTENTION, "init_lora_weights": "gaussian"} | settings
    unet, encoder = make_unet(), make_text_encoder()
    unet.add_adapter(peft.LoraConfig(**config))
    patterns = {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"out_proj": 5}} if "rank_pattern" in config else {}
    encoder.add_adapter(peft.LoraConfig(**config | {"target_modules": ["q_proj", "out_proj"]} | patterns))
    add_noise(unet)
    add_noise(encoder)
    more: dict[str, Any] = {}
    if text:
        more = {
            "text_encoder_lora_layers": get_peft_model_state_dict(encoder, adapter_name="default"),
            "text_encoder_lora_adapter_metadata": encoder.peft_config["default"].to_dict(),
        }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*invalid shape")  # what PEFT says of every lora_bias
        layers = get_peft_model_state_dict(unet, adapter_name="default")
    diffusers.StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=layers,
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
        **more,
    )
    return Made(FolderFiles(folder), outputs(unet))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BaseLayout]:
    """Pipelines of the tiny parts: one or two text encoders."""
    root = tmp_path_factory.mktemp("bases")
    made: dict[int, BaseLayout] = {}

    def base(*, encoders: int = 1) -> BaseLayout:
        if encoders not in made:
            folder = root / str(encoders)
            make_unet().save_pretrained(folder / "unet")
            for name in ("text_encoder", "text_encoder_2")[:encoders]:
                make_text_encoder().save_pretrained(folder / name)
            (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
            made[encoders] = read_base(FolderFiles(folder), name="acme/tiny-diffusion")
        return made[encoders]

    return base


def saved(made: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    ((name, content),) = made.items()
    (folder / name).write_bytes(content)
    return folder / name


def load_diffusers(path: Path) -> torch.Tensor:
    unet = make_unet()
    pipeline = diffusers.StableDiffusionPipeline
    state, alphas, metadata = pipeline.lora_state_dict(
        str(path.parent), weight_name=path.name, return_lora_metadata=True, local_files_only=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.load_lora_into_unet(state, network_alphas=alphas, unet=unet, metadata=metadata)
    return outputs(unet)


@pytest.mark.parametrize("name", ADAPTERS)
def test_diffusers_loads_what_is_written_for_it(name: str, bases: Callable[..., BaseLayout], tmp_path: Path) -> None:
    made = make(tmp_path / "own", **ADAPTERS[name])

    again = convert(made.files, "diffusers")

    assert not torch.allclose(made.expected, outputs(make_unet()), atol=1e-3)
    torch.testing.assert_close(load_diffusers(saved(again, tmp_path / "again")), made.expected, rtol=0, atol=1e-6)
    assert equal(again[WEIGHTS], own_weights(made))
    assert check(read_adapter(BytesFiles(again)), bases()).verdict == "fits"


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name != "patterns"])
def test_diffusers_loads_kohyas_form(name: str, bases: Callable[..., BaseLayout], tmp_path: Path) -> None:
    made = make(tmp_path / "own", **ADAPTERS[name])

    kohya = convert(made.files, "kohya")

    path = saved(kohya, tmp_path / "kohya")
    torch.testing.assert_close(load_diffusers(path), made.expected, rtol=0, atol=1e-6)
    report = check(read_adapter(BytesFiles(kohya)), bases())
    assert (report.verdict, report.matched) == ("fits", report.of)


@pytest.mark.parametrize("name", ADAPTERS)
def test_kohya_to_diffusers_to_kohya_is_the_same(name: str, bases: Callable[..., BaseLayout], tmp_path: Path) -> None:
    made = make(tmp_path / "own", text=True, **ADAPTERS[name])
    first = convert(made.files, "kohya")

    there = convert(BytesFiles(first), "diffusers", bases())
    back = convert(BytesFiles(there), "kohya", bases())

    assert back == first
    torch.testing.assert_close(load_diffusers(saved(there, tmp_path / "there")), made.expected, rtol=0, atol=1e-6)


def test_kohyas_file_has_its_names_alphas_and_metadata(bases: Callable[..., BaseLayout], tmp_path: Path) -> None:
    made = make(tmp_path / "own", text=True, lora_alpha=2)

    path = saved(convert(made.files, "kohya", bases()), tmp_path / "kohya")

    with safe_open(path, "np") as file:
        assert file.metadata() == {
            "ss_network_alpha": "2",
            "ss_network_dim": "4",
            "ss_network_module": "networks.lora",
        }
        names = set(file.keys())
        alpha = file.get_tensor("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.alpha")
        convolution = file.get_tensor("lora_unet_mid_block_resnets_0_conv1.lora_up.weight")
    assert (alpha.shape, alpha.dtype, float(alpha)) == ((), np.float32, 2)
    assert convolution.shape == (16, 4, 1, 1)
    assert "lora_te_text_model_encoder_layers_1_self_attn_out_proj.lora_down.weight" in names

    two = load(convert(made.files, "kohya", bases(encoders=2))["lora.safetensors"])
    assert "lora_te1_text_model_encoder_layers_1_self_attn_out_proj.lora_down.weight" in two
    back = convert(BytesFiles({"x.safetensors": save(two)}), "diffusers", bases(encoders=2))
    assert equal(back[WEIGHTS], own_weights(made))


def test_alphas_of_their_own_stay_in_kohyas_form(tmp_path: Path) -> None:
    """By the formula: diffusers 0.42 gives every attention of such a file the commonest alpha."""
    made = make(tmp_path, text=True, **ADAPTERS["patterns"])

    adapter = read_adapter(BytesFiles(convert(made.files, "kohya")))

    scales = {_folded(update.module): update.scale for update in read_adapter(made.files).updates}
    assert len(set(scales.values())) > 3
    assert {update.module: update.scale for update in adapter.updates} == scales


def _folded(module: str) -> str:
    part, _, rest = module.partition(".")
    rest = f"text_model.{rest}" if part == "text_encoder" and not rest.startswith("text_model.") else rest
    return {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + rest.replace(".", "_")


def test_the_text_encoder_has_the_same_ranks_and_scales(tmp_path: Path) -> None:
    made = make(tmp_path / "own", text=True, **ADAPTERS["patterns"])
    path = saved(convert(made.files, "diffusers"), tmp_path / "again")
    encoder = make_text_encoder()

    state, alphas, metadata = diffusers.StableDiffusionPipeline.lora_state_dict(
        str(path.parent), weight_name=path.name, return_lora_metadata=True
    )
    diffusers.StableDiffusionPipeline.load_lora_into_text_encoder(
        state, network_alphas=alphas, text_encoder=encoder, metadata=metadata
    )

    found = {
        f"text_encoder.{name}": (layer.r["default_0"], layer.scaling["default_0"])
        for name, layer in encoder.named_modules()
        if hasattr(layer, "lora_A")
    }
    updates = [update for update in read_adapter(made.files).updates if update.module.startswith("text_encoder")]
    assert found == {update.module: (update.rank, update.scale) for update in updates}
    assert len(set(found.values())) == 2


@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_to_diffusers_and_back(name: str, tmp_path: Path) -> None:
    settings = {"r": 4, "lora_alpha": 4, "target_modules": ATTENTION} | ADAPTERS[name]
    model = peft.get_peft_model(make_unet(), peft.LoraConfig(**settings))
    add_noise(model)
    model.save_pretrained(tmp_path / "peft")
    expected = outputs(model.eval())

    made = convert(FolderFiles(tmp_path / "peft"), "diffusers")
    back = convert(BytesFiles(made), "peft")

    torch.testing.assert_close(load_diffusers(saved(made, tmp_path / "diffusers")), expected, rtol=0, atol=1e-6)
    assert equal(back["adapter_model.safetensors"], (tmp_path / "peft" / "adapter_model.safetensors").read_bytes())
    (tmp_path / "back").mkdir()
    for path, content in back.items():
        (tmp_path / "back" / path).write_bytes(content)
    again = peft.PeftModel.from_pretrained(make_unet(), tmp_path / "back").eval()
    torch.testing.assert_close(outputs(again), expected, rtol=0, atol=1e-6)


def test_dora_goes_both_ways(bases: Callable[..., BaseLayout], tmp_path: Path) -> None:
    made = make(tmp_path / "own", use_dora=True)

    kohya = convert(made.files, "kohya")
    back = convert(BytesFiles(kohya), "diffusers", bases())

    tensors = load(kohya["lora.safetensors"])
    assert tensors["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.dora_scale"].shape == (16, 1)
    assert tensors["lora_unet_mid_block_resnets_0_conv1.dora_scale"].shape == (16, 1, 1, 1)
    torch.testing.assert_close(load_diffusers(saved(back, tmp_path / "back")), made.expected, rtol=0, atol=1e-6)


def test_an_image_adapter_has_a_normal_form(bases: Callable[..., BaseLayout], tmp_path: Path) -> None:
    made = make(tmp_path / "own", **ADAPTERS["patterns"])

    normal = convert(BytesFiles(convert(made.files, "kohya")), "peft-normalized", bases())

    (tmp_path / "normal").mkdir()
    for path, content in normal.items():
        (tmp_path / "normal" / path).write_bytes(content)
    model = peft.PeftModel.from_pretrained(make_unet(), tmp_path / "normal").eval()
    assert (model.peft_config["default"].r, model.peft_config["default"].lora_alpha) == (6, 6)
    torch.testing.assert_close(outputs(model), made.expected, rtol=0, atol=1e-6)


# --- Flux: fused matrices ---------------------------------------------------------------------------------------------


def make_flux() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> BaseLayout:
    folder = tmp_path_factory.mktemp("flux")
    make_flux().save_pretrained(folder / "transformer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    return read_base(FolderFiles(folder), name="acme/tiny-flux")


def flux_lora(*more: tuple[str, int, int]) -> dict[str, np.ndarray]:
    """As sd-scripts trains Flux: on Black Forest Labs' matrices."""
    random = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    for name, width, rows in (
        ("double_blocks_0_img_attn_qkv", 32, 96),
        ("double_blocks_0_txt_attn_proj", 32, 32),
        ("double_blocks_0_img_mlp_0", 32, 128),
        ("single_blocks_0_linear2", 32 + 128, 32),
        *more,
    ):
        tensors[f"lora_unet_{name}.lora_down.weight"] = random.standard_normal((4, width), np.float32)
        tensors[f"lora_unet_{name}.lora_up.weight"] = random.standard_normal((rows, 4), np.float32)
        tensors[f"lora_unet_{name}.alpha"] = np.array(2, np.float32)
    return tensors


def test_fused_matrices_are_split_as_diffusers_splits_them(flux: BaseLayout, tmp_path: Path) -> None:
    kohya = BytesFiles({"flux.safetensors": save(flux_lora())})

    made = saved(convert(kohya, "diffusers", flux), tmp_path / "made")

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "flux.safetensors").write_bytes(save(flux_lora()))
    updates = []
    for path in (made, tmp_path / "theirs" / "flux.safetensors"):
        state, alphas, metadata = diffusers.FluxPipeline.lora_state_dict(
            str(path.parent), weight_name=path.name, return_alphas=True, return_lora_metadata=True
        )
        transformer = make_flux()
        diffusers.FluxPipeline.load_lora_into_transformer(
            state, network_alphas=alphas, transformer=transformer, metadata=metadata
        )
        updates.append(
            {
                name: layer.get_delta_weight("default_0").detach()
                for name, layer in transformer.named_modules()
                if hasattr(layer, "lora_A")
            }
        )
    assert len(updates[0]) == 3 + 1 + 1 + 1
    torch.testing.assert_close(updates[0], updates[1])


def test_the_widest_matrix_is_split_by_the_bases_rows(flux: BaseLayout) -> None:
    """Diffusers splits `linear1` too, but for the real Flux's widths alone."""
    tensors = flux_lora(("single_blocks_0_linear1", 32, 96 + 128))

    made = load(convert(BytesFiles({"x.safetensors": save(tensors)}), "diffusers", flux)[WEIGHTS])

    up, start = tensors["lora_unet_single_blocks_0_linear1.lora_up.weight"], 0
    for leaf, rows in (("attn.to_q", 32), ("attn.to_k", 32), ("attn.to_v", 32), ("proj_mlp", 128)):
        name = f"transformer.single_transformer_blocks.0.{leaf}"
        assert np.array_equal(made[f"{name}.lora_B.weight"], up[start : start + rows])
        assert np.array_equal(
            made[f"{name}.lora_A.weight"], tensors["lora_unet_single_blocks_0_linear1.lora_down.weight"]
        )
        start += rows


# --- refusals ---------------------------------------------------------------------------------------------------------


def one_layer(**more: np.ndarray) -> BytesFiles:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {"lora_down.weight": np.ones((4, 16), np.float32), "lora_up.weight": np.ones((16, 4), np.float32)}
    return BytesFiles({"x.safetensors": save({f"{name}.{key}": value for key, value in (tensors | more).items()})})


def test_folded_names_need_the_base(bases: Callable[..., BaseLayout], flux: BaseLayout) -> None:
    with pytest.raises(NotConvertible, match=r"lora_unet_mid_block\w+ can't be named without the base"):
        convert(one_layer(), "diffusers")
    with pytest.raises(NotConvertible, match="1 modules aren't in the base, first lora_unet_mid_block"):
        convert(one_layer(), "diffusers", flux)
    assert convert(one_layer(), "diffusers", bases())


def test_what_peft_does_not_have_is_refused(bases: Callable[..., BaseLayout], tmp_path: Path) -> None:
    core = np.ones((4, 4, 3, 3), np.float32)
    with pytest.raises(NotConvertible, match="has a factor of its own, mid"):
        convert(one_layer(**{"lora_mid.weight": core}), "diffusers", bases())
    with pytest.raises(NotConvertible, match=r"dora_scale of lora_unet_mid\w+ is \[1, 16\]: norms of inputs"):
        convert(one_layer(dora_scale=np.ones((1, 16), np.float32)), "diffusers", bases())
    with pytest.raises(NotConvertible, match="the adapter has biases"):
        convert(one_layer(diff_b=np.ones(16, np.float32)), "diffusers", bases())
    with pytest.raises(NotConvertible, match="has parts for text_encoder, unet; a PEFT directory is for one model"):
        convert(make(tmp_path, text=True).files, "peft")


def test_what_kohya_does_not_have_is_refused(flux: BaseLayout, tmp_path: Path) -> None:
    split = convert(BytesFiles({"flux.safetensors": save(flux_lora())}), "diffusers", flux)

    with pytest.raises(NotConvertible, match="kohya's names of a transformer are its authors', with fused matrices"):
        convert(BytesFiles(split), "kohya", flux)
    with pytest.raises(NotConvertible, match=r"has a bias of lora_B \(lora_bias\); kohya has no place for it"):
        convert(make(tmp_path, lora_bias=True, init_lora_weights=True, target_modules=["to_out.0"]).files, "kohya")


@pytest.mark.parametrize("target", ["gguf", "mlx"])
def test_an_image_model_is_no_language_model(target: Any, bases: Callable[..., BaseLayout], tmp_path: Path) -> None:
    made = make(tmp_path, target_modules=["to_q"])

    with pytest.raises(NotConvertible):
        convert(made.files, target, bases())


def own_weights(made: Made) -> bytes:
    return (made.files.place / WEIGHTS).read_bytes()


def equal(one: bytes, two: bytes) -> bool:
    """Tensor by tensor; CLIP's names with or without `text_model`, which transformers 5 left out."""
    first, second = (
        {name.replace("text_encoder.text_model.", "text_encoder."): array for name, array in load(content).items()}
        for content in (one, two)
    )
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
