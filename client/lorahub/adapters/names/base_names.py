"""Every name that a base's weights go by, made from the base's own layout and never by guessing.

Checkpoints are stored under other names than the ones that models use in memory, and formats fold, rename and fuse
them. Each family below turns the names on disk into the names that adapters use; an adapter's module is then looked
up: as it is, as the base's class renames it, or behind one change of prefix for each part of the model.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

from lorahub.adapters.adapter import Naming
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.names.by_class import Change, class_of
from lorahub.adapters.names.by_rule import gguf_name, torchtune_name
from lorahub.adapters.names.experts import expert_renames, expert_stacks, is_in_turn, single_expert, stacks
from lorahub.adapters.names.image import PARTS, folding, has_known_denoiser, respelled, single_file_pipelines
from lorahub.adapters.names.weight import Names, Weight, WeightPlace, joined_rows, renamed, split_rows

_MOST_CHANGES = 64  # each is tried on every module
_MOST_PARTS = 16
_SAME: Change = ("", "")


@dataclass(frozen=True, slots=True)
class FoundModules:
    """Where an adapter's modules are in a base."""

    modules: Mapping[str, str]
    """Adapter's module -> the base's name of it; those that the base has."""
    changes: Mapping[str, Change] = field(default_factory=dict)
    """Part of the base -> the change of prefix by which its modules were found, where there was one."""

    def as_adapter(self, module: str) -> str:
        """What the adapter would call a module of the base."""
        strip, add = self.changes.get(_part(module), _SAME)
        return strip + module[len(add) :] if module.startswith(add) else module


class BaseNames:
    """The dictionary of one base. `find` takes a weight's full name, `resolve` an adapter's modules."""

    def __init__(self, base: BaseLayout) -> None:
        self.base = base
        self.weights: dict[str, Weight] = {
            name: Weight(name, tensor.shape, tensor.dtype, (WeightPlace(name),))
            for name, tensor in base.tensors.items()
        }
        self.weights |= {weight.name: weight for weight in stacks(base)}
        for family in _FAMILIES:
            for weight in family(base):
                self.weights.setdefault(weight.name, weight)
        for weight in list(expert_stacks(base, self.weights)):
            self.weights.setdefault(weight.name, weight)
        for weight in list(respelled(self.weights, base.config)):
            self.weights.setdefault(weight.name, weight)
        self.model_class = class_of(base)
        self.unclear: dict[str, str] = {}
        """Module -> the tensor that it is a part of, where what is done to the one isn't known of the other."""
        for weight in list(self._in_memory()):
            self.weights.setdefault(weight.name, weight)
        for weight in list(self._tied_heads()):
            self.weights.setdefault(weight.name, weight)
        self.twins = dict(self._shared())
        """Module -> the tensor that it and another module have both."""

    def find(self, module: str, parameters: Iterable[str], turn: int = 0) -> Weight | None:
        """The parameter of the module that the base has: the first, or the one with the number `turn`."""
        return next(islice(self._every(module, parameters), turn, None), None)

    def _every(self, module: str, parameters: Iterable[str]) -> Iterator[Weight]:
        for parameter in parameters:
            name = f"{module}.{parameter}" if parameter else module
            weight = self.weights.get(name) or single_expert(name, self.base, self.weights)
            if weight is not None:
                yield weight

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
        """Names by the rules of llama.cpp and torchtune -> module of the language model."""
        found: dict[str, str] = {}
        text = self.model_class.text if self.model_class else ""
        for module in self.modules:
            if text and "." in module and not module.startswith(f"{text}."):
                continue  # towers have the same numbers
            for name in (gguf_name(module), torchtune_name(module)):
                if name is not None:
                    found.setdefault(name, module)
        return found

    def resolve(self, modules: Iterable[str], naming: Naming) -> FoundModules:
        """Looks an adapter's modules up.

        In dotted names each part of the model (what stands before the number of a layer) has one name: the one by which
        the most of its modules are found. A module of that part with another name isn't in the base, because no class
        has both; nor is one that needs a change of prefix which the base's class doesn't make (`ModelClass.changes`),
        because loaders skip it without a word. Where the class isn't known, any change will do.
        """
        wanted = list(dict.fromkeys(modules))
        if naming is Naming.FOLDED:
            return FoundModules({module: self.folded[module] for module in wanted if module in self.folded})
        if naming in (Naming.GGUF, Naming.TORCHTUNE):
            return FoundModules({module: self.by_rule[module] for module in wanted if module in self.by_rule})
        spelled = self._spelled(wanted)
        found: dict[str, tuple[str, Change]] = {}
        for module, spellings in spelled.items():
            own = next((name for name in spellings if self._has(name)), None)
            if own is not None:
                found[module] = own, _SAME
        for _ in range(_MOST_PARTS):
            rest = {name: module for module, names in spelled.items() if module not in found for name in names}
            moved = self._most(list(rest))
            if not moved:
                break
            for name, place in moved.items():
                found.setdefault(rest[name], place)
        return self._one_name_a_part(found)

    def _one_name_a_part(self, found: Mapping[str, tuple[str, Change]]) -> FoundModules:
        names: dict[str, Counter[str]] = {}
        for module, (place, _) in found.items():
            names.setdefault(self._part_on_disk(place), Counter())[_part(module)] += 1
        usual = {part: counter.most_common(1)[0][0] for part, counter in names.items()}
        kept = {
            module: (place, change)
            for module, (place, change) in found.items()
            if usual[self._part_on_disk(place)] == _part(module)
        }
        changes = {_part(place): change for place, change in kept.values() if change != _SAME}
        return FoundModules({module: place for module, (place, _) in kept.items()}, changes)

    def _part_on_disk(self, module: str) -> str:
        """The same for all names of a part."""
        if self.model_class is None or module in self.twins:
            return _part(module)
        weight = self.find(module, self.modules.get(module, ()))
        is_own = weight is not None and not weight.is_tied
        return _part(weight.places[0].tensor if is_own and weight else self.unclear.get(module, module))

    def _spelled(self, modules: list[str]) -> dict[str, list[str]]:
        """Each with the other names that it may have: in memory, and without the wrapper of data parallelism."""
        plain = {module: module.replace(".module.", ".") for module in modules}
        named = {name: name for name in [*plain, *plain.values()]}
        renamed = self.model_class.in_memory(named) if self.model_class else named
        return {
            module: list(dict.fromkeys((module, renamed[module], other, renamed[other])))
            for module, other in plain.items()
        }

    def _has(self, module: str) -> bool:
        is_there = module in self.modules or self.find(module, ("", "weight")) is not None
        return is_there or module in self.unclear or module in self.twins

    def _most(self, names: list[str]) -> dict[str, tuple[str, Change]]:
        """Those that the best change of prefix finds, with their place; the smallest change wins ties."""
        best: dict[str, tuple[str, Change]] = {}
        for change in self._candidates(names):
            hits = {name: (place, change) for name in names if (place := self._moved(name, change)) is not None}
            if len(hits) > len(best) or (hits and len(hits) == len(best) and _length(hits) < _length(best)):
                best = hits
        return best

    def _candidates(self, names: list[str]) -> list[Change]:
        if self.model_class is not None:
            return list(dict.fromkeys(self.model_class.changes))
        return self._any_changes(names)

    def _any_changes(self, names: list[str]) -> list[Change]:
        """An adapter of one part of a pipeline alone has no folder before its names."""
        sample = names[:: max(1, len(names) // 8)][:8]
        found = [change for name in sample for change in self._changes(name)]
        return list(islice(dict.fromkeys([*found, *(("", f"{part}.") for part in self._folders)]), _MOST_CHANGES))

    @cached_property
    def _folders(self) -> list[str]:
        return sorted({name.partition(".")[0] for name in self.base.tensors} & set(PARTS))

    def change_for(self, modules: list[str]) -> Change | None:
        """The change of prefix that would find them all, whether the base's class makes it or not."""
        if any(self._has(module) for module in modules):
            return None
        changes = (change for change in self._any_changes(modules) if change[0] != change[1])
        return next((change for change in changes if all(self._moved(module, change) for module in modules)), None)

    def _moved(self, name: str, change: Change) -> str | None:
        """The base's module, None if there is none. No model has the prefix of its base model twice."""
        strip, add = change
        if not name.startswith(strip):
            return None
        place = add + name[len(strip) :]
        return place if self._has(place) and not (strip and not add and place.startswith(strip)) else None

    def near(self, module: str) -> str:
        """The name that a module which isn't there comes nearest to: one whose neighbours are."""
        renamed = self._spelled([module])[module]
        changed = (
            add + name[len(strip) :]
            for name in renamed
            for strip, add in self._candidates([module])
            if name.startswith(strip)
        )
        return next((name for name in [*renamed, *changed] if name.rpartition(".")[0] in self._owners), module)

    def _tied_heads(self) -> Iterator[Weight]:
        """Where the file has no output head, the input embedding is it."""
        if not self._ties:
            return
        if self.model_class is not None and self.model_class.tied:
            for head, name in self.model_class.tied:
                if name in self.weights:
                    yield replace(self.weights[name], name=head, is_tied=True)
            return
        if any(name.rpartition(".")[0].rpartition(".")[2] in _HEADS for name in self.base.tensors):
            return
        for weight in self.weights.values():
            module, _, parameter = weight.name.rpartition(".")
            if parameter == "weight" and module.rpartition(".")[2] in _EMBEDDINGS:
                yield replace(weight, name="lm_head.weight", is_tied=True)
                return

    def _shared(self) -> Iterator[tuple[str, str]]:
        """Each two modules that have one weight: a merge would do to both what an adapter does to one.

        Embeddings aren't here: of them it is meant.
        """
        if self.model_class is None or not self._ties:
            return
        for one, other in self.model_class.shared:
            for name, weight in self.weights.items():
                module = name.rpartition(".")[0]
                twin = one + module[len(other) :]
                if f"{module}.".startswith(f"{other}.") and twin not in self.modules:
                    yield twin, weight.places[0].tensor
                    if module.rpartition(".")[2] not in _EMBEDDINGS:
                        yield module, weight.places[0].tensor

    @property
    def _ties(self) -> bool:
        config = self.base.config
        return self.base.text_config.get("tie_word_embeddings", config.get("tie_word_embeddings", True)) is not False

    def modules_of(self, tensor: str) -> list[str]:
        """Every name of the module whose parameter is the whole of this tensor."""
        return self._by_tensor.get(tensor, [])

    @cached_property
    def _by_tensor(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, weight in self.weights.items():
            if len(weight.places) == 1 and not weight.is_tied:
                found.setdefault(weight.places[0].tensor, []).append(name.rpartition(".")[0])
        return found

    @cached_property
    def _owners(self) -> frozenset[str]:
        """Every name that a module lies in."""
        return frozenset(name[:end] for name in self.modules for end, mark in enumerate(name) if mark == ".")

    def _in_memory(self) -> Iterator[Weight]:
        """The names that the base's class gives its weights, and the layers that it makes of two or more of them."""
        if self.model_class is None:
            return
        in_memory = self.model_class.in_memory(self.weights)
        joined: dict[str, dict[int, Weight]] = {}
        for name, renamed_name in in_memory.items():
            weight = self.weights[name]
            if renamed_name != name:
                yield replace(weight, name=renamed_name)
            if is_in_turn(name):
                self.unclear[renamed_name.rpartition(".")[0]] = name
            layers = next((one for one in self.model_class.layers if one.names(renamed_name)), None)
            if layers is None or len(weight.places) != 1 or not weight.shape:
                continue
            made = layers.names(renamed_name)
            if layers.kind == "join":
                joined.setdefault(made[0], {})[layers.place(renamed_name)] = weight
            elif layers.kind == "split" and weight.shape[0] % len(made) == 0:
                yield from split_rows(made, weight)
            else:
                self.unclear |= {one.rpartition(".")[0]: weight.places[0].tensor for one in made}
        for name, parts in joined.items():
            yield joined_rows(name, [parts[place] for place in sorted(parts)])

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


def _part(module: str) -> str:
    """The part of the model that a module lies in: what stands before the number of its layer, or its owner.

    >>> _part("model.visual.blocks.0.mlp.fc1"), _part("lm_head")
    ('model.visual.blocks', '')
    """
    parts = module.split(".")
    layer = next((place for place, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
    return ".".join(parts[:layer])


def _length(hits: Mapping[str, tuple[str, Change]]) -> int:
    return len("".join(next(iter(hits.values()))[1]))


def _attention_projections(base: BaseLayout) -> Names:
    """`nn.MultiheadAttention` keeps its three projections in one bare parameter of the module itself."""
    for name, tensor in base.tensors.items():
        if name.endswith(".in_proj_weight"):
            yield renamed(f"{name.removesuffix('in_proj_weight')}weight", name, tensor)


_FAMILIES = (
    expert_renames,
    _attention_projections,
    single_file_pipelines,
)


# --- tied heads -------------------------------------------------------------------------------------------------------

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared")
_HEADS = ("lm_head", "embed_out", "output")
