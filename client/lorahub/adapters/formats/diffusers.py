"""diffusers' LoRA files: one file for a pipeline, names that begin with the part (`unet.`, `transformer.`, …), and the
settings of PEFT in the header under `lora_adapter_metadata`. Files of diffusion transformers with the original's own
names (`diffusion_model.…`) are read too; the base's dictionary knows them.
"""

from collections.abc import Mapping
from typing import Any

from lorahub.adapters.adapter import Adapter, BaseClaim, Update
from lorahub.adapters.findings import Evidence
from lorahub.adapters.formats import reading as methods
from lorahub.adapters.formats.opened import Opened
from lorahub.adapters.formats.peft_settings import PeftSettings
from lorahub.adapters.formats.reading import Reading, Tensors
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidAdapterConfig

COMPONENTS = ("unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "controlnet")
_ORIGINAL = ("diffusion_model",)

_ROLES = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "lora_B.bias": "up_bias",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "dora_scale": "magnitude",
    "alpha": "alpha",
}
_OLD_PROJECTIONS = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
_FLAT = ("alpha", "lora_B.bias", "lora_magnitude_vector", "lora_magnitude_vector.weight", "dora_scale")


def is_diffusers(opened: Opened) -> bool:
    heads = (*COMPONENTS, *_ORIGINAL)
    return any(name.partition(".")[0] in heads and _split(name) is not None for name in opened.names)


def read_diffusers(opened: Opened) -> Adapter:
    """A module without an alpha, in a tensor or in the header, has a scale of 1."""
    reading, metadata = Reading(), opened.metadata
    alphas = {_module(module): value for module, value in opened.alphas().items()}
    groups: dict[str, dict[str, TensorEntry]] = {}
    for entry in methods.check_entries(opened.entries, reading, allow_flat=lambda name: name.endswith(_FLAT)):
        found = _split(entry.name)
        if found is None:
            reading.unknown.append(entry)
        else:
            role = methods.magnitude_role(entry) if entry.name.endswith(".dora_scale") else found[1]
            groups.setdefault(found[0], {})[role] = entry
    stated = _settings(metadata, reading)
    for module, tensors in groups.items():
        _make(module, tensors, reading, stated, alphas)
    _check_ranks(reading, stated)
    reading.close()
    return Adapter(
        format="diffusers",
        method="lora",
        updates=tuple(reading.updates),
        claim=BaseClaim(metadata.get("base_model") or None),
        findings=tuple(reading.findings),
        weights_file=opened.path,
        dtypes=methods.count_elements(opened.entries),
    )


def _split(name: str) -> tuple[str, str] | None:
    """(module, role)."""
    for ending, role in _ROLES.items():
        if name.endswith(f".{ending}"):
            module = name[: -len(ending) - 1]
            return _module(module), role
    for old in _OLD_PROJECTIONS:
        for direction, role in (("down", "down"), ("up", "up")):
            if name.endswith(f".{old}.{direction}.weight"):
                return _module(name.removesuffix(f".{direction}.weight")), role
    return None


def _module(path: str) -> str:
    """`unet.….attn1.processor.to_q_lora` is `unet.….attn1.to_q`; `diffusion_model.` is the transformer."""
    component, _, rest = path.partition(".")
    if component in _ORIGINAL:
        path = f"transformer.{rest}"
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


def _make(
    module: str,
    tensors: Tensors,
    reading: Reading,
    stated: Mapping[str, PeftSettings],
    alphas: Mapping[str, float],
) -> None:
    component, _, inner = module.partition(".")
    settings = stated.get(component)

    def scale(rank: int) -> float:
        if module in alphas:
            return alphas[module] / rank
        return settings.scale(inner, rank) if settings is not None else 1.0

    update: Update | None = methods.low_rank(module, tensors, reading, scale=scale)
    if update is not None:
        reading.updates.append(update)


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
