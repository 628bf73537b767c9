"""The adapters for image models, in the spellings of diffusers, kohya and PEFT, and what the denoiser gives with them."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from runtimes import bases
from runtimes.loaders import image_model

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_KOHYA = "lora.safetensors"
Parts = Mapping[str, nn.Module]


@dataclass(frozen=True)
class ImageCase:
    """`configs` are the adapters of a pipeline's parts; `write` saves them in one of the spellings."""

    base: str
    configs: Mapping[str, peft.PeftConfig]
    write: Callable[[Parts, Path], None]
    format: str


def _lora(*targets: str, **settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 4, "target_modules": [*(targets or _ATTENTION)]} | settings)


def _as_diffusers(parts: Parts, folder: Path) -> None:
    _save(parts, folder, with_metadata=False)


def _with_metadata(parts: Parts, folder: Path) -> None:
    _save(parts, folder, with_metadata=True)


def _save(parts: Parts, folder: Path, *, with_metadata: bool) -> None:
    pipeline: Any = FluxPipeline if "transformer" in parts else StableDiffusionPipeline
    layers = {
        f"{part}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
        for part, model in parts.items()
    }
    told = {f"{part}_lora_adapter_metadata": model.peft_config["default"].to_dict() for part, model in parts.items()}
    pipeline.save_lora_weights(folder, **layers, **(told if with_metadata else {}))


_KOHYA_PARTS = {"unet": "lora_unet", "text_encoder": "lora_te_text_model"}
_KOHYA_ENDINGS = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_magnitude_vector": "dora_scale",
}


def _as_kohya(parts: Parts, folder: Path) -> None:
    """Names folded, an alpha for each module, DoRA's norms as (out, 1)."""
    tensors: dict[str, torch.Tensor] = {}
    for part, model in parts.items():
        for name, tensor in get_peft_model_state_dict(model).items():
            module, ending = _split(name)
            folded = f"{_KOHYA_PARTS[part]}_{module.removeprefix('text_model.').replace('.', '_')}"
            is_norm = ending == "lora_magnitude_vector"
            tensors[f"{folded}.{_KOHYA_ENDINGS.get(ending, ending)}"] = tensor.reshape(-1, 1) if is_norm else tensor
            config = model.peft_config["default"]
            tensors[f"{folded}.alpha"] = torch.tensor(float(getattr(config, "lora_alpha", None) or config.alpha))
    folder.mkdir(parents=True)
    save_file(
        {name: one.detach().clone().contiguous() for name, one in tensors.items()},
        folder / _KOHYA,
        {"ss_network_module": "networks.lora"},
    )


def _split(name: str) -> tuple[str, str]:
    endings = [
        *_KOHYA_ENDINGS,
        "hada_w1_a",
        "hada_w1_b",
        "hada_w2_a",
        "hada_w2_b",
        "lokr_w1",
        "lokr_w2",
        "lokr_w2_a",
        "lokr_w2_b",
        "lokr_w1_a",
        "lokr_w1_b",
    ]
    ending = next(one for one in endings if name.endswith(f".{one}"))
    return name.removesuffix(f".{ending}"), ending


def _as_peft(parts: Parts, folder: Path) -> None:
    """What `get_peft_model(unet, …).save_pretrained` writes."""
    [model] = parts.values()
    config = model.peft_config["default"]
    config.inference_mode = True
    config.save_pretrained(folder)
    tensors = {f"base_model.model.{name}": one.contiguous() for name, one in get_peft_model_state_dict(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _dora_norms(*targets: str) -> peft.LoraConfig:
    return _lora(*targets, use_dora=True)


CASES: dict[str, ImageCase] = {
    "sd-diffusers": ImageCase("sd15", {"unet": _lora()}, _as_diffusers, "diffusers"),
    "sd-diffusers-alpha": ImageCase("sd15", {"unet": _lora(lora_alpha=2)}, _with_metadata, "diffusers"),
    "sd-diffusers-text": ImageCase("sd15", {"unet": _lora(), "text_encoder": _lora("q_proj", "v_proj")}, _as_diffusers, "diffusers"),
    "sd-diffusers-dora": ImageCase("sd15", {"unet": _dora_norms()}, _with_metadata, "diffusers"),
    "sd-kohya": ImageCase("sd15", {"unet": _lora(lora_alpha=2)}, _as_kohya, "kohya"),
    "sd-kohya-convolutions": ImageCase("sd15", {"unet": _lora(*_ATTENTION, "conv1", "conv2")}, _as_kohya, "kohya"),
    "sd-kohya-text": ImageCase("sd15", {"unet": _lora(), "text_encoder": _lora("q_proj", "v_proj", lora_alpha=2)}, _as_kohya, "kohya"),
    "sd-kohya-text-whole": ImageCase("sd15", {"unet": _lora(), "text_encoder": _lora("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", lora_alpha=2)}, _as_kohya, "kohya"),
    "sd-kohya-dora": ImageCase("sd15", {"unet": _dora_norms()}, _as_kohya, "kohya"),
    "sd-kohya-loha": ImageCase("sd15", {"unet": peft.LoHaConfig(r=4, alpha=4, target_modules=_ATTENTION)}, _as_kohya, "kohya"),
    "sd-kohya-lokr": ImageCase("sd15", {"unet": peft.LoKrConfig(r=4, alpha=4, target_modules=_ATTENTION)}, _as_kohya, "kohya"),
    "sd-peft": ImageCase("sd15", {"unet": _lora(lora_alpha=2)}, _as_peft, "peft"),
    "sd-peft-dora": ImageCase("sd15", {"unet": _dora_norms()}, _as_peft, "peft"),
    "flux-diffusers": ImageCase("flux", {"transformer": _lora()}, _as_diffusers, "diffusers"),
    "flux-diffusers-alpha": ImageCase("flux", {"transformer": _lora(lora_alpha=2)}, _with_metadata, "diffusers"),
    "flux-peft": ImageCase("flux", {"transformer": _lora(lora_alpha=8)}, _as_peft, "peft"),
}  # fmt: skip


def _adapted(case: ImageCase) -> Parts:
    parts = dict(bases.make_pipeline(case.base))
    generator = torch.Generator().manual_seed(1)
    for part, config in case.configs.items():
        model = parts[part]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(3)
            peft.inject_adapter_in_model(config, model)
        model.peft_config = {"default": config}
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return parts


def write_with_answers(case: ImageCase, folder: Path) -> None:
    """Its folder, and in expected.npz what the denoiser gives with it and without."""
    parts = _adapted(case)
    case.write({part: parts[part] for part in case.configs}, folder)
    plain = image_model.answer(bases.make_pipeline(case.base))
    np.savez(folder / "expected.npz", adapted=image_model.answer(parts), base=plain)
