"""load_lora_weights of a pipeline, whose denoiser then runs once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from image_model import answer as answered
from task import Case, NotRun, each, told

torch.set_num_threads(1)
_NONE = {"vae": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}


def answer(case: Case) -> Iterable[float]:
    pipe = _opened(Path(case["base"]))
    [file] = Path(case["adapter"]).glob("*.safetensors")
    pipe.load_lora_weights(case["adapter"], weight_name=file.name)
    return answered({name: part for name, part in pipe.components.items() if part is not None}).tolist()


def _opened(base: Path) -> Any:
    """The pipeline without the parts that no adapter changes."""
    try:
        if (base / "transformer").is_dir():
            denoiser = diffusers.FluxTransformer2DModel.from_pretrained(base / "transformer").eval()
            scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
            nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
            return diffusers.FluxPipeline(transformer=denoiser, scheduler=scheduler, **nothing)
        if (base / "unet").is_dir():
            unet = diffusers.UNet2DConditionModel.from_pretrained(base / "unet").eval()
            text = transformers.CLIPTextModel.from_pretrained(base / "text_encoder").eval()
            scheduler = diffusers.DDIMScheduler()
            return diffusers.StableDiffusionPipeline(
                unet=unet, text_encoder=text, scheduler=scheduler, requires_safety_checker=False, **_NONE
            )
    except Exception as error:
        raise NotRun(told(error)) from error
    raise NotRun(f"{base.name} is no pipeline")


each(answer)
