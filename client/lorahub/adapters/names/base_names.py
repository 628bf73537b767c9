"""Every name that a base's weights go by, made from the base's own layout and never by guessing.

Checkpoints are stored under other names than the ones that models use in memory, and formats fold, rename and fuse
them. Each family below turns the names on disk into the names that adapters use; an adapter's module is then looked
up, as it is, or behind one common change of prefix.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice

from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.names.by_rule import gguf_name, torchtune_name
from lorahub.adapters.names.experts import expert_renames, expert_stacks
from lorahub.adapters.names.image import folding, has_known_denoiser, respelled, single_file_pipelines
from lorahub.adapters.names.weight import Names, Weight, WeightPlace, renamed

_MOST_CHANGES = 64  # each is tried on every module


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
        for weight in list(respelled(self.weights, base.config)):
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
            for prefix, rest in folding(module, is_pipeline=self.is_pipeline):
                found.setdefault(prefix + rest.replace(".", "_"), module)
        return found

    @cached_property
    def is_pipeline(self) -> bool:
        heads = {name.partition(".")[0] for name in self.weights}
        return not heads.isdisjoint(("unet", "text_encoder", "transformer"))

    @cached_property
    def has_strange_denoiser(self) -> bool:
        """Whether it is a model of diffusers' whose names aren't known here."""
        return "_class_name" in self.base.config and not has_known_denoiser(self.weights, self.base.config)

    @cached_property
    def by_rule(self) -> dict[str, str]:
        """Names by the rules of llama.cpp and torchtune -> module."""
        found: dict[str, str] = {}
        for module in self.modules:
            for name in (gguf_name(module), torchtune_name(module)):
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


def _attention_projections(base: BaseLayout) -> Names:
    """`nn.MultiheadAttention` keeps its three projections in one bare parameter of the module itself."""
    for name, tensor in base.tensors.items():
        if name.endswith(".in_proj_weight"):
            yield renamed(f"{name.removesuffix('in_proj_weight')}weight", name, tensor)


_FAMILIES = (
    expert_stacks,
    expert_renames,
    _attention_projections,
    single_file_pipelines,
)


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
