"""Image models: diffusers' files, `<part>.<module>.lora_A.weight`, and kohya's, `lora_unet_<module with underscores>`.

Between them stand the base's own names: a folded name is looked up among them, never split. A layer over a matrix that
the base keeps in pieces (Flux's `img_attn.qkv`) becomes one layer a piece: `down` as it is, the piece's rows of `up`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.formats.diffusers import COMPONENTS
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.names.weight import WeightPlace
from lorahub.conversion.arrays import Array, Raw, number, write_json, write_safetensors
from lorahub.conversion.lora import Layer, LoraAdapter, as_written, refuse_layers
from lorahub.conversion.peft import factors, lora_settings
from lorahub.errors import NotConvertible

WEIGHTS = "pytorch_lora_weights.safetensors"
KOHYA_WEIGHTS = "lora.safetensors"

_UNET = frozenset(
    "down_blocks up_blocks mid_block conv_in conv_out time_embedding add_embedding encoder_hid_proj".split()
)
_TRANSFORMER = frozenset("transformer_blocks single_transformer_blocks x_embedder context_embedder".split())
_ORIGINAL = frozenset(
    "input_blocks output_blocks middle_block out time_embed label_emb double_blocks single_blocks joint_blocks "
    "img_in txt_in time_in vector_in guidance_in final_layer h wte".split()
)
"""Heads of Stability's and Black Forest Labs' names, and of GPT-2's, which has a part called `transformer` too."""
_CLIP = ("text_encoder", "text_encoder_2")


# --- names ------------------------------------------------------------------------------------------------------------


def place(lora: LoraAdapter, base: BaseLayout | None) -> LoraAdapter:
    """Every layer under diffusers' name of its module, part first. Raises `NotConvertible`."""
    layers = tuple(_located(lora.layers, lora.naming, base))
    names = [layer.module for layer in layers]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice:
        raise NotConvertible(f"two layers are for {twice}", hint="the names of two trainers are mixed in this file")
    return replace(lora, layers=layers, naming=Naming.DOTTED, of_pipeline=True)


def _located(layers: Iterable[Layer], naming: Naming, base: BaseLayout | None) -> Iterator[Layer]:
    unknown: list[Layer] = []
    for layer in layers:
        module = _diffusers_name(layer.module) if naming is Naming.DOTTED else None
        if module is None:
            unknown.append(layer)
        else:
            yield replace(layer, module=module)
    if not unknown:
        return
    if base is None:
        raise NotConvertible(
            f"{unknown[0].module} can't be named without the base",
            hint="name the base: its own names say which module this is",
        )
    yield from _looked_up(unknown, naming, BaseNames(base))


def _looked_up(layers: list[Layer], naming: Naming, names: BaseNames) -> Iterator[Layer]:
    resolved = names.resolve([layer.module for layer in layers], naming).modules
    absent = [layer.module for layer in layers if (resolved.get(layer.module) or _flat(layer.module, names)) is None]
    if absent:
        raise NotConvertible(
            f"{len(absent)} modules aren't in the base, first {absent[0]}",
            hint="name the base that the adapter was trained on, as a diffusers pipeline",
        )
    for layer in layers:
        weight = names.find(resolved.get(layer.module) or _flat(layer.module, names) or "", ("weight",))
        if weight is None:
            raise NotConvertible(f"{layer.module} has no weight in the base", hint="name another base")
        for piece in weight.places:
            yield _piece(layer, piece)


def _flat(module: str, names: BaseNames) -> str | None:
    """CLIP is saved by transformers 5 without `text_model` around it; kohya's names have it."""
    return names.folded.get(module.replace("_text_model_", "_", 1))


def _piece(layer: Layer, piece: WeightPlace) -> Layer:
    """The part of a layer that falls on one tensor of the base: up[start:stop], and as much of what belongs to up."""
    module = _diffusers_name(piece.tensor.removesuffix(".weight"))
    if module is None or piece.expert is not None:
        raise NotConvertible(
            f"the base calls it {piece.tensor}: that is no name of diffusers",
            hint="name the base in the form of a diffusers pipeline",
        )
    if piece.rows is None:
        return replace(layer, module=module)
    beside = {"magnitude": layer.magnitude, "up_bias": layer.up_bias}
    cut = {name: None if array is None else array.rows(*piece.rows) for name, array in beside.items()}
    return replace(layer, module=module, up=layer.up.rows(*piece.rows), **cut)  # type: ignore[arg-type]


def _diffusers_name(module: str) -> str | None:
    """With its part: of a model alone, told by its first name. None where it is no name of diffusers.

    >>> _diffusers_name("down_blocks.0.attentions.0.proj_in"), _diffusers_name("unet.input_blocks.1.1.proj_in")
    ('unet.down_blocks.0.attentions.0.proj_in', None)
    """
    part, _, rest = module.partition(".")
    if part in COMPONENTS and rest:
        return None if rest.partition(".")[0] in _ORIGINAL else module
    for heads, owner in ((_UNET, "unet"), (_TRANSFORMER, "transformer")):
        if part in heads:
            return f"{owner}.{module}"
    return None


def _with_text_model(module: str) -> str:
    """CLIP's modules as all but transformers 5 name them: `text_encoder.text_model.encoder…`."""
    part, _, rest = module.partition(".")
    return f"{part}.text_model.{rest}" if part in _CLIP and rest.startswith("encoder.layers.") else module


# --- diffusers --------------------------------------------------------------------------------------------------------


def write_diffusers(lora: LoraAdapter, _base: BaseLayout | None) -> dict[str, bytes]:
    """One file; ranks and scales of each part in the header's `lora_adapter_metadata`, as diffusers 0.35 and later
    write and read them.
    """
    refuse_layers(lora, "diffusers", dora=True, up_bias=True, conv=True)
    tensors: dict[str, Array | Raw] = {}
    parts: dict[str, list[Layer]] = {}
    for layer in lora.layers:
        module = _with_text_model(layer.module)
        tensors |= {f"{module}.{name}": array for name, array in factors(layer)}
        part, _, rest = module.partition(".")
        # diffusers takes `text_model.` off the tensors' names on transformers 5, but not off these
        parts.setdefault(part, []).append(replace(layer, module=rest.removeprefix("text_model.")))
    settings = {
        f"{part}.{name}": value
        for part, layers in sorted(parts.items())
        for name, value in lora_settings(layers, targets=sorted(layer.module for layer in layers)).items()
    }
    metadata = {"format": "pt", "lora_adapter_metadata": write_json(settings).decode().strip()}
    if lora.base_name:
        metadata["base_model"] = lora.base_name
    return {WEIGHTS: write_safetensors(tensors, metadata)}


# --- kohya ------------------------------------------------------------------------------------------------------------


def write_kohya(lora: LoraAdapter, base: BaseLayout | None) -> dict[str, bytes]:
    """One file; the alpha of each module = scale · rank, a number of its own. Names are diffusers', folded."""
    refuse_layers(lora, "kohya", dora=True, conv=True)
    prefixes = _prefixes(lora, base)
    tensors: dict[str, Array | Raw] = {}
    for layer in lora.layers:
        name = _folded(layer.module, prefixes)
        if f"{name}.alpha" in tensors:
            raise NotConvertible(f"two modules fold to {name}", hint="kohya's format can't tell them apart")
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = layer.up
        tensors[f"{name}.alpha"] = number(layer.alpha)
        if layer.magnitude is not None:
            tensors[f"{name}.dora_scale"] = layer.magnitude.reshaped(-1, *[1] * (len(layer.down.shape) - 1))
    metadata = {
        "ss_network_alpha": _stated({layer.alpha for layer in lora.layers}),
        "ss_network_dim": _stated({layer.rank for layer in lora.layers}),
        "ss_network_module": "networks.lora",
        **({"ss_sd_model_name": lora.base_name} if lora.base_name else {}),
    }
    return {KOHYA_WEIGHTS: write_safetensors(tensors, metadata)}


def _prefixes(lora: LoraAdapter, base: BaseLayout | None) -> dict[str, str]:
    """Stable Diffusion XL has two text encoders, te1 and te2; others have one, te."""
    parts = {layer.module.partition(".")[0] for layer in lora.layers}
    parts |= {name.partition(".")[0] for name in base.tensors} if base is not None else set()
    first = "lora_te1_" if "text_encoder_2" in parts else "lora_te_"
    return {"unet": "lora_unet_", "text_encoder": first, "text_encoder_2": "lora_te2_"}


def _folded(module: str, prefixes: dict[str, str]) -> str:
    part, _, rest = _with_text_model(module).partition(".")
    if part not in prefixes:
        raise NotConvertible(
            f"{module}: kohya's names of a {part} are its authors', with fused matrices",
            hint="convert to diffusers, which every runtime of this model reads",
        )
    return prefixes[part] + rest.replace(".", "_")


def _stated(values: set[float]) -> str:
    return f"{as_written(next(iter(values))):g}" if len(values) == 1 else "Dynamic"
