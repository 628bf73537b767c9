"""Image models: the spellings of UNets and diffusion transformers, and the folders of pipelines."""

from collections.abc import Iterable, Iterator, Mapping

from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.names.weight import Names, Weight, WeightPlace, renamed

_TEXT_ENCODERS = {
    "cond_stage_model.transformer.": "text_encoder.",
    "conditioner.embedders.0.transformer.": "text_encoder.",
    "text_encoders.clip_l.transformer.": "text_encoder.",
    "text_encoders.t5xxl.transformer.": "text_encoder_2.",
    "model.diffusion_model.": "unet.",
}
"""Prefixes in single-file checkpoints -> the folders of a diffusers pipeline."""


def single_file_pipelines(base: BaseLayout) -> Names:
    for name, tensor in base.tensors.items():
        for prefix, folder in _TEXT_ENCODERS.items():
            if name.startswith(prefix):
                yield renamed(folder + name[len(prefix) :], name, tensor)


def respelled(weights: Mapping[str, Weight]) -> Names:
    """The two spellings of the same UNet, and of Flux: Stability's and Black Forest Labs', and diffusers'."""
    deep = any(".down_blocks.3." in f".{name}" or ".output_blocks.11." in f".{name}" for name in weights)
    for name, weight in weights.items():
        component, _, rest = name.partition(".")
        if component in ("unet", "transformer"):
            prefix = f"{component}."
        else:
            prefix, rest = "", name
        for other in _unet_spellings(rest, _SPELLINGS[deep]):
            yield Weight(prefix + other, weight.shape, weight.dtype, weight.places)
    yield from _flux_originals(weights)


# --- Stable Diffusion XL: diffusers <-> Stability ---------------------------------------------------------------------

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
)


def _unet_blocks(*, deep: bool) -> Iterator[tuple[str, str]]:
    """(diffusers, Stability) of every block: the table of kohya-ss/sd-scripts `make_unet_conversion_map`.

    SDXL has three levels, Stable Diffusion 1 and 2 (`deep`) have four.
    """
    levels = 4 if deep else 3
    plain_down, plain_up = ((3,), (0,)) if deep else ((0,), (2,))
    for level in range(levels):
        for layer in range(2):
            place = f"input_blocks.{3 * level + layer + 1}"
            yield f"down_blocks.{level}.resnets.{layer}.", f"{place}.0."
            if level not in plain_down:
                yield f"down_blocks.{level}.attentions.{layer}.", f"{place}.1."
        for layer in range(3):
            place = f"output_blocks.{3 * level + layer}"
            yield f"up_blocks.{level}.resnets.{layer}.", f"{place}.0."
            if level not in plain_up:
                yield f"up_blocks.{level}.attentions.{layer}.", f"{place}.1."
        if level < levels - 1:
            yield f"down_blocks.{level}.downsamplers.0.conv.", f"input_blocks.{3 * (level + 1)}.0.op."
            inner = 1 if level in plain_up else 2
            yield f"up_blocks.{level}.upsamplers.0.", f"output_blocks.{3 * level + 2}.{inner}."
    yield "mid_block.attentions.0.", "middle_block.1."
    yield "mid_block.resnets.0.", "middle_block.0."
    yield "mid_block.resnets.1.", "middle_block.2."
    yield "conv_in.", "input_blocks.0.0."
    yield "conv_norm_out.", "out.0."
    yield "conv_out.", "out.2."
    yield "time_embedding.linear_1.", "time_embed.0."
    yield "time_embedding.linear_2.", "time_embed.2."
    yield "add_embedding.linear_1.", "label_emb.0.0."
    yield "add_embedding.linear_2.", "label_emb.0.2."


_SPELLINGS = {deep: tuple(_unet_blocks(deep=deep)) for deep in (False, True)}
_UNET_HEADS = frozenset(
    "down_blocks up_blocks mid_block conv_in conv_norm_out conv_out time_embedding add_embedding "
    "input_blocks output_blocks middle_block out time_embed label_emb".split()
)


def _unet_spellings(name: str, table: Iterable[tuple[str, str]]) -> Iterator[str]:
    if name.partition(".")[0] not in _UNET_HEADS:
        return
    for ours, theirs in table:
        if name.startswith(ours):
            yield theirs + _inner(name[len(ours) :], ours)
        elif name.startswith(theirs):
            yield ours + _inner(name[len(theirs) :], ours)


def _inner(rest: str, block: str) -> str:
    """Inside a residual block the two differ once more."""
    if "resnets" not in block:
        return rest
    for ours, theirs in _RESNET:
        if rest.startswith(f"{ours}."):
            return theirs + rest[len(ours) :]
        if rest.startswith(f"{theirs}."):
            return ours + rest[len(theirs) :]
    return rest


# --- Flux: Black Forest Labs' names over diffusers' layout ------------------------------------------------------------

_FLUX_DOUBLE = (
    ("img_attn.proj", ("attn.to_out.0",)),
    ("img_attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    ("img_mlp.0", ("ff.net.0.proj",)),
    ("img_mlp.2", ("ff.net.2",)),
    ("img_mod.lin", ("norm1.linear",)),
    ("txt_attn.proj", ("attn.to_add_out",)),
    ("txt_attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
    ("txt_mlp.0", ("ff_context.net.0.proj",)),
    ("txt_mlp.2", ("ff_context.net.2",)),
    ("txt_mod.lin", ("norm1_context.linear",)),
)
_FLUX_SINGLE = (
    ("linear1", ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
    ("linear2", ("proj_out",)),
    ("modulation.lin", ("norm.linear",)),
)
_FLUX_OUTER = (
    ("img_in", ("x_embedder",)),
    ("txt_in", ("context_embedder",)),
    ("time_in.in_layer", ("time_text_embed.timestep_embedder.linear_1",)),
    ("time_in.out_layer", ("time_text_embed.timestep_embedder.linear_2",)),
    ("vector_in.in_layer", ("time_text_embed.text_embedder.linear_1",)),
    ("vector_in.out_layer", ("time_text_embed.text_embedder.linear_2",)),
    ("guidance_in.in_layer", ("time_text_embed.guidance_embedder.linear_1",)),
    ("guidance_in.out_layer", ("time_text_embed.guidance_embedder.linear_2",)),
    ("final_layer.linear", ("proj_out",)),
)


def _flux_originals(weights: Mapping[str, Weight]) -> Names:
    """Diffusers splits what the original fuses: the rows of `img_attn.qkv` are to_q, to_k, to_v, in this order
    (diffusers `lora_conversion_utils`).
    """
    for prefix in ("transformer.", ""):
        if not any(name.startswith(f"{prefix}single_transformer_blocks.") for name in weights):
            continue
        for number in _block_numbers(weights, f"{prefix}transformer_blocks."):
            yield from _fused(
                weights, prefix, f"double_blocks.{number}.", f"{prefix}transformer_blocks.{number}.", _FLUX_DOUBLE
            )
        for number in _block_numbers(weights, f"{prefix}single_transformer_blocks."):
            yield from _fused(
                weights,
                prefix,
                f"single_blocks.{number}.",
                f"{prefix}single_transformer_blocks.{number}.",
                _FLUX_SINGLE,
            )
        yield from _fused(weights, prefix, "", prefix, _FLUX_OUTER)


def _block_numbers(weights: Mapping[str, Weight], prefix: str) -> list[int]:
    numbers = {name[len(prefix) :].partition(".")[0] for name in weights if name.startswith(prefix)}
    return sorted(int(number) for number in numbers if number.isdecimal())


def _fused(
    weights: Mapping[str, Weight],
    prefix: str,
    block: str,
    owner: str,
    table: Iterable[tuple[str, tuple[str, ...]]],
) -> Names:
    for theirs, ours in table:
        for parameter in ("weight", "bias"):
            parts = [weights.get(f"{owner}{name}.{parameter}") for name in ours]
            if all(parts):
                yield _joined(f"{prefix}{block}{theirs}.{parameter}", [part for part in parts if part])


def _joined(name: str, parts: list[Weight]) -> Weight:
    start, places = 0, []
    for part in parts:
        stop = start + part.shape[0]
        places.append(WeightPlace(part.places[0].tensor, (start, stop) if len(parts) > 1 else None))
        start = stop
    return Weight(name, (start, *parts[0].shape[1:]), parts[0].dtype, tuple(places))


# --- folded names -----------------------------------------------------------------------------------------------------

_FOLDERS = {
    "unet": ("lora_unet_", "lycoris_"),
    "transformer": ("lora_unet_", "lora_transformer_", "lycoris_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}


def folding(module: str, *, is_pipeline: bool) -> Iterator[tuple[str, str]]:
    """(prefix of kohya's, rest of the name) for a module of a pipeline; of a single part, `lora_unet_`."""
    component, _, rest = module.partition(".")
    if component in _FOLDERS and rest:
        for prefix in _FOLDERS[component]:
            yield prefix, rest
    if not is_pipeline:
        yield "lora_unet_", module
        yield "lycoris_", module
