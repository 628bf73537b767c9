"""The true layouts of Stable Diffusion 1.5, SDXL and Flux, made by diffusers on torch's meta device, and adapter files
for them as kohya and diffusers name their tensors. Full size, without a single weight in memory.
"""

import json
import struct
from collections.abc import Callable, Mapping
from functools import cache

import diffusers
import torch
import transformers
from lorahub.adapters.base_model import BaseLayout, BaseTensor
from torch import nn

Shapes = Mapping[str, tuple[int, ...]]


def _unet(**settings: object) -> nn.Module:
    return diffusers.UNet2DConditionModel(**settings)


def _sdxl() -> nn.Module:
    return _unet(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _clip(hidden: int, layers: int, inner: int) -> nn.Module:
    config = transformers.CLIPTextConfig(
        hidden_size=hidden, num_hidden_layers=layers, intermediate_size=inner, num_attention_heads=hidden // 64
    )
    return transformers.CLIPTextModel(config)


PIPELINES: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "sd15": {
        "unet": lambda: _unet(sample_size=64, cross_attention_dim=768),
        "text_encoder": lambda: _clip(768, 12, 3072),
    },
    "sdxl": {
        "unet": _sdxl,
        "text_encoder": lambda: _clip(768, 12, 3072),
        "text_encoder_2": lambda: _clip(1280, 32, 5120),
    },
    "flux": {
        "transformer": lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True),
        "text_encoder": lambda: _clip(768, 12, 3072),
    },
}


@cache
def modules(pipeline: str) -> Shapes:
    """Linear layers and convolutions by name, with the shape of their weights."""
    found: dict[str, tuple[int, ...]] = {}
    for component, make in PIPELINES[pipeline].items():
        with torch.device("meta"):
            model = make()
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                found[f"{component}.{_on_disk(component, name)}"] = tuple(layer.weight.shape)
    return found


@cache
def base(pipeline: str) -> BaseLayout:
    """The pipeline's layout as its repository has it."""
    tensors: dict[str, BaseTensor] = {}
    for component, make in PIPELINES[pipeline].items():
        with torch.device("meta"):
            state = make().state_dict()
        for name, value in state.items():
            tensors[f"{component}.{_on_disk(component, name)}"] = BaseTensor("F16", tuple(value.shape))
    return BaseLayout(
        tensors, {"_class_name": "StableDiffusionPipeline"}, f"acme/{pipeline}", names=frozenset([f"acme/{pipeline}"])
    )


def _on_disk(component: str, name: str) -> str:
    """Published text encoders have the prefix that transformers 5 no longer writes."""
    plain = name.removeprefix("text_model.")
    return f"text_model.{plain}" if component.startswith("text_encoder") and plain else plain


class SparseFiles:
    """One safetensors file: a true header, zeros behind it, and scalars (alphas) where they are given."""

    def __init__(
        self,
        path: str,
        shapes: Shapes,
        scalars: Mapping[str, float] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._path = path
        values = scalars or {}
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        at = 0
        for name in values:
            header[name] = {"dtype": "F32", "shape": [], "data_offsets": [at, at + 4]}
            at += 4
        for name, shape in shapes.items():
            size = 2
            for dimension in shape:
                size *= dimension
            header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        self._head = struct.pack("<Q", len(raw)) + raw + struct.pack(f"<{len(values)}f", *values.values())
        self.sizes = {path: 8 + len(raw) + at}

    def sha256(self, _: str) -> None:
        return None

    def read(self, path: str, start: int, stop: int) -> bytes:
        assert path == self._path
        held = self._head[start:stop]
        return held + bytes(min(stop, self.sizes[path]) - start - len(held))


def factors(shape: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(down, up) of a LoRA on a weight."""
    return (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))


def kohya(names: Mapping[str, tuple[int, ...]], *, rank: int = 4, alpha: float | None = 2.0) -> SparseFiles:
    """`names` are kohya's, folded; every module gets a down, an up and perhaps an alpha."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in names.items():
        down, up = factors(shape, rank)
        shapes |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    scalars = {} if alpha is None else {f"{name}.alpha": alpha for name in names}
    metadata = {"ss_network_module": "networks.lora", "ss_sd_model_name": "acme/base"}
    return SparseFiles("lora.safetensors", shapes, scalars, metadata)
