"""diffusers' LoRA files, and all that are written like them: one file for a pipeline, names with dots that begin with
the part (`unet.`, `transformer.`, …), and the settings of PEFT in the header under `lora_adapter_metadata`.

Other programs write the denoiser's names under a prefix of their own, or none, and in its authors' words
(`diffusion_model.double_blocks…`): the base's dictionary knows them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim, Part, PartKind
from lorahub.adapters.findings import Evidence
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.image import (
    ending_of,
    grouped,
    make_updates,
    may_be_flat,
    method_of,
    role_of,
    without_embeddings,
)
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.peft_settings import PeftSettings
from lorahub.adapters.formats.reading import Reading
from lorahub.adapters.names.image import PARTS, UNET_BLOCKS
from lorahub.adapters.names.image_families import families_with
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidAdapterConfig

_PREFIXES = {
    "diffusion_model.llm_adapter.": "text_conditioner.",
    "text_embedding_projection.": "connectors.",
    "text_encoders.clip_l.transformer.": "text_encoder.",
    "text_encoders.clip_g.transformer.": "text_encoder_2.",
    "model.diffusion_model.": "",
    "diffusion_model.": "",
    "conditional_transformer.": "",
    "net.": "",
}
"""What programs write before a module -> the part; of the denoiser, nothing."""
_WRAPPER = "base_model.model."
_OTHERS = ("text_encoders.t5xxl.transformer.",)
"""Parts whose folder in the pipeline depends on the model."""

_LIKE_LANGUAGE = frozenset({"AceStepTransformer1DModel", "CLIPTextModel", "Cosmos3OmniTransformer"})
"""Classes whose blocks are named like those of language models, whose adapters have PEFT's settings beside them."""

_ROWS_BY_HEAD = re.compile(r"(?:token_refiner\.)?blocks\.\d+\.attn\.qkv_proj\.lora_[AB]\.default\.weight")

_OLD_PROJECTIONS = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
_OLD_ENDINGS = {"down.weight": "lora.down.weight", "up.weight": "lora.up.weight"}
_NORMS = ("norm_q.weight", "norm_k.weight", "norm_added_q.weight", "norm_added_k.weight")
_NORM_SCALES = ("query_norm.scale", "key_norm.scale")


def is_diffusers(opened: Opened) -> bool:
    return any(_is_of_a_part(name) or _is_of_a_family(name) for name in opened.names)


def _is_of_a_part(name: str) -> bool:
    heads = (*(f"{part}." for part in PARTS), *_PREFIXES, *_OTHERS)
    return name.startswith(heads) and _split(name) is not None


def _is_of_a_family(name: str) -> bool:
    """Without a prefix, the module tells."""
    split = _split(name)
    return split is not None and bool(families_with([split[0].partition(".")[2]], authors=True) - _LIKE_LANGUAGE)


def read_diffusers(opened: Opened) -> Adapter:
    """A module without an alpha, in a tensor or in the header, has a scale of 1."""
    reading, metadata = Reading(), opened.metadata
    denoiser = _denoiser(opened.names)
    alphas = {_module(module, denoiser): value for module, value in opened.alphas().items()}
    groups = grouped(_found(opened.entries, denoiser, reading), reading)
    stated = _settings(metadata, reading)
    for module, tensors in groups.items():
        make_updates(module, tensors, reading, partial(_scale, module, stated, alphas))
    _check_ranks(reading, stated)
    _check_order(opened.names, reading)
    reading.close()
    return Adapter(
        format="diffusers",
        method=method_of(reading.updates),
        updates=tuple(reading.updates),
        parts=tuple(reading.parts),
        claim=BaseClaim(metadata.get("base_model") or None),
        findings=tuple(reading.findings),
        weights_file=opened.path,
        dtypes=methods.count_elements(opened.entries),
    )


def _check_order(names: Iterable[str], reading: Reading) -> None:
    """DiffSynth trains MiniMax-H3 on its published shards, whose fused rows are in the order of heads."""
    by_head = [name for name in names if _ROWS_BY_HEAD.fullmatch(name)]
    if by_head:
        told = f"{len(by_head)} fused layers have their rows head by head, first {by_head[0]}"
        reading.add("LH306", told, (Evidence(name) for name in by_head))


def _denoiser(names: Iterable[str]) -> str:
    """What the pipeline calls the part whose names stand alone."""
    return "unet" if any(not UNET_BLOCKS.isdisjoint(name.split(".")[:4]) for name in names) else "transformer"


def _found(entries: Iterable[TensorEntry], denoiser: str, reading: Reading) -> Iterator[tuple[str, str, TensorEntry]]:
    """(module, role, tensor)."""
    kept = without_embeddings(entries, reading)
    for entry in methods.check_entries(kept, reading, allow_flat=_may_be_flat):
        split = _split(entry.name, denoiser)
        if split is not None:
            yield split[0], role_of(entry, split[1]), entry
        elif entry.name.endswith((*_NORMS, *_NORM_SCALES)):
            owner, _, parameter = entry.name.rpartition(".")
            module = _module(owner, denoiser)
            reading.parts.append(Part(PartKind.REPLACEMENT, module, {"weight": entry}, entry.shape, parameter))
        else:
            reading.unknown.append(entry)


def _may_be_flat(name: str) -> bool:
    found = ending_of(name)
    return may_be_flat(found[1]) if found else name.endswith((*_NORMS, *_NORM_SCALES))


def _split(name: str, denoiser: str = "transformer") -> tuple[str, str] | None:
    """(module, end of the name)."""
    found = ending_of(name)
    if found is None:
        owner, _, ending = name.rpartition(".")
        owner, _, way = owner.rpartition(".")
        leaf = owner.rpartition(".")[2]
        if f"{way}.{ending}" not in _OLD_ENDINGS or not (leaf in _OLD_PROJECTIONS or ".processor." in owner):
            return None
        found = owner, _OLD_ENDINGS[f"{way}.{ending}"]
    return _module(found[0], denoiser), found[1]


def _module(path: str, denoiser: str) -> str:
    """`unet.….attn1.processor.to_q_lora` is `unet.….attn1.to_q`; `diffusion_model.` is the denoiser."""
    path = path.removeprefix(_WRAPPER)
    for prefix, part in _PREFIXES.items():
        if path.startswith(prefix):
            path = part + path[len(prefix) :]
            break
    component, _, rest = path.partition(".")
    if component in PARTS:
        path = f"{component}.{rest.removeprefix(_WRAPPER)}"
    elif not path.startswith(_OTHERS):
        path = f"{denoiser}.{path}"
    owner, _, leaf = path.rpartition(".")
    if leaf in _OLD_PROJECTIONS:
        return f"{owner.removesuffix('.processor')}.{_OLD_PROJECTIONS[leaf]}"
    return path


def _settings(metadata: Mapping[str, str], reading: Reading) -> dict[str, PeftSettings]:
    """PEFT's settings of each part: `lora_adapter_metadata` has them as `unet.r`, `unet.lora_alpha`, …"""
    raw = metadata.get("lora_adapter_metadata")
    if not raw:
        return {}
    try:
        value = parse_json(raw.encode(), error=InvalidAdapterConfig)
    except InvalidAdapterConfig as error:
        reading.add("LH305", f"lora_adapter_metadata: {error.message}", [Evidence("lora_adapter_metadata")])
        return {}
    parts: dict[str, dict[str, Any]] = {}
    for key, setting in value.items() if isinstance(value, dict) else ():
        component, _, name = key.partition(".")
        parts.setdefault(component, {})[name] = setting
    return {component: PeftSettings(settings) for component, settings in parts.items()}


def _scale(module: str, stated: Mapping[str, PeftSettings], alphas: Mapping[str, float], rank: int) -> float:
    component, _, inner = module.partition(".")
    if module in alphas:
        return alphas[module] / rank
    return stated[component].scale(inner, rank) if component in stated else 1.0


def _check_ranks(reading: Reading, stated: Mapping[str, PeftSettings]) -> None:
    wrong = []
    for update in reading.updates:
        component, _, inner = update.module.partition(".")
        expected = stated[component].rank_of(inner) if component in stated else update.rank
        if update.rank != expected:
            wrong.append(Evidence(update.module, str(update.rank), f"{expected:g}"))
    if wrong:
        reading.add(
            "LH203",
            f"{len(wrong)} modules have another rank than lora_adapter_metadata says, first {wrong[0].name}: "
            f"{wrong[0].found} instead of {wrong[0].expected}",
            wrong,
        )
