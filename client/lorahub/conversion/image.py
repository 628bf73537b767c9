"""Image models: diffusers' files, `<part>.<module>.lora_A.weight`, and kohya's, `lora_unet_<module with underscores>`.

Between them stand the base's own names: each module is looked up among them, and written as diffusers calls what lies
there. A layer over a matrix that diffusers keeps in pieces (Flux's `img_attn.qkv`) becomes one layer a piece: `down` as
it is, the piece's rows of `up`; where a layer is for some rows of a matrix of diffusers', the others get zeros.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.names.image import DENOISERS, PARTS, UNET_BLOCKS, diffusers_names
from lorahub.adapters.names.image_families import families_with
from lorahub.adapters.names.weight import Weight, WeightPlace
from lorahub.conversion.arrays import Array, Raw, number, write_json, write_safetensors
from lorahub.conversion.lora import Layer, LoraAdapter, as_written, refuse_layers
from lorahub.conversion.peft import factors, lora_settings
from lorahub.errors import NotConvertible

WEIGHTS = "pytorch_lora_weights.safetensors"
KOHYA_WEIGHTS = "lora.safetensors"

_CLIP = ("text_encoder", "text_encoder_2")


# --- names ------------------------------------------------------------------------------------------------------------


def place(lora: LoraAdapter, base: BaseLayout | None) -> LoraAdapter:
    """Every layer under diffusers' name of its module, part first. Raises `NotConvertible`."""
    if base is not None and base.is_language_model:
        raise NotConvertible(
            f"the base is a language model, {str(base.architecture)[:60]}", hint="these files are for image models"
        )
    layers = tuple(_by_form(lora) if base is None else _looked_up(lora, BaseNames(base)))
    names = [layer.module for layer in layers]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice:
        raise NotConvertible(f"two layers are for {twice}", hint="the names of two trainers are mixed in this file")
    return replace(lora, layers=layers, naming=Naming.DOTTED, of_pipeline=True)


def _by_form(lora: LoraAdapter) -> Iterator[Layer]:
    """Without a base: names that are diffusers' for one of its models, all of them together."""
    parts: dict[str, list[str]] = {}
    for layer in lora.layers:
        part, _, rest = layer.module.partition(".")
        parts.setdefault(part if part in PARTS and rest else "", []).append(layer.module)
    owners = {part: _owner(part, modules) if lora.naming is Naming.DOTTED else None for part, modules in parts.items()}
    for layer in lora.layers:
        part, _, rest = layer.module.partition(".")
        owner = owners[part if part in PARTS and rest else ""]
        if owner is None:
            raise NotConvertible(
                f"{layer.module} can't be named without the base: diffusers has no such name",
                hint="name the base: its own names say which module this is",
            )
        yield layer if owner == part else replace(layer, module=f"{owner}.{layer.module}")


def _owner(part: str, modules: Sequence[str]) -> str | None:
    """The part of a pipeline that has these modules; None where none is known to."""
    if part and part not in DENOISERS:
        return part
    inner = [module.removeprefix(f"{part}.") for module in modules]
    if not families_with(inner, authors=False):
        return None
    return part or ("unet" if any(name.partition(".")[0] in UNET_BLOCKS for name in inner) else "transformer")


def _looked_up(lora: LoraAdapter, names: BaseNames) -> Iterator[Layer]:
    resolved = names.resolve([layer.module for layer in lora.layers], lora.naming).modules
    found = {layer.module: names.find(resolved.get(layer.module, ""), ("weight",)) for layer in lora.layers}
    absent = [module for module, weight in found.items() if weight is None]
    if absent:
        raise NotConvertible(
            f"{len(absent)} modules aren't in the base, first {absent[0]}",
            hint="name the base that the adapter was trained on, as a diffusers pipeline",
        )
    own = _OwnNames(diffusers_names(names.weights, names.base.config))
    for layer in lora.layers:
        weight = found[layer.module]
        assert weight is not None  # or it were absent
        yield from own.layers(layer, weight)


class _OwnNames:
    """Which rows of which tensor diffusers calls what."""

    def __init__(self, weights: Iterable[Weight]) -> None:
        self._by_tensor: dict[str, list[tuple[Weight, WeightPlace]]] = {}
        for weight in weights:
            for piece in weight.places:
                self._by_tensor.setdefault(piece.tensor, []).append((weight, piece))

    def layers(self, layer: Layer, weight: Weight) -> Iterator[Layer]:
        """A layer for the weight, as one for each weight of diffusers' that has rows of it."""
        found: dict[str, list[tuple[int, int, int]]] = {}
        heights: dict[str, int] = {}
        for piece in weight.places:
            if piece.expert is not None or piece.tensor not in self._by_tensor:
                raise NotConvertible(
                    f"the base calls it {piece.tensor}: that is no name of diffusers",
                    hint="name the base in the form of a diffusers pipeline",
                )
            for own, there in self._by_tensor[piece.tensor]:
                shared = _shared(_extent(weight, piece), _extent(own, there))
                if shared is not None:
                    module = own.name.removesuffix(".weight")
                    heights[module] = own.shape[0]
                    found.setdefault(module, []).append(shared)
        for module, rows in found.items():
            yield _cut(layer, module, sorted(rows, key=lambda one: one[1]), heights[module])


_Extent = tuple[int, int, int]
"""Rows [start, stop) of a tensor, and which row of the weight is their first."""


def _extent(weight: Weight, piece: WeightPlace) -> _Extent:
    first, last = piece.rows or (0, weight.shape[0])
    at = piece.part.rows[0] if piece.part is not None and piece.part.rows is not None else 0
    return at, at + last - first, first


def _shared(one: _Extent, two: _Extent) -> tuple[int, int, int] | None:
    """(first row of `one`'s weight, first of `two`'s, how many) of the rows that both have."""
    start, stop = max(one[0], two[0]), min(one[1], two[1])
    return (one[2] + start - one[0], two[2] + start - two[0], stop - start) if start < stop else None


def _cut(layer: Layer, module: str, rows: list[tuple[int, int, int]], height: int) -> Layer:
    """`rows` are (row of the layer's, row of the module's, how many)."""
    if layer.is_embedding or (rows == [(0, 0, height)] and layer.up.shape[0] == height):
        return replace(layer, module=module)
    if layer.magnitude is not None and sum(count for _, _, count in rows) != height:
        raise NotConvertible(
            f"{layer.module} is DoRA for some rows of {module}, which has one magnitude for each",
            hint="merge it into its base",
        )

    def cut(array: Array | None) -> Array | None:
        return None if array is None else array.gathered(rows, height)

    up = layer.up.gathered(rows, height)
    return replace(layer, module=module, up=up, magnitude=cut(layer.magnitude), up_bias=cut(layer.up_bias))


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
