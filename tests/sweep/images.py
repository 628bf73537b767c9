"""One class of diffusers, one spelling of its adapters: what lorahub makes of the file, held against diffusers' own
converters.

Layouts are true ones, made on the meta device with few blocks; the base's weights are zeros that no file holds. What a
file in an author's names adds is worked out by diffusers' converter of whole checkpoints, which is given the sums up ·
down in place of the weights; and, where diffusers has a converter of adapters for the spelling, by that one too.

python -m sweep.images FluxTransformer2DModel        (from the folder tests)
"""

import importlib.util
import inspect
import json
import re
import struct
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers.loaders import lora_conversion_utils, lora_pipeline
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.pipelines.ltx2 import connectors
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from lorahub.adapters.base_model import BaseLayout, read_base
from lorahub.adapters.files import BytesFiles
from lorahub.adapters.findings import Verdict
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.reader import read_adapter
from lorahub.conversion import convert
from lorahub.errors import LorahubError
from safetensors.torch import load, save
from sweep import gate
from sweep.merges import is_merged, planned
from sweep.outcome import Outcome
from torch import nn

RANK, ALPHA, COLUMNS = 2, 1.0, 3
_MOST_MERGED = 12
"""Tensors of each trial of which rows are merged, and modules of its mutations."""
PEFT, KOHYA, DEFAULT = (
    ("lora_A.weight", "lora_B.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"),
)
Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, tuple[int, ...]]


def _tool() -> Any:
    path = Path(__file__).parents[2] / "tools/image_names.py"
    spec = importlib.util.spec_from_file_location("image_names", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules["image_names"] = module
    spec.loader.exec_module(module)
    return module


TOOL = _tool()
FAMILIES = {family.model: family for family in TOOL.FAMILIES}


def classes() -> list[str]:
    """Transformers and UNets of diffusers' that load LoRA."""
    return [
        name
        for name in TOOL.denoisers()
        if issubclass(getattr(diffusers, name), PeftAdapterMixin)
        and re.search("Transformer|UNet|UVit", name)
        and "ControlNet" not in name
    ]


# --- layouts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """A class of diffusers: all its tensors, and of the layers that LoRA is for the shape of the weight."""

    model: str
    tensors: Shapes
    layers: Shapes
    part: str


@cache
def layout(model: str) -> Layout:
    family = FAMILIES.get(model)
    return _made(model, dict(family.settings) if family else _few(model))


def _made(model: str, settings: Mapping[str, Any], part: str = "") -> Layout:
    with torch.device("meta"):
        made = _class(model)(**settings)
    tensors = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    layers = {
        name: tuple(layer.weight.shape)
        for name, layer in made.named_modules()
        if isinstance(layer, kinds) and f"{name}.weight" in tensors and getattr(layer, "groups", 1) == 1
    }
    return Layout(model, tensors, layers, part or ("unet" if "UNet" in model else "transformer"))


def _class(model: str) -> Any:
    return getattr(diffusers, model, None) or getattr(connectors, model)


def _few(model: str) -> dict[str, int]:
    """Settings for few blocks, where the class takes them."""
    signature = inspect.signature(getattr(diffusers, model).__init__).parameters
    counts = {
        name: 3
        for name, one in signature.items()
        if re.search(r"layers$|blocks$|^nlayers$", name) and isinstance(one.default, int) and one.default > 3
    }
    try:
        with torch.device("meta"):
            getattr(diffusers, model)(**counts)
    except Exception:  # noqa: BLE001  it is made of its defaults then
        return {}
    return counts


class Zeros:
    """Files of a pipeline whose tensors are all zeros."""

    def __init__(self, model: str, tensors: Shapes, *, folder: str, name: str = "model.safetensors") -> None:
        header: dict[str, Any] = {}
        end = 0
        for key, shape in tensors.items():
            size = 4 * torch.Size(shape).numel()
            header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        self.header = header
        self.path = folder + name
        self.start = 8 + len(raw)
        self._heads = {self.path: struct.pack("<Q", len(raw)) + raw}
        if folder:
            index = {"_class_name": "DiffusionPipeline", folder.rstrip("/"): ["diffusers", model]}
            self._heads["model_index.json"] = json.dumps(index).encode()
        self.sizes = {path: len(head) for path, head in self._heads.items()}
        self.sizes[self.path] += end

    def sha256(self, _: str) -> None:
        return None

    def read(self, path: str, start: int, stop: int) -> bytes:
        head = self._heads[path]
        stop = min(stop, self.sizes[path])
        return head[start:stop] + bytes(max(0, stop - max(start, len(head))))


# --- adapters ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A file, and what it adds: rows of ΔW by diffusers' name of the weight, in the first columns."""

    tensors: Tensors
    expected: Tensors
    modules: int
    base: Callable[[], Zeros] | None = None
    """Where it isn't the pipeline."""
    merged: Tensors | None = None
    """What it adds to the base's own tensors, where these aren't diffusers'."""
    theirs: Callable[[Tensors], Mapping[str, Any]] | None = None
    """diffusers' converter of adapters."""
    has_config: bool = False
    """Whether PEFT's settings lie beside it: its names alone could be a language model's."""
    layout: Layout | None = None
    """Where it isn't the class's usual one."""
    is_lora: bool = True
    """LoKr is merged, and converted to nothing else."""

    def files(self, tensors: Tensors | None = None) -> dict[str, bytes]:
        contents = {"adapter_model.safetensors": save(tensors or self.tensors)}
        if self.has_config:
            targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
            config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
            contents["adapter_config.json"] = json.dumps(config).encode()
        return contents


def factors(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Down and up, of numbers whose products and sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randint(-4, 5, (RANK, *shape[1:]), generator=generator).float() / 8
    up = torch.randint(-4, 5, (shape[0], RANK, *(1 for _ in shape[2:])), generator=generator).float() / 8
    return down, up


def product(down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """The first columns of ΔW."""
    return (scale * up.double().flatten(1) @ down.double().flatten(1)[:, :COLUMNS]).double()


def named(
    shapes: Shapes, name: Callable[[str], str], ends: tuple[str, str], *, alpha: bool = False
) -> tuple[Tensors, Tensors]:
    """(the file, what each module adds)."""
    tensors: Tensors = {}
    adds: Tensors = {}
    for seed, (module, shape) in enumerate(shapes.items()):
        down, up = factors(shape, seed)
        tensors |= {f"{name(module)}.{ends[0]}": down, f"{name(module)}.{ends[1]}": up}
        if alpha:
            tensors[f"{name(module)}.alpha"] = torch.tensor(ALPHA)
        adds[f"{module}.weight"] = product(down, up, ALPHA / RANK if alpha else 1.0)
    return tensors, adds


def folded(prefix: str) -> Callable[[str], str]:
    return lambda module: prefix + module.replace(".", "_")


def dotted(prefix: str) -> Callable[[str], str]:
    return lambda module: prefix + module


def own_trials(model: str) -> Iterator[tuple[str, Trial]]:
    """In diffusers' own names, under every prefix."""
    made = layout(model)
    spellings: dict[str, tuple[Callable[[str], str], tuple[str, str], bool]] = {
        "diffusers": (dotted(f"{made.part}."), PEFT, False),
        "diffusion_model.": (dotted("diffusion_model."), KOHYA, True),
        "no prefix": (dotted(""), DEFAULT, False),
        "base_model.model.": (dotted(f"{made.part}.base_model.model."), PEFT, False),
        "lora_unet_": (folded("lora_unet_"), KOHYA, True),
        "lycoris_": (folded("lycoris_"), KOHYA, True),
    }
    if made.part == "transformer":
        spellings["lora_transformer_"] = folded("lora_transformer_"), KOHYA, True
    for what, (name, ends, alpha) in spellings.items():
        tensors, adds = named(made.layers, name, ends, alpha=alpha)
        yield what, Trial(tensors, adds, len(made.layers))


def authors_trials(model: str) -> Iterator[tuple[str, Trial]]:
    """In the names of the model's authors; the base in diffusers' names, and in theirs."""
    made, family = layout(model), FAMILIES.get(model)
    for number, spelling in enumerate(family.spellings if family else ()):
        shapes = _authors_shapes(made, spelling)
        if not shapes:
            continue
        kind = "authors'" if number == 0 else f"authors' {number + 1}"
        if spelling.source.startswith("_convert_xlabs"):
            kind = "XLabs'"
        ways: dict[str, tuple[Callable[[str], str], tuple[str, str], bool]] = {
            f"{kind}, diffusion_model.": (dotted("diffusion_model."), PEFT, False),
            f"{kind}, no prefix": (dotted(""), KOHYA, True),
            f"{kind}, lora_unet_": (folded("lora_unet_"), KOHYA, True),
        }
        if kind == "XLabs'":
            ways = {kind: (dotted(""), ("down.weight", "up.weight"), False)}
        for what, (name, ends, alpha) in ways.items():
            tensors, adds = named(shapes, name, ends, alpha=alpha)
            yield what, Trial(tensors, _through(made, spelling, adds), len(shapes))
        if number or spelling.source.startswith("_"):
            continue  # a checkpoint has all its names in one spelling, that of the first converter
        yield from _on_authors_base(made, spelling, shapes)


def _on_authors_base(made: Layout, spelling: Any, shapes: Shapes) -> Iterator[tuple[str, Trial]]:
    whole = _authors_layout(made, spelling)

    def base() -> Zeros:
        prefixed = {f"model.diffusion_model.{name}": shape for name, shape in whole.items()}
        return Zeros(made.model, prefixed, folder="")

    tensors, adds = named(shapes, dotted("diffusion_model."), PEFT)
    merged = {f"model.diffusion_model.{name}": value for name, value in adds.items()}
    yield "authors' on a single file", Trial(tensors, _through(made, spelling, adds), len(shapes), base, merged)
    reached = _through(
        made, spelling, {f"{name}.weight": torch.ones(shape[0], COLUMNS) for name, shape in shapes.items()}
    )
    own = {name: shape for name, shape in made.layers.items() if f"{name}.weight" in reached}
    tensors, adds = named(own, dotted("transformer."), PEFT)
    yield "diffusers' on a single file", Trial(tensors, adds, len(own), base)


def _authors_shapes(made: Layout, spelling: Any) -> dict[str, tuple[int, ...]]:
    """Modules of authors' that are layers for LoRA."""
    names = list(TOOL.numbered_names(spelling))
    rows = TOOL.rows_of(spelling, names, made.tensors)
    sources = _sources(made, spelling, names, rows)
    found: dict[str, tuple[int, ...]] = {}
    for name, target in sources.items():
        module = target.removesuffix(".weight")
        if name.endswith(".weight") and module in made.layers:
            found[name.removesuffix(".weight")] = (rows[name], *made.layers[module][1:])
    return found


def _sources(made: Layout, spelling: Any, names: list[str], rows: Mapping[str, int]) -> dict[str, str]:
    """Tensor of the authors' -> one of diffusers' that has rows of it, by a number that each tensor is filled with."""
    marked = {
        spelling.prefix + name: torch.full((rows[name], 1) if name.endswith("weight") else (rows[name],), float(number))
        for number, name in enumerate(names)
    }
    found: dict[str, str] = {}
    for target, tensor in spelling.convert(marked).items():
        if tensor is not None and target in made.tensors:
            for number in tensor.flatten().unique().tolist():
                found[names[round(number)]] = target
    return found


def _authors_layout(made: Layout, spelling: Any) -> dict[str, tuple[int, ...]]:
    """All tensors of the authors' checkpoint: those that have names of their own, and those that are the same."""
    names = list(TOOL.numbered_names(spelling))
    rows = TOOL.rows_of(spelling, names, made.tensors)
    sources = _sources(made, spelling, names, rows)
    theirs = {name: (rows[name], *made.tensors[target][1:]) for name, target in sources.items()}
    identity = {name: shape for name, shape in made.tensors.items() if name not in _reached(spelling, names, rows)}
    return theirs | identity


def _reached(spelling: Any, names: list[str], rows: Mapping[str, int]) -> set[str]:
    marked = {
        spelling.prefix + name: torch.zeros((rows[name], 1) if name.endswith("weight") else (rows[name],))
        for name in names
    }
    return {target for target, tensor in spelling.convert(marked).items() if tensor is not None}


def _through(made: Layout, spelling: Any, adds: Tensors) -> Tensors:
    """What diffusers' converter makes of a checkpoint that is these sums."""
    names = list(TOOL.numbered_names(spelling))
    rows = TOOL.rows_of(spelling, names, made.tensors)
    whole = {
        spelling.prefix + name: adds.get(name, torch.zeros((rows[name], COLUMNS))).double()
        if name.endswith("weight")
        else torch.zeros(rows[name])
        for name in names
    }
    converted = spelling.convert(whole)
    return {
        name: tensor
        for name, tensor in converted.items()
        if tensor is not None and name.removesuffix(".weight") in made.layers and tensor.abs().sum() > 0
    }


# --- diffusers' converters of adapters --------------------------------------------------------------------------------


def adapter_trials(model: str) -> Iterator[tuple[str, Trial]]:
    for what, (mixin, names, ends, alpha) in _CONVERTED.get(model, {}).items():
        spelled = _spelled(model, names)
        tensors, _ = named(spelled, _name_of(what), ends, alpha=alpha)
        loader = getattr(lora_pipeline, mixin)
        yield (
            what,
            Trial(
                tensors,
                {},
                len(spelled),
                theirs=lambda state, loader=loader: loader.lora_state_dict(state),
                has_config=mixin.startswith("AceStep"),
            ),
        )


def lokr_trials(model: str) -> Iterator[tuple[str, Trial]]:
    """Kronecker products, which diffusers loads into fused layers where the authors have these."""
    for what, (mixin, names) in _LOKR.get(model, {}).items():
        spelled, name = _spelled(model, names), _name_of(what)
        tensors: Tensors = {}
        for seed, (module, shape) in enumerate(spelled.items()):
            inner, outer = factors((shape[0] // _KRON, shape[1] // _KRON), seed)
            one = torch.tensor([[1.0, 2.0], [-1.0, 0.5]]) * (seed % 3 + 1)
            tensors |= {f"{name(module)}.lokr_w1": one, f"{name(module)}.alpha": torch.tensor(ALPHA)}
            tensors |= {f"{name(module)}.lokr_w2_a": outer, f"{name(module)}.lokr_w2_b": inner}
        loader = getattr(lora_pipeline, mixin)
        yield what, Trial(tensors, {}, len(spelled), theirs=loader.lora_state_dict, is_lora=False)


def _of_lokr(state: Mapping[str, torch.Tensor], part: str) -> Tensors:
    """What diffusers' LoKr adds; a layer that it fuses is three in the pipeline."""
    found: Tensors = {}
    for key, one in state.items():
        if key.endswith(".lokr_w1"):
            module = key.removesuffix(".lokr_w1")
            other = state[f"{module}.lokr_w2_a"].double() @ state[f"{module}.lokr_w2_b"].double()[:, :COLUMNS]
            adds = torch.kron(one[:, :1].double(), other)
            owner, _, leaf = module.removeprefix(f"{part}.").rpartition(".")
            names = _FUSED.get(leaf, (leaf,))
            for name, rows in zip(names, adds.chunk(len(names)), strict=True):
                found[f"{owner}.{name}.weight" if owner else f"{name}.weight"] = rows
    return found


def unet_trials(model: str) -> Iterator[tuple[str, Trial]]:
    """Kohya's files: of SD 1 in diffusers' names, of SDXL in Stability's."""
    if model != "UNet2DConditionModel":
        return
    first = _made(model, {})
    names = {name: shape for name, shape in first.layers.items() if not name.endswith("cond_proj")}
    yield "diffusers: kohya, SD 1 lora_unet_", _of_kohya("StableDiffusionLoraLoaderMixin", first, names)
    second = _made(model, _SDXL)
    weights = BaseNames(read_base(Zeros(model, second.tensors, folder="unet/"))).weights
    stability = {
        name.removeprefix("unet.").removesuffix(".weight"): second.layers[module]
        for name, weight in weights.items()
        if name.removeprefix("unet.").startswith(_STABILITYS)
        and (module := weight.places[0].tensor.removeprefix("unet.").removesuffix(".weight")) in second.layers
        and not module.endswith("cond_proj")
    }
    yield "diffusers: kohya, SDXL lora_unet_", _of_kohya("StableDiffusionXLLoraLoaderMixin", second, stability)


def _of_kohya(mixin: str, made: Layout, names: Shapes) -> Trial:
    tensors, _ = named(names, folded("lora_unet_"), KOHYA, alpha=True)
    loader, config = getattr(lora_pipeline, mixin), SimpleNamespace(layers_per_block=2)

    def theirs(state: Tensors) -> Tensors:
        found, alphas = loader.lora_state_dict(state, unet_config=config)
        found = convert_unet_state_dict_to_peft({name.removeprefix("unet."): value for name, value in found.items()})
        (alpha,) = set(alphas.values())
        return {
            name.replace(".processor.", "."): value * (alpha / RANK if ".lora_B." in name else 1.0)
            for name, value in found.items()
        }

    return Trial(tensors, {}, len(names), theirs=theirs, layout=made)


def part_trials(model: str) -> Iterator[tuple[str, Trial]]:
    """The parts of a pipeline beside the denoiser that diffusers' converters know."""
    for what, (mixin, kind, settings, part, names, name) in _PARTS.get(model, {}).items():
        made = _made(kind, settings, part)
        spelled = {name(layer): shape for layer, shape in made.layers.items() if re.fullmatch(names, layer)}
        tensors, _ = named(spelled, _name_of(what), PEFT)

        def theirs(state: Tensors, mixin: str = mixin, part: str = part) -> Tensors:
            found = getattr(lora_pipeline, mixin).lora_state_dict(state)  # with the authors' names left in beside
            return {name: value for name, value in found.items() if name.startswith(f"{part}.")}

        yield what, Trial(tensors, {}, len(spelled), theirs=theirs, layout=made)


def flux_trials(model: str) -> Iterator[tuple[str, Trial]]:
    """Converters that ask for every block of the full model: those that the layout lacks are zeros here."""
    if model != "FluxTransformer2DModel":
        return
    for what, (convert_theirs, names, prefix) in {
        "diffusers: fal Kontext base_model.model.": (
            lora_conversion_utils._convert_fal_kontext_lora_to_diffusers,
            rf"{_FLUX_BLOCKS}|final_layer\.linear",
            "base_model.model.",
        ),
        "diffusers: BFL control none": (
            lora_conversion_utils._convert_bfl_flux_control_lora_to_diffusers,
            rf"{_FLUX_BLOCKS}|final_layer\.linear|\w+_in(\..*)?",
            "",
        ),
    }.items():
        spelled = _spelled(model, names)
        tensors, _ = named(spelled, _name_of(what), PEFT)

        def theirs(state: Tensors, converter: Any = convert_theirs, prefix: str = prefix) -> Tensors:
            return converter(_with_all_blocks(state, prefix))  # type: ignore[no-any-return]

        yield what, Trial(tensors, {}, len(spelled), theirs=theirs)


def _with_all_blocks(state: Tensors, prefix: str) -> Tensors:
    found = dict(state)
    for kind, count, norms in (
        ("double_blocks", 19, ("img_attn.norm.", "txt_attn.norm.")),
        ("single_blocks", 38, ("norm.",)),
    ):
        first = {name: value for name, value in state.items() if name.startswith(f"{prefix}{kind}.0.")}
        for number in range(count):
            for name, value in first.items():
                other = name.replace(f"{kind}.0.", f"{kind}.{number}.")
                found.setdefault(other, torch.zeros(()).expand(value.shape))
            if not prefix:  # a control adapter replaces the norms too
                for norm in (f"{one}{which}_norm.scale" for one in norms for which in ("query", "key")):
                    found[f"{kind}.{number}.{norm}"] = torch.zeros(128)
    if not prefix:  # its converter moves rows of lora_A as well, which the layer doesn't have: another ΔW
        for role in ("lora_A", "lora_B"):
            found[f"final_layer.adaLN_modulation.1.{role}.weight"] = torch.zeros(2 * RANK, 2 * RANK)
    return found


def _name_of(what: str) -> Callable[[str], str]:
    prefix = what.rsplit(" ", maxsplit=1)[-1]
    if prefix == "none":
        return dotted("")
    return dotted(prefix) if prefix.endswith(".") else folded(prefix)


def _spelled(model: str, pattern: str) -> dict[str, tuple[int, ...]]:
    """Layers whose names match, in diffusers' names or the authors'."""
    made, family = layout(model), FAMILIES.get(model)
    every = dict(made.layers)
    for spelling in family.spellings if family else ():
        every |= _authors_shapes(made, spelling)
    return {name: shape for name, shape in every.items() if re.fullmatch(pattern, name)}


_KRON = 2
"""Rows and columns of the first factor of a Kronecker product."""
_FUSED = {"to_qkv": ("to_q", "to_k", "to_v"), "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}
_SDXL: Mapping[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 2),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_STABILITYS = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.")
_Converted = tuple[str, str, tuple[str, str], bool]
_WAN_BLOCKS = r"blocks\.\d+\.(self_attn|cross_attn)\.(q|k|v|o|k_img|v_img)|blocks\.\d+\.ffn\.[02]"
_FLUX_BLOCKS = (
    r"double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.[02]|mod\.lin)"
    r"|single_blocks\.\d+\.(linear1|linear2|modulation\.lin)"
)
_FLUX2 = _FLUX_BLOCKS + r"|img_in|txt_in|time_in\..*|(double|single)_stream_modulation\w*\.lin|final_layer\.linear"
_CONVERTED: Mapping[str, Mapping[str, _Converted]] = {
    "FluxTransformer2DModel": {
        "diffusers: kohya lora_unet_": ("FluxLoraLoaderMixin", _FLUX_BLOCKS, KOHYA, True),
        "diffusers: ComfyUI diffusion_model.": ("FluxLoraLoaderMixin", _FLUX_BLOCKS, KOHYA, True),
        "diffusers: OneTrainer lora_transformer_": (
            "FluxLoraLoaderMixin",
            r"(single_)?transformer_blocks\.\d+\.attn\..*",
            KOHYA,
            True,
        ),
        "diffusers: XLabs none": (
            "FluxLoraLoaderMixin",
            r"(double|single)_blocks\.\d+\.processor\..*",
            ("down.weight", "up.weight"),
            False,
        ),
    },
    "Flux2Transformer2DModel": {
        "diffusers: ai-toolkit diffusion_model.": ("Flux2LoraLoaderMixin", _FLUX2, PEFT, False),
        "diffusers: kohya lora_unet_": ("Flux2LoraLoaderMixin", _FLUX_BLOCKS, KOHYA, True),
    },
    "Flux3Transformer2DModel": {
        "diffusers: authors' diffusion_model.": (
            "Flux3LoraLoaderMixin",
            r"(content_mode_blocks\.image|single_blocks)\..*",
            PEFT,
            False,
        ),
    },
    "WanTransformer3DModel": {
        "diffusers: authors' diffusion_model.": ("WanLoraLoaderMixin", _WAN_BLOCKS, PEFT, False),
        "diffusers: authors' with alpha diffusion_model.": ("WanLoraLoaderMixin", _WAN_BLOCKS, KOHYA, True),
        "diffusers: musubi lora_unet_": ("WanLoraLoaderMixin", _WAN_BLOCKS, KOHYA, True),
    },
    "SkyReelsV2Transformer3DModel": {
        "diffusers: authors' diffusion_model.": ("SkyReelsV2LoraLoaderMixin", _WAN_BLOCKS, PEFT, False),
        "diffusers: musubi lora_unet_": ("SkyReelsV2LoraLoaderMixin", _WAN_BLOCKS, KOHYA, True),
    },
    "HeliosTransformer3DModel": {
        "diffusers: authors' diffusion_model.": ("HeliosLoraLoaderMixin", _WAN_BLOCKS, PEFT, False),
        "diffusers: musubi lora_unet_": ("HeliosLoraLoaderMixin", _WAN_BLOCKS, KOHYA, True),
    },
    "HunyuanVideoTransformer3DModel": {
        "diffusers: authors' none": (
            "HunyuanVideoLoraLoaderMixin",
            r"(double|single)_blocks\.\d+\.(?!.*norm).*",
            PEFT,
            False,
        ),
        "diffusers: authors' diffusion_model.": (
            "HunyuanVideoLoraLoaderMixin",
            r"(double|single)_blocks\.\d+\.(?!.*norm).*",
            PEFT,
            False,
        ),
    },
    "Lumina2Transformer2DModel": {
        "diffusers: authors' diffusion_model.": (
            "Lumina2LoraLoaderMixin",
            r"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.(qkv|out)|feed_forward\.w\d|adaLN_modulation\.1)",
            PEFT,
            False,
        ),
    },
    "HiDreamImageTransformer2DModel": {
        "diffusers: diffusion_model.": ("HiDreamImageLoraLoaderMixin", r".*", PEFT, False),
    },
    "LTXVideoTransformer3DModel": {
        "diffusers: diffusion_model.": ("LTXVideoLoraLoaderMixin", r"transformer_blocks\..*", PEFT, False),
    },
    "LTX2VideoTransformer3DModel": {
        "diffusers: diffusion_model.": (
            "LTX2LoraLoaderMixin",
            r"transformer_blocks\..*|(audio_)?patchify_proj|(audio_)?adaln_single.*|av_ca.*",
            PEFT,
            False,
        ),
    },
    "QwenImageTransformer2DModel": {
        "diffusers: musubi lora_unet_": (
            "QwenImageLoraLoaderMixin",
            r"transformer_blocks\.\d+\.(attn|img_mlp|txt_mlp|img_mod|txt_mod)\..*|img_in|txt_in|proj_out",
            KOHYA,
            True,
        ),
        "diffusers: diffusion_model.": ("QwenImageLoraLoaderMixin", r".*", PEFT, False),
        "diffusers: Lightning none": ("QwenImageLoraLoaderMixin", r".*", KOHYA, True),
        "diffusers: DiffSynth none": ("QwenImageLoraLoaderMixin", r".*", DEFAULT, False),
    },
    "ZImageTransformer2DModel": {
        "diffusers: diffusion_model.": (
            "ZImageLoraLoaderMixin",
            r"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.to_.*|feed_forward\..*)",
            PEFT,
            False,
        ),
        "diffusers: musubi lora_unet_": (
            "ZImageLoraLoaderMixin",
            r"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.to_.*|feed_forward\..*)",
            KOHYA,
            True,
        ),
        "diffusers: fused rows lora_unet_": (
            "ZImageLoraLoaderMixin",
            r"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.(qkv|out)|feed_forward\..*)",
            KOHYA,
            True,
        ),
        "diffusers: DiffSynth none": (
            "ZImageLoraLoaderMixin",
            r"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.to_.*|feed_forward\..*)",
            DEFAULT,
            False,
        ),
    },
    "CosmosTransformer3DModel": {
        "diffusers: Anima diffusion_model.": (
            "AnimaLoraLoaderMixin",
            r"blocks\.\d+\.(self_attn|cross_attn|mlp|adaln_modulation_\w+)\..*",
            PEFT,
            False,
        ),
    },
    "Ideogram4Transformer2DModel": {
        "diffusers: diffusion_model.": (
            "Ideogram4LoraLoaderMixin",
            r"layers\.\d+\.(attention\.(qkv|o)|feed_forward\.w\d|adaln_modulation)",
            PEFT,
            False,
        ),
        "diffusers: kohya conditional_transformer.": (
            "Ideogram4LoraLoaderMixin",
            r"layers\.\d+\.(attention\.(qkv|o)|feed_forward\.w\d|adaln_modulation)",
            KOHYA,
            True,
        ),
    },
    "Krea2Transformer2DModel": {
        "diffusers: diffusion_model.": (
            "Krea2LoraLoaderMixin",
            r"blocks\..*|txtfusion\..*|first|last\.linear|tmlp\..*|tproj\.1|txtmlp\.[13]",
            PEFT,
            False,
        ),
        "diffusers: ai-toolkit base_model.model.": (
            "Krea2LoraLoaderMixin",
            r"blocks\..*|txtfusion\..*|first|last\.linear|tmlp\..*|tproj\.1|txtmlp\.[13]",
            PEFT,
            False,
        ),
    },
    "AceStepTransformer1DModel": {
        "diffusers: base_model.model.": (
            "AceStepLoraLoaderMixin",
            r"layers\.\d+\.(self|cross)_attn\.[qkvo]_proj",
            PEFT,
            False,
        ),
    },
    "MiniMaxH3Transformer3DModel": {
        "diffusers: ai-toolkit diffusion_model.": (
            "MiniMaxH3LoraLoaderMixin",
            r"(token_refiner\.)?blocks\.\d+\.(attn\.(qkv|out)_proj|mlp\.fc\d)",
            PEFT,
            False,
        ),
        "diffusers: musubi lora_unet_": (
            "MiniMaxH3LoraLoaderMixin",
            r"(token_refiner\.)?blocks\.\d+\.(attn\.(qkv|out)_proj|mlp\.fc\d)",
            KOHYA,
            True,
        ),
    },
}
"""Class -> what is compared (with the prefix) -> the loader, the layers, their ends, and whether they have an alpha."""
_LOKR: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Flux2Transformer2DModel": {
        "diffusers: LoKr, ai-toolkit diffusion_model.": ("Flux2LoraLoaderMixin", _FLUX2),
        "diffusers: LoKr, LyCORIS lycoris_": (
            "Flux2LoraLoaderMixin",
            r"(single_)?transformer_blocks\.\d+\.(attn|ff|ff_context)\..*",
        ),
        "diffusers: LoKr, SimpleTuner none": ("Flux2LoraLoaderMixin", r"(single_)?transformer_blocks\..*"),
    },
    "ZImageTransformer2DModel": {
        "diffusers: LoKr, ai-toolkit diffusion_model.": (
            "ZImageLoraLoaderMixin",
            r"(layers|noise_refiner|context_refiner)\.\d+\.(attention\.to_.*|feed_forward\..*)",
        ),
    },
}
_PARTS: Mapping[str, Mapping[str, tuple[str, str, Mapping[str, Any], str, str, Callable[[str], str]]]] = {
    "LTX2VideoTransformer3DModel": {
        f"diffusers: connectors{what} text_embedding_projection.": (
            "LTX2LoraLoaderMixin",
            "LTX2TextConnectors",
            {"caption_channels": 64, "text_proj_in_factor": 3, "per_modality_projections": is_apart},
            "connectors",
            r".*text_proj_in",
            lambda name: name.replace("text_proj_in", "aggregate_embed"),
        )
        for what, is_apart in ((", LTX 2", False), (", LTX 2.3", True))
    },
    "CosmosTransformer3DModel": {
        "diffusers: Anima's conditioner diffusion_model.llm_adapter.": (
            "AnimaLoraLoaderMixin",
            "AnimaTextConditioner",
            {},
            "text_conditioner",
            r".*",
            str,
        )
    },
}
"""Class -> what is compared (with the prefix) -> the loader; the part's class, its settings, its folder and its layers;
and the authors' names of these.
"""


# --- trials -----------------------------------------------------------------------------------------------------------


def trials(model: str, spellings: Collection[str] = ()) -> Iterator[Outcome]:
    """One outcome for each spelling, or for each of these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            layout(model)
        except Exception as error:  # noqa: BLE001  whatever diffusers raises is the reason
            yield Outcome(model, "diffusers", hole=_told(error))
            return
        kinds = (own_trials, authors_trials, adapter_trials, lokr_trials, unet_trials, flux_trials, part_trials)
        for what, trial in (one for kind in kinds for one in kind(model)):
            if spellings and what not in spellings:
                continue
            faults, hole = "", ""
            try:
                faults = "; ".join(_faults(model, trial))
            except LorahubError as error:
                faults = f"{type(error).__name__}: {error.message}"
            except _Refused as error:
                hole = f"diffusers refuses it: {error}"
            why = HOLES.get((model, what), "")
            yield Outcome(model, what, "" if why else faults, why or hole, trial.modules)


class _Refused(Exception):
    """diffusers' converter doesn't take the file."""


_LIKE_LANGUAGE = "without a prefix its names are a language model's, whose settings lie beside it"
HOLES: Mapping[tuple[str, str], str] = {
    ("AceStepTransformer1DModel", "authors', no prefix"): _LIKE_LANGUAGE,
    ("Cosmos3OmniTransformer", "no prefix"): _LIKE_LANGUAGE,
}
"""(class, spelling) -> why another answer than diffusers' is right, or none is given."""


def _faults(model: str, trial: Trial) -> Iterator[str]:
    made = trial.layout or layout(model)
    files = trial.base() if trial.base else Zeros(model, made.tensors, folder=f"{made.part}/")
    base = gate.registered(read_base(files))
    contents = trial.files()
    report, disagreement = gate.judge(contents, base)
    if disagreement:
        yield f"push: {disagreement}"
    if report.verdict is not Verdict.FITS or report.matched != report.of or report.of != trial.modules:
        told = "; ".join(f"{found.rule} {found.message}" for found in report.findings)
        yield f"check: {report.verdict.value}, {report.matched} of {report.of}, not {trial.modules}: {told}"[:400]
        return
    expected = trial.expected
    if trial.theirs is not None:
        try:
            read = _of_adapter if trial.is_lora else _of_lokr
            expected = read(trial.theirs(dict(trial.tensors)), made.part)
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise _Refused(_told(error)) from error
    adapter = BytesFiles(contents)
    if trial.is_lora:
        yield from _converted(adapter, base, made.part, expected)
    merged = trial.merged
    if trial.base is None:
        merged = {f"{made.part}.{name}": value for name, value in expected.items()}
    yield from _merged(files, adapter, merged or {})
    yield from _mutants(trial, files, base)


def _converted(adapter: BytesFiles, base: BaseLayout, part: str, expected: Tensors) -> Iterator[str]:
    there = convert(adapter, "diffusers", base)
    yield from _differ("convert", _adds(there, part), expected)
    peft = convert(BytesFiles(there), "peft", base)
    yield from _differ("to PEFT and back", _adds(convert(BytesFiles(peft), "diffusers", base), part), expected)
    again, disagreement = gate.judge(there, base)
    if again.verdict is not Verdict.FITS or disagreement:
        yield f"check of what was converted: {again.verdict.value}; {disagreement}"


def _adds(files: Mapping[str, bytes], part: str) -> Tensors:
    """What a file of diffusers' adds, read by its tensors and by the alphas in its header."""
    (content,) = files.values()
    adapter = read_adapter(BytesFiles(dict(files)))
    scales = {update.module: update.scale for update in adapter.updates}
    return _of_adapter(load(content), part, scales)


def _of_adapter(state: Mapping[str, Any], part: str, scales: Mapping[str, float] | None = None) -> Tensors:
    if isinstance(state, tuple):
        state = state[0]
    found: Tensors = {}
    for key, down in state.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            up = state[f"{module}.lora_B.weight"]
            adds = product(down, up, (scales or {}).get(module, 1.0))
            if adds.abs().sum():
                found[f"{module.removeprefix(f'{part}.')}.weight"] = adds
    return found


def _differ(what: str, ours: Tensors, right: Tensors) -> Iterator[str]:
    if ours.keys() != right.keys():
        yield f"{what}: {sorted(ours.keys() ^ right.keys())[:3]} are in one and not in the other"
        return
    wrong = [name for name, value in right.items() if not torch.equal(ours[name], value.double())]
    if wrong:
        yield f"{what}: {len(wrong)} of {len(right)} modules differ, first {wrong[0]}"


def _merged(files: Zeros, adapter: BytesFiles, expected: Tensors) -> Iterator[str]:
    """Some rows of each changed tensor, as they come out of a merge into zeros."""
    plan = planned(files, adapter)
    part = files.path.rpartition("/")[0]
    wrong = []
    for name, adds in list(expected.items())[:: max(1, len(expected) // _MOST_MERGED)]:
        entry = files.header[name.removeprefix(f"{part}.") if part else name]
        width = 4 * torch.Size(entry["shape"]).numel() // entry["shape"][0]
        start = files.start + entry["data_offsets"][0]
        for row in sorted({0, len(adds) // 2, len(adds) - 1}):
            count = min(COLUMNS, width // 4)
            raw = plan.read(files.path, start + row * width, start + row * width + 4 * count)
            if not torch.equal(torch.frombuffer(bytearray(raw), dtype=torch.float32), adds[row].float()):
                wrong.append(name)
                break
    if wrong:
        yield f"merge: {len(wrong)} of {len(expected)} tensors differ, first {wrong[0]}"


def _mutants(trial: Trial, files: Zeros, base: BaseLayout) -> Iterator[str]:
    """A file of which one tensor was renamed, cut or lost never fits, nor is it pushed or merged; of a few modules."""
    modules = sorted({_module(name) for name in trial.tensors})
    few = modules[len(modules) // 2 :][:_MOST_MERGED]
    tensors = {name: tensor for name, tensor in trial.tensors.items() if _module(name) in few}
    names = [name for name in sorted(tensors) if not name.endswith(".alpha")]
    name = names[len(names) // 2]
    tensor = tensors[name]
    rest = {key: value for key, value in tensors.items() if key != name}
    module, _, ending = name.partition(".lora")
    for what, changed in {
        "a role renamed": rest | {f"{module}.lura{ending}": tensor},
        "a module renamed": rest | {f"{module}x.lora{ending}": tensor},
        "a tensor lost": rest,
        "rows cut": rest | {name: tensor[:-1].contiguous()},
        "columns cut": rest | {name: tensor[:, :-1].contiguous()},
        "a dimension more": rest | {name: tensor[None]},
        "no elements": rest | {name: tensor[:0].contiguous()},
    }.items():
        mutant = trial.files(changed)
        report, disagreement = gate.judge(mutant, base)
        if report.verdict in (Verdict.FITS, Verdict.COMPATIBLE):
            yield f"a mutation fits: {what} ({name})"
        if disagreement:
            yield f"{what} ({name}), push: {disagreement}"
        if is_merged(files, mutant):
            yield f"a mutation is merged: {what} ({name})"


def _module(name: str) -> str:
    return re.split(r"\.(?:lora_\w+|alpha|down|up)\b", name)[0]


def _told(error: BaseException) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:160]


def main(names: Iterable[str]) -> None:
    diffusers.logging.set_verbosity_error()
    for name in names or classes():
        for outcome in trials(name):
            print(json.dumps(outcome.__dict__), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
