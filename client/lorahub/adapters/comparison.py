"""One adapter laid on one base: which of its modules are there, and what is to be said of them."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from lorahub.adapters.adapter import Adapter, Part, PartKind, Update
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.findings import Evidence, Finding, finding, shape_text
from lorahub.adapters.formats import format_of
from lorahub.adapters.gguf_base import METHOD
from lorahub.adapters.identity import identity
from lorahub.adapters.licences import conflict
from lorahub.adapters.names.base_names import BaseNames, FoundModules
from lorahub.adapters.names.experts import is_expert, is_stack
from lorahub.adapters.names.image import is_known
from lorahub.adapters.names.weight import Weight
from lorahub.adapters.patterns import layer_index
from lorahub.adapters.selection import Selection
from lorahub.adapters.shapes import SHAPES_AGREE, VOCABULARY, as_stacked, asked_shape, compare_shapes

_HEADS = frozenset("score classifier qa_outputs v_head summary pooler classification_head regression_head".split())
_INPUTS = ("x_embedder", "img_in", "conv_in", "input_blocks.0.0", "patch_embedding", "patch_embed.proj", "proj_in")
"""What an image model's first layer is called."""
_MOST_SIBLINGS = 8  # each search goes through the whole base
_DAMAGED = frozenset({"LH206", "LH208", "LH209", "LH220"})


class Comparison:
    """One adapter laid on one base."""

    def __init__(self, adapter: Adapter, base: BaseLayout, names: BaseNames) -> None:
        self.adapter = adapter
        self.base = base
        self.names = names
        self.matched: list[tuple[Update | Part, Weight]] = []
        self.unmatched: list[Update | Part] = []
        self.packed: list[str] = []
        self.unclear: list[tuple[Update | Part, str]] = []
        self.resolved = FoundModules({})
        self._match()

    def findings(self) -> Iterator[Finding]:
        yield from self.base.findings
        yield from identity(self.adapter, self.base)
        yield from _terms(self.adapter, self.base)
        if any(found.rule == "LH108" for found in self.base.findings):
            yield from self._shapes()  # of what is there; the rest would be told absent
            return
        strange = self._strange()
        if strange:
            yield _not_understood(strange)
            told = {id(piece) for piece in strange}
            self.unmatched = [piece for piece in self.unmatched if id(piece) not in told]
        addressed = [*self.unmatched, *(piece for piece, _ in self.matched)]
        if addressed and not self.matched and not self.packed and not self.unclear:
            yield self._nothing()
            return
        yield from self._absent()
        yield from self._twice()
        yield from self._parts_of_tensors()
        yield from self._shapes()
        yield from self._coverage()
        yield from self._tied()
        yield from self._places()
        yield from self._widths()
        yield from self._biases()
        yield from self._prefix()

    @property
    def agreeing(self) -> int:
        """How many modules are there by name and shape; a vocabulary of the adapter's own is one that fits."""
        fine = SHAPES_AGREE if self._new_rows is None else SHAPES_AGREE | {"LH204"}
        return sum(compare_shapes(piece, weight) in fine for piece, weight in self.matched)

    # --- lookup -------------------------------------------------------------------------------------------------------

    def _match(self) -> None:
        every: list[Update | Part] = [*self.adapter.updates, *self.adapter.parts]
        pieces = [piece for piece in every if _is_addressed(piece)]
        places = {piece.module: self._replicated(piece.module) for piece in pieces}
        self.resolved = self.names.resolve(places.values(), self.adapter.naming)
        for piece in pieces:
            module = self.resolved.modules.get(places[piece.module])
            weight = None if module is None else self._weight(piece, module)
            if module in self.names.twins:
                self.unclear.append((piece, self.names.twins[module]))
            elif weight is not None:
                self.matched.append((as_stacked(piece, weight), weight))
            elif self._may_be_unknown(module):
                self.packed.append(places[piece.module])
            elif module in self.names.unclear:
                self.unclear.append((piece, self.names.unclear[module]))
            elif not (isinstance(piece, Part) and piece.leaf in _HEADS):
                self.unmatched.append(piece)

    def _weight(self, piece: Update | Part, module: str) -> Weight | None:
        weight = (
            self.names.find(module, piece.parameters, piece.turn)
            if isinstance(piece, Update)
            else self.names.find(module, (piece.parameter,))
        )
        return None if weight is None or (self.base.unknown and self._is_packed(module)) else weight

    def _may_be_unknown(self, module: str | None) -> bool:
        """Whether the base has it in a form that isn't understood: by its name, or under a name that nobody knows."""
        if not self.base.unknown:
            return False
        return self.base.quantisation == METHOD if module is None else self._is_packed(module)

    def _is_packed(self, module: str) -> bool:
        return any(name.startswith((f"{module}.", f"{module}_")) for name in self.base.unknown)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """The base's layer for each layer of a model with replicated ones."""
        return self.adapter.layers

    def _replicated(self, module: str) -> str:
        """The base's module of a replicated layer: new layer i is the i-th of the concatenated ranges."""
        index, order = layer_index(module), self._order
        if not order or index is None:
            return module
        return module.replace(f".{index}.", f".{order[index]}.", 1) if index < len(order) else module

    # --- image models -------------------------------------------------------------------------------------------------

    @cached_property
    def _is_image(self) -> bool:
        row = format_of(self.adapter)
        return row is not None and row.is_image

    def _strange(self) -> list[Update | Part]:
        """What can't be compared: modules of no image model that is known, or of any where the base isn't known."""
        if not self._is_image:
            return []
        naming, is_strange = self.adapter.naming, self.names.has_strange_denoiser
        return [piece for piece in self.unmatched if is_strange or not is_known(piece.module, naming)]

    def _widened(self, piece: Update | Part, weight: Weight) -> bool:
        """A control LoRA: loaders widen the base's input layer for the pictures that it is given beside."""
        asked, there = asked_shape(piece), weight.shape
        is_input = self._is_image and weight.name.removesuffix(".weight").endswith(_INPUTS)
        is_wider = len(asked) == len(there) > 1 and asked[0] == there[0] and asked[2:] == there[2:]
        return is_input and is_wider and (asked[1] or 0) > there[1]

    # --- modules ------------------------------------------------------------------------------------------------------

    def _nothing(self) -> Finding:
        wanted = [piece.module for piece in self.unmatched]
        there = next((module for module in self.names.modules if layer_index(module) is not None), "")
        return finding(
            "LH210",
            f"0 of {len(wanted)} modules are in the base; the adapter has {wanted[0]}, the base has {there}"
            + self._other_prefix(),
            (Evidence(module) for module in wanted),
        )

    def _other_prefix(self) -> str:
        """What would have to stand before the names instead, where that is all that is wrong with them."""
        change = self.names.change_for([piece.module for piece in self.unmatched])
        if change is None:
            return ""
        strip, add = (f"`{part}`" if part else "nothing" for part in change)
        return f". They begin with {strip} where {self.base.architecture}'s begin with {add}: loaders skip them"

    def _twice(self) -> Iterator[Finding]:
        """One weight by two of its names: a loader takes either."""
        if self.adapter.replication:
            return
        first: dict[Any, Update | Part] = {}
        again = []
        for piece, weight in self.matched:
            if isinstance(piece, Update):
                other = first.setdefault((weight.places, weight.is_tied), piece)
                if other.module != piece.module:
                    again.append(Evidence(piece.module, None, f"once; also {other.module}"))
        if again:
            told = f"{len(again)} weights are updated under two names, first {again[0].name}"
            yield finding("LH215", f"{told}: {again[0].expected}", again)

    def _parts_of_tensors(self) -> Iterator[Finding]:
        if self.unclear:
            first, tensor = self.unclear[0]
            yield finding(
                "LH306",
                f"{len(self.unclear)} modules have no tensor of their own, first {first.module} of {tensor}",
                (Evidence(piece.module, _what(piece), tensor) for piece, tensor in self.unclear),
            )

    def _absent(self) -> Iterator[Finding]:
        beyond: list[Evidence] = []
        absent: list[Evidence] = []
        highest = self._highest_layer
        copied = max(self._order, default=0)
        if highest is not None and copied > highest:
            evidence = [Evidence("layer_replication", f"layer {copied}", f"layers 0 to {highest}")]
            yield finding("LH205", f"layer_replication copies layer {copied}; the base has {highest + 1}", evidence)
        for piece in self.unmatched:
            index = layer_index(self.names.near(piece.module))
            if index is not None and highest is not None and index > highest:
                beyond.append(Evidence(piece.module, f"layer {index}", f"layers 0 to {highest}"))
            else:
                near = self._siblings(piece.module) if len(absent) < _MOST_SIBLINGS else None
                absent.append(Evidence(piece.module, _what(piece), near))
        if beyond:
            layers = sorted({int((piece.found or "").split()[-1]) for piece in beyond})
            yield finding(
                "LH205",
                f"{len(beyond)} modules are in layers {layers[0]} to {layers[-1]}; the base has {(highest or 0) + 1}",
                beyond,
            )
        if absent:
            has = f"; the base has {absent[0].expected}" if absent[0].expected else ""
            told = f"{len(absent)} modules are not in the base, first {absent[0].name}{has}{self._other_prefix()}"
            yield finding("LH201", told, absent)

    @cached_property
    def _highest_layer(self) -> int | None:
        """The base's highest, among modules named like those that the adapter found."""
        heads = {
            weight.name.split(f".{layer_index(weight.name)}.")[0]
            for _, weight in self.matched
            if layer_index(weight.name) is not None
        }
        numbers = [
            index
            for module in self.names.modules
            if (index := layer_index(module)) is not None and module.split(f".{index}.")[0] in heads
        ]
        return max(numbers, default=None)

    def _siblings(self, module: str) -> str | None:
        parent = self.names.near(module).rpartition(".")[0]
        leaves = {
            name[len(parent) + 1 :].partition(".")[0] for name in self.names.modules if name.startswith(f"{parent}.")
        }
        return ", ".join(sorted(leaves)[:8]) or None

    # --- shapes -------------------------------------------------------------------------------------------------------

    def _shapes(self) -> Iterator[Finding]:
        by_rule: dict[str, list[Evidence]] = {}
        for piece, weight in self.matched:
            rule = compare_shapes(piece, weight)
            if rule is not None and self._widened(piece, weight):
                rule = "LH306"
            if rule == "LH204" and self._new_rows is not None:
                rule = "LH224"
            if rule is not None:
                pair = Evidence(piece.module, shape_text(asked_shape(piece)), shape_text(weight.shape))
                by_rule.setdefault(rule, []).append(pair)
        for rule, evidence in by_rule.items():
            first = evidence[0]
            flag = next((u.transposed for u in self.adapter.updates if u.module == first.name), False)
            told = {
                "LH202": f"the update is {first.found}, the weight is {first.expected}",
                "LH204": f"{first.found} here, {first.expected} in the base",
                "LH306": f"the input layer takes {first.found} here, {first.expected} in the base: a control LoRA, for "
                "which loaders widen the base",
                "LH224": f"{first.found} here, {first.expected} in the base",
                "LH211": f"fits only as {'(out, in)' if flag else '(in, out)'}, fan_in_fan_out is {str(flag).lower()}",
            }[rule]
            yield finding(rule, f"{len(evidence)} of {len(self.matched)} modules, first {first.name}: {told}", evidence)

    @cached_property
    def _new_rows(self) -> int | None:
        """The size of the adapter's vocabulary, where it is another one than the base's, and the adapter brings every
        tensor whole that has a row for each token.
        """
        of_tokens = [name for name in self.base.tensors if name.rpartition(".")[0].rpartition(".")[2] in VOCABULARY]
        pieces = [(piece, weight) for piece, weight in self.matched if piece.leaf in VOCABULARY]
        sizes = {next(iter(piece.shape), None) for piece, _ in pieces} - {None}
        known = {next(iter(self.base.tensors[name].shape), 0) for name in of_tokens}
        if len(sizes) != 1 or sizes <= known or {_whole(self.base.text_config, "vocab_size")} != known:
            return None
        rows = sizes.pop()
        copies, saved = (
            {(weight.places[0].tensor, weight.is_tied) for piece, weight in pieces if _is(piece, kind)}
            for kind in (PartKind.BASE_COPY, PartKind.REPLACEMENT)
        )
        tied = {weight.places[0].tensor for weight in self.names.weights.values() if weight.is_tied}
        both = copies | saved if self.adapter.ties_weights else copies
        whole = all((name, False) in copies | saved for name in of_tokens)
        heads = all((name, True) in copies | saved or (name, False) in both for name in tied)
        return (
            rows
            if whole and heads and all(max(_tokens(piece), default=0) < (rows or 0) for piece, _ in pieces)
            else None
        )

    # --- what else ----------------------------------------------------------------------------------------------------

    def _coverage(self) -> Iterator[Finding]:
        """Targets of the configuration that the base has and the file has no tensors for."""
        selection = self.adapter.selection
        damaged = any(found.rule in _DAMAGED for found in self.adapter.findings)
        if selection is None or damaged or self.unmatched or not self.adapter.updates or self.adapter.replication:
            return
        have = {weight.places for _, weight in self.matched}
        unclear = {tensor for _, tensor in self.unclear}
        targeted = [one for one in self._targeted(selection) if one.name.rpartition(".")[0] not in self.names.twins]
        expected = {weight.places: weight.name for weight in targeted}
        absent = [name for places, name in expected.items() if places not in have and places[0].tensor not in unclear]
        if absent and len(absent) < len(expected):
            present = len(expected) - len(absent)
            yield finding(
                "LH207",
                f"{present} of the {len(expected)} weights that the configuration names have tensors; not {absent[0]}",
                (Evidence(name) for name in absent),
            )

    def _targeted(self, selection: Selection) -> Iterator[Weight]:
        """Weights of the base that the configuration asks for, by one of its names, as the adapter spells it.

        An expert is a module of its own in transformers 4 only: where the adapter has none such, they are stacked.
        """
        has_experts = any(is_expert(update.module) for update in self.adapter.updates)
        for name, weight in self.names.weights.items():
            module, _, parameter = name.rpartition(".")
            own = self.resolved.as_adapter(module)
            if selection.wraps(f"{own}.{parameter}"):
                yield weight
            elif parameter == "weight" and len(weight.shape) > 1 and self._is_own_tensor(weight):
                is_module = has_experts or not is_expert(module)
                if is_module and selection.covers(own) and not self._is_saved(selection, weight):
                    yield weight

    def _is_own_tensor(self, weight: Weight) -> bool:
        """Whether it is the whole of a tensor that is a module's own."""
        place = weight.places[0]
        is_own = len(weight.places) == 1 and place.is_whole and place.tensor.endswith(".weight")
        return is_own and not weight.is_tied and place.tensor not in self._stacks

    @cached_property
    def _stacks(self) -> frozenset[str]:
        """Tensors that hold all experts, whatever they are called on disk."""
        stacks = (weight for name, weight in self.names.weights.items() if is_stack(name))
        return frozenset(place.tensor for weight in stacks for place in weight.places if place.expert is None)

    def _is_saved(self, selection: Selection, weight: Weight) -> bool:
        modules = self.names.modules_of(weight.places[0].tensor)
        return any(selection.saves(self.resolved.as_adapter(module)) for module in modules)

    def _tied(self) -> Iterator[Finding]:
        tied = next((weight for weight in self.names.weights.values() if weight.is_tied), None)
        if tied is None or not (self.base.architecture or "").endswith(("CausalLM", "LMHeadModel", "Generation")):
            return
        shared = tied.places[0].tensor
        kinds = (PartKind.REPLACEMENT,)
        sides = {
            "head" if weight.is_tied else "embedding"
            for piece, weight in self.matched
            if weight.places[0].tensor == shared and (isinstance(piece, Update) or piece.kind in kinds)
        }
        if len(sides) == 1:
            side = sides.pop()
            yield finding("LH218", f"only the {side} side of the tied weight {shared} is updated", [Evidence(shared)])

    def _widths(self) -> Iterator[Finding]:
        """Prompts, prefixes and bottlenecks have no weight in the base; their width is the model's."""
        for part in self.adapter.parts:
            asked = self._expected_width(part)
            width = part.shape[-1] if part.shape else None
            if asked is not None and width is not None and width != asked:
                name = next(iter(part.tensors.values())).name
                evidence = [Evidence(name, str(width), str(asked))]
                yield finding("LH202", f"{name} has the width {width}, the base has {asked}", evidence)

    def _places(self) -> Iterator[Finding]:
        """Our own bottlenecks stand behind a module that they name; AdapterHub's have places of their own."""
        named = [part.module for part in self.adapter.parts if part.activation is not None]
        if named:
            resolved = self.names.resolve(named, self.adapter.naming).modules
            there = {name[:end] for name in self.names.weights for end, mark in enumerate(name) if mark == "."}
            absent = [Evidence(module) for module in named if resolved.get(module, module) not in there]
            if absent:
                yield finding("LH201", f"{len(absent)} modules are not in the base, first {absent[0].name}", absent)

    def _biases(self) -> Iterator[Finding]:
        """BitFit where only some linear layers have a bias, as in Qwen2."""
        if self.adapter.method != "bitfit":
            return
        linear = [
            name.removesuffix(".weight")
            for name, weight in self.names.weights.items()
            if name.endswith(".weight") and len(weight.shape) == 2 and layer_index(name) is not None
        ]
        without = [Evidence(module) for module in linear if f"{module}.bias" not in self.names.weights]
        if without:
            found = len(linear) - len(without)
            yield finding("LH222", f"{found} of {len(linear)} modules have a bias, not {without[0].name}", without)

    def _expected_width(self, part: Part) -> int | None:
        config = self.base.text_config
        hidden = _whole(config, "hidden_size", "n_embd", "d_model")
        if part.kind is PartKind.PROMPT or (part.kind is PartKind.PREFIX and part.parameter == "adaption_prompt"):
            return hidden
        if part.kind is PartKind.BOTTLENECK:
            return hidden
        layers = _whole(config, "num_hidden_layers", "n_layer")
        heads = _whole(config, "num_attention_heads", "n_head")
        if part.kind is not PartKind.PREFIX or not hidden or not layers or not heads:
            return None
        groups = _whole(config, "num_key_value_heads") or heads
        return layers * 2 * groups * (_whole(config, "head_dim") or hidden // heads)

    def _prefix(self) -> Iterator[Finding]:
        changes = sorted({change for change in self.resolved.changes.values() if change[1]})
        if changes:
            told = (
                f"`{strip}…` in the adapter, `{add}…` in the base" if strip else f"the base's names begin with `{add}`"
                for strip, add in changes
            )
            yield finding(
                "LH221", "; ".join(told), (Evidence(strip or "(nothing)", strip, add) for strip, add in changes)
            )


def _not_understood(pieces: list[Update | Part]) -> Finding:
    told = f"{len(pieces)} modules are named as in no image model that is known here, first {pieces[0].module}"
    return finding("LH306", told, (Evidence(piece.module, _what(piece)) for piece in pieces))


def _terms(adapter: Adapter, base: BaseLayout) -> Iterator[Finding]:
    why = conflict(base.licence, adapter.licence)
    if why is not None:
        yield finding("LH501", why, [Evidence("license", adapter.licence, base.licence)])


def _is_addressed(piece: Update | Part) -> bool:
    if isinstance(piece, Update):
        return True
    return piece.kind in (
        PartKind.BIAS,
        PartKind.BIAS_DELTA,
        PartKind.REPLACEMENT,
        PartKind.BASE_COPY,
        PartKind.TOKEN_ROWS,
    )


def _is(piece: Update | Part, kind: PartKind) -> bool:
    return isinstance(piece, Part) and piece.kind is kind


def _tokens(piece: Update | Part) -> tuple[int, ...]:
    return piece.indices if isinstance(piece, Part) else ()


def _what(piece: Update | Part) -> str:
    return f"{piece.method} {shape_text(piece.shape)}" if isinstance(piece, Update) else piece.kind.value


def _whole(config: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
