"""Image and video models: every spelling of the names of their parts."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.names.image_families import canonical, families, families_with, family_of, translated
from lorahub.adapters.names.weight import Names, TensorPart, Weight, renamed

DENOISERS = ("transformer", "transformer_2", "transformer_ref", "unet", "prior")
"""Folders of a pipeline that hold what LoRA is mostly for."""
PARTS = (
    *DENOISERS,
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "text_encoder_4",
    "text_conditioner",
    "connectors",
    "controlnet",
)
"""Folders of a pipeline that adapters are for."""
UNET_BLOCKS = frozenset("down_blocks up_blocks mid_block input_blocks output_blocks middle_block".split())

_TEXT_ENCODERS = {
    "cond_stage_model.transformer.": "text_encoder.",
    "cond_stage_model.model.": "text_encoder.",
    "conditioner.embedders.0.transformer.": "text_encoder.",
    "conditioner.embedders.1.model.": "text_encoder_2.",
    "text_encoders.clip_l.transformer.": "text_encoder.",
    "text_encoders.clip_g.transformer.": "text_encoder_2.",
    "text_encoders.t5xxl.transformer.": "text_encoder_2.",
}
_SINGLE_FILES = ("model.diffusion_model.", "diffusion_model.", "net.", "")
"""What stands before a denoiser's names in files of its own; in one with all parts, the first."""


def single_file_pipelines(base: BaseLayout) -> Names:
    """The text encoders of single-file checkpoints, and a denoiser that is no folder's, as a pipeline's folders."""
    for name, tensor in base.tensors.items():
        for prefix, folder in _TEXT_ENCODERS.items():
            if name.startswith(prefix):
                yield renamed(folder + name[len(prefix) :], name, tensor)
    prefix = next((one for one in _SINGLE_FILES if any(name.startswith(one) for name in base.tensors)), "")
    if prefix == "" and any(name.startswith(tuple(f"{part}." for part in DENOISERS)) for name in base.tensors):
        return
    inner = [name for name in base.tensors if name.startswith(prefix)]
    denoiser = _denoiser_of(name[len(prefix) :] for name in inner)
    for name in inner if denoiser else ():
        yield renamed(f"{denoiser}.{name[len(prefix) :]}", name, base.tensors[name])


def _denoiser_of(names: Iterable[str]) -> str | None:
    names = list(names)
    if _is_unet(names):
        return "unet"
    return "transformer" if family_of(names) else None


def respelled(weights: Mapping[str, Weight], config: Mapping[str, Any]) -> Names:
    """The names that diffusers, the models' authors and transformers' versions have for the same weights."""
    for part, inner in _parts(weights).items():
        if part in DENOISERS:
            spelled = _of_denoiser(inner, _class_of(part, config))
        elif part.startswith("text_encoder"):
            spelled = _of_text_encoder(inner)
        elif part == "connectors":
            spelled = _of_connectors(inner)
        else:
            continue
        for rest, weight in spelled:
            yield replace(weight, name=f"{part}.{rest}")
            if part.startswith("text_encoder") and ".block." in rest:
                yield replace(weight, name=f"text_encoders.t5xxl.transformer.{rest}")


def diffusers_names(weights: Mapping[str, Weight], config: Mapping[str, Any]) -> Names:
    """The names that diffusers has for the weights of modules, the part first."""
    taken: set[tuple[str, TensorPart | None]] = set()
    for part, inner in _parts(weights).items():
        is_own = _own_names(part, inner, config)
        for rest, weight in inner.items():
            first = weight.places[0]
            if rest.endswith(".weight") and is_own(rest, weight) and (first.tensor, first.part) not in taken:
                taken.add((first.tensor, first.part))
                yield weight


def _own_names(part: str, inner: Mapping[str, Weight], config: Mapping[str, Any]) -> Callable[[str, Weight], bool]:
    if part not in DENOISERS:
        return lambda name, _: not name.startswith("transformer.resblocks.")
    if _is_unet(inner):
        return lambda name, _: name.partition(".")[0] not in _STABILITYS
    family = family_of(inner, hint=_class_of(part, config))
    if family is None:
        return lambda name, weight: weight.places[0].tensor.endswith(name)
    return lambda name, _: canonical(name.removesuffix(".weight")) in family.modules


def _parts(weights: Mapping[str, Weight]) -> dict[str, dict[str, Weight]]:
    """Folders of a pipeline -> the names in them."""
    found: dict[str, dict[str, Weight]] = {}
    for name, weight in weights.items():
        part, _, rest = name.partition(".")
        if part in PARTS:
            found.setdefault(part, {})[rest] = weight
    return found


def has_known_denoiser(weights: Mapping[str, Weight], config: Mapping[str, Any]) -> bool:
    parts = [(part, inner) for part, inner in _parts(weights).items() if part in DENOISERS]
    return any(_is_unet(inner) or family_of(inner, hint=_class_of(part, config)) is not None for part, inner in parts)


def _is_unet(names: Iterable[str]) -> bool:
    return any(name.partition(".")[0] in UNET_BLOCKS for name in names)


def _class_of(part: str, config: Mapping[str, Any]) -> str | None:
    """The class that model_index.json, or the config.json of a model alone, names."""
    named = config.get(part, config.get("_class_name"))
    last = named[-1] if isinstance(named, list) and named else named
    return last if isinstance(last, str) else None


def _of_denoiser(inner: Mapping[str, Weight], named: str | None) -> Iterator[tuple[str, Weight]]:
    if _is_unet(inner):
        deep = any(name.startswith(("down_blocks.3.", "output_blocks.11.")) for name in inner)
        for name, weight in inner.items():
            for other in _unet_spellings(name, _SPELLINGS[deep]):
                yield other, weight
        return
    family = family_of(inner, hint=named)
    if family is not None:
        yield from translated(family, inner).items()


def _of_text_encoder(inner: Mapping[str, Weight]) -> Iterator[tuple[str, Weight]]:
    """CLIP's model had `text_model.` around it, which transformers 5 leaves out when it saves; OpenCLIP has names of
    its own, with fused projections.
    """
    clip = next(family for family in families() if family.name == "CLIPTextModel")
    is_open = any(name.startswith("transformer.resblocks.") for name in inner)
    named = {**inner, **(translated(clip, inner) if is_open else {})}
    for name, weight in named.items():
        yield name, weight
        if name.startswith("text_model."):
            yield name.removeprefix("text_model."), weight
        elif name.startswith(("encoder.layers.", "embeddings.", "final_layer_norm.")):
            yield f"text_model.{name}", weight


def _of_connectors(inner: Mapping[str, Weight]) -> Iterator[tuple[str, Weight]]:
    """LTX 2's authors have another name for the projection of its text encoder's states."""
    for name, weight in inner.items():
        yield name.replace("text_proj_in", "aggregate_embed"), weight


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
_STABILITYS = frozenset("input_blocks output_blocks middle_block out time_embed label_emb".split())
_UNET_HEADS = _STABILITYS | frozenset(
    "down_blocks up_blocks mid_block conv_in conv_norm_out conv_out time_embedding add_embedding".split()
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


# --- folded names -----------------------------------------------------------------------------------------------------


def is_known(module: str, naming: Naming) -> bool:
    """Whether the module is one of an image model known here, of whichever."""
    if naming is Naming.FOLDED:
        prefix = next((prefix for prefix in _PREFIXES if module.startswith(prefix)), "")
        bare = _FOLDED_NUMBER.sub("{}", module[len(prefix) :])
        return prefix.startswith("lora_te") or bare.startswith(tuple(UNET_BLOCKS)) or bare in _folded_modules()
    part, _, rest = module.partition(".")
    inner = rest if part in PARTS else module
    is_encoder = part in PARTS and part not in DENOISERS
    return is_encoder or inner.partition(".")[0] in _UNET_HEADS or bool(families_with([inner], authors=True))


@cache
def _folded_modules() -> frozenset[str]:
    names = {module for family in families() for module in family.authors}
    return frozenset(_FOLDED_NUMBER.sub("{}", name.replace(".", "_").replace("{}", "0")) for name in names)


_FOLDED_NUMBER = re.compile(r"(?<![^_])\d+(?![^_])")
_FOLDERS = {
    "unet": ("lora_unet_", "lycoris_"),
    "transformer": ("lora_unet_", "lora_transformer_", "lycoris_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}
_PREFIXES = tuple(dict.fromkeys(prefix for prefixes in _FOLDERS.values() for prefix in prefixes))


def folding(module: str, *, is_pipeline: bool) -> Iterator[tuple[str, str]]:
    """(prefix of kohya's, rest of the name) for a module of a pipeline; of a single part, `lora_unet_`."""
    component, _, rest = module.partition(".")
    if component in _FOLDERS and rest:
        for prefix in _FOLDERS[component]:
            yield prefix, rest
        if component == "text_encoder_2" and ".block." in rest:
            yield "lora_te3_", rest  # T5, whichever place it has in the pipeline
    if not is_pipeline:
        yield "lora_unet_", module
        yield "lycoris_", module
