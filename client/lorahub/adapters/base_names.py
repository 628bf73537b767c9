"""Every name that a base's weights go by, made from the base's own layout and never by guessing.

Checkpoints are stored under other names than the ones that models use in memory, and formats fold, rename and fuse
them. Each family below turns the names on disk into the names that adapters use; an adapter's module is then looked
up, as it is, or behind one common change of prefix.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout, BaseTensor


@dataclass(frozen=True, slots=True)
class WeightPlace:
    """Where a weight, or some of its output rows, or one expert of it, lies on disk."""

    tensor: str
    rows: tuple[int, int] | None = None
    """The output rows [start, stop) of the weight that this tensor is; None for all."""
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight by one of its names. `shape` as the name's owner sees it: fused and stacked where it is."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    places: tuple[WeightPlace, ...]
    is_tied: bool = False
    """An output head that is the input embedding."""


Names = Iterator[Weight]

_MOST_CHANGES = 64  # each is tried on every module

_EXPERT = re.compile(
    r"^(.+\.)?experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3|linear|linear_1|linear_v)\.weight$"
)
_GATE, _UP, _DOWN = ("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")

_TEXT_ENCODERS = {
    "cond_stage_model.transformer.": "text_encoder.",
    "conditioner.embedders.0.transformer.": "text_encoder.",
    "text_encoders.clip_l.transformer.": "text_encoder.",
    "text_encoders.t5xxl.transformer.": "text_encoder_2.",
    "model.diffusion_model.": "unet.",
}
"""Prefixes in single-file checkpoints -> the folders of a diffusers pipeline."""


class BaseNames:
    """The dictionary of one base. `find` takes a weight's full name, `resolve` an adapter's modules."""

    def __init__(self, base: BaseLayout) -> None:
        self.base = base
        self.weights: dict[str, Weight] = {
            name: Weight(name, tensor.shape, tensor.dtype, (WeightPlace(name),))
            for name, tensor in base.tensors.items()
        }
        for family in _FAMILIES:
            for weight in family(base):
                self.weights.setdefault(weight.name, weight)
        for weight in list(_renamed(self.weights)):
            self.weights.setdefault(weight.name, weight)
        for weight in list(_tied_head(base, self.weights)):
            self.weights.setdefault(weight.name, weight)

    def find(self, module: str, parameters: Iterable[str]) -> Weight | None:
        """The first of the module's parameters that the base has."""
        for parameter in parameters:
            weight = self.weights.get(f"{module}.{parameter}" if parameter else module)
            if weight is not None:
                return weight
        return None

    @cached_property
    def modules(self) -> dict[str, list[str]]:
        """Module -> its parameters."""
        found: dict[str, list[str]] = {}
        for name in self.weights:
            module, _, parameter = name.rpartition(".")
            found.setdefault(module, []).append(parameter)
        return found

    @cached_property
    def folded(self) -> dict[str, str]:
        """`lora_unet_…`, with every dot an underscore -> module."""
        found: dict[str, str] = {}
        for module in self.modules:
            for prefix, rest in _folding(module, is_pipeline=self.is_pipeline):
                found.setdefault(prefix + rest.replace(".", "_"), module)
        return found

    @cached_property
    def is_pipeline(self) -> bool:
        heads = {name.partition(".")[0] for name in self.weights}
        return not heads.isdisjoint(("unet", "text_encoder"))

    @cached_property
    def by_rule(self) -> dict[str, str]:
        """Names by the rules of llama.cpp and torchtune -> module."""
        found: dict[str, str] = {}
        for module in self.modules:
            for name in (gguf_name(module), _torchtune_name(module)):
                if name is not None:
                    found.setdefault(name, module)
        return found

    def resolve(self, modules: Iterable[str], naming: Naming) -> tuple[dict[str, str], tuple[str, str] | None]:
        """Adapter's module -> the base's name of it, and the change of prefix that was needed.

        One change serves all modules: the one that finds the most.
        """
        wanted = list(dict.fromkeys(modules))
        if naming is Naming.FOLDED:
            return {module: self.folded[module] for module in wanted if module in self.folded}, None
        if naming in (Naming.GGUF, Naming.TORCHTUNE):
            return {module: self.by_rule[module] for module in wanted if module in self.by_rule}, None
        found = {module: module for module in wanted if module in self.modules or module in self.weights}
        rest = [module for module in wanted if module not in found]
        if not rest:
            return found, None
        change = self._prefix_change(rest)
        if change is None:
            return found, None
        strip, add = change
        moved = {module: add + module[len(strip) :] for module in rest if module.startswith(strip)}
        return found | {old: new for old, new in moved.items() if self._has(new)}, change

    def _has(self, module: str) -> bool:
        return module in self.modules or module in self.weights

    def _prefix_change(self, modules: list[str]) -> tuple[str, str] | None:
        """(what to take off, what to put before) that finds the most of the modules; the smallest change wins ties."""
        sample = modules[:: max(1, len(modules) // 8)][:8]
        candidates = islice(
            dict.fromkeys(change for module in sample for change in self._changes(module)), _MOST_CHANGES
        )
        best, most = None, 0
        for strip, add in candidates:
            hits = sum(module.startswith(strip) and self._has(add + module[len(strip) :]) for module in modules)
            if hits > most or (hits == most and best is not None and hits and len(strip + add) < len("".join(best))):
                best, most = (strip, add), hits
        return best

    def _changes(self, module: str) -> Iterator[tuple[str, str]]:
        parts = module.split(".")
        for count in range(min(4, len(parts) - 1)):
            strip = "".join(f"{part}." for part in parts[:count])
            rest = module[len(strip) :]
            if rest.count(".") < 2:
                return
            if count and self._has(rest):
                yield strip, ""
            for longer in self._endings.get(".".join(rest.split(".")[-3:]), ())[:_MOST_CHANGES]:
                if longer != rest and longer.endswith("." + rest):
                    yield strip, longer[: -len(rest)]

    @cached_property
    def _endings(self) -> dict[str, list[str]]:
        """The last three names -> modules that end so."""
        found: dict[str, list[str]] = {}
        for module in self.modules:
            found.setdefault(".".join(module.split(".")[-3:]), []).append(module)
        return found


# --- families: names on disk -> names in use --------------------------------------------------------------------------


def _expert_stacks(base: BaseLayout) -> Names:
    """Mixtures of experts, stored one expert a tensor, used as one tensor for all.

    Transformers 5 stacks (experts, 2·width, hidden) gate over up, and (experts, hidden, width) down; Mixtral's
    `block_sparse_moe.experts.N.w1` becomes `mlp.experts.gate_up_proj`.
    """
    stacks: dict[str, dict[int, dict[str, str]]] = {}
    for name in base.tensors:
        match = _EXPERT.match(name)
        if match:
            stacks.setdefault(match[1] or "", {}).setdefault(int(match[2]), {})[match[3]] = name
    for prefix, experts in stacks.items():
        yield from _stack(base, prefix, experts)


def _stack(base: BaseLayout, prefix: str, experts: Mapping[int, Mapping[str, str]]) -> Names:
    owner = f"{prefix}experts".replace("block_sparse_moe.", "mlp.")
    gates, ups, downs = (_of_all(experts, names) for names in (_GATE, _UP, _DOWN))
    if gates and ups and len(gates) == len(ups):
        first = base.tensors[gates[0]]
        width = first.shape[0]
        places = tuple(
            place
            for expert, (gate, up) in enumerate(zip(gates, ups, strict=True))
            for place in (WeightPlace(gate, (0, width), expert), WeightPlace(up, (width, 2 * width), expert))
        )
        yield Weight(f"{owner}.gate_up_proj", (len(gates), 2 * width, *first.shape[1:]), first.dtype, places)
    if downs:
        first = base.tensors[downs[0]]
        places = tuple(WeightPlace(name, None, expert) for expert, name in enumerate(downs))
        yield Weight(f"{owner}.down_proj", (len(downs), *first.shape), first.dtype, places)


def _of_all(experts: Mapping[int, Mapping[str, str]], names: Iterable[str]) -> list[str]:
    """The tensor of that role for expert 0, 1, …; empty if one is missing."""
    for name in names:
        found = [experts.get(number, {}).get(name) for number in range(len(experts))]
        if all(found):
            return [tensor for tensor in found if tensor]
    return []


def _expert_renames(base: BaseLayout) -> Names:
    """Adapters of transformers 4 keep an expert's own name; Mixtral's were w1, w3, w2 already."""
    for name, tensor in base.tensors.items():
        if ".block_sparse_moe." in name:
            yield _same(name.replace(".block_sparse_moe.", ".mlp."), name, tensor)


def _attention_projections(base: BaseLayout) -> Names:
    """`nn.MultiheadAttention` keeps its three projections in one bare parameter of the module itself."""
    for name, tensor in base.tensors.items():
        if name.endswith(".in_proj_weight"):
            yield _same(f"{name.removesuffix('in_proj_weight')}weight", name, tensor)


def _single_file_pipelines(base: BaseLayout) -> Names:
    for name, tensor in base.tensors.items():
        for prefix, folder in _TEXT_ENCODERS.items():
            if name.startswith(prefix):
                yield _same(folder + name[len(prefix) :], name, tensor)


def _same(alias: str, name: str, tensor: BaseTensor) -> Weight:
    return Weight(alias, tensor.shape, tensor.dtype, (WeightPlace(name),))


_FAMILIES = (
    _expert_stacks,
    _expert_renames,
    _attention_projections,
    _single_file_pipelines,
)


def _renamed(weights: Mapping[str, Weight]) -> Names:
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


# --- tied heads -------------------------------------------------------------------------------------------------------

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared")
_HEADS = ("lm_head", "embed_out", "output")


def _tied_head(base: BaseLayout, weights: Mapping[str, Weight]) -> Names:
    """Where the file has no output head, the input embedding is it."""
    tied = base.text_config.get("tie_word_embeddings", base.config.get("tie_word_embeddings", True))
    if tied is False or any(name.rpartition(".")[0].rpartition(".")[2] in _HEADS for name in base.tensors):
        return
    for weight in weights.values():
        module, _, parameter = weight.name.rpartition(".")
        if parameter == "weight" and module.rpartition(".")[2] in _EMBEDDINGS:
            yield Weight("lm_head.weight", weight.shape, weight.dtype, weight.places, is_tied=True)
            return


# --- names by rule ----------------------------------------------------------------------------------------------------

_FOLDERS = {
    "unet": ("lora_unet_", "lycoris_"),
    "transformer": ("lora_unet_", "lora_transformer_", "lycoris_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}


def _folding(module: str, *, is_pipeline: bool) -> Iterator[tuple[str, str]]:
    """(prefix of kohya's, rest of the name) for a module of a pipeline; of a single part, `lora_unet_`."""
    component, _, rest = module.partition(".")
    if component in _FOLDERS and rest:
        for prefix in _FOLDERS[component]:
            yield prefix, rest
    if not is_pipeline:
        yield "lora_unet_", module
        yield "lycoris_", module


_LLAMA_CPP = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_b_proj": "attn_kv_b",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate": "ffn_gate_inp",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
}
"""Inside a block, transformers -> llama.cpp (gguf-py `tensor_mapping.py`)."""

_TORCHTUNE = {
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.output_proj",
    "mlp.gate_proj": "mlp.w1",
    "mlp.down_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w3",
}

_BLOCK = re.compile(r"^(?:.+\.)?(?:layers|h|blocks)\.(\d+)\.(.+)$")


def gguf_name(module: str) -> str | None:
    """Name a module as llama.cpp does; None where it has no name for it.

    >>> gguf_name("model.layers.3.self_attn.q_proj"), gguf_name("lm_head")
    ('blk.3.attn_q', 'output')
    """
    leaf = module.rpartition(".")[2]
    if leaf in ("embed_tokens", "wte"):
        return "token_embd"
    if leaf in ("lm_head", "norm", "ln_f") and module.count(".") <= 1:
        return "output" if leaf == "lm_head" else "output_norm"
    match = _BLOCK.match(module)
    inner = _LLAMA_CPP.get(match[2]) if match else None
    return f"blk.{match[1]}.{inner}" if match and inner else None


def _torchtune_name(module: str) -> str | None:
    if module == "lm_head":
        return "output"
    match = _BLOCK.match(module)
    inner = _TORCHTUNE.get(match[2]) if match else None
    return f"layers.{match[1]}.{inner}" if match and inner else None
