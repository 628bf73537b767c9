"""Which tensors come out of a merge, and what each is made of: from headers alone.

Layers are replicated, tied heads separated and new heads added here; the arithmetic comes later.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from lorahub.adapters.adapter import Adapter, Kind, Part, PartKind, Update
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.check import Report, check
from lorahub.adapters.findings import Verdict
from lorahub.adapters.formats import format_of
from lorahub.adapters.names.base_names import BaseNames
from lorahub.adapters.names.weight import Weight, WeightPlace
from lorahub.adapters.patterns import Patterns, layer_index
from lorahub.adapters.rules import Severity
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.adapters.shapes import VOCABULARY
from lorahub.errors import AdapterDoesNotFit, NotMergeable
from lorahub.merging.factors import FactorReader
from lorahub.merging.formulas import is_additive, needs_whole, refuse_unmergeable, turns_bias
from lorahub.merging.recipe import Ingredient
from lorahub.merging.rounding import FLOATS

_HEAD = "lm_head.weight"
_WHOLE = (PartKind.REPLACEMENT, PartKind.BASE_COPY)
_OF_BOTH = (PartKind.TOKEN_ROWS, PartKind.BASE_COPY)
"""Parts that PEFT has once for a tied pair."""


@dataclass(frozen=True)
class MergeMember:
    """One adapter of a merge, as far as headers tell."""

    adapter: Adapter
    factors: FactorReader
    ingredient: Ingredient

    def weight_of(self, module: str) -> float:
        if not self.ingredient.layers:
            return self.ingredient.weight
        return Patterns(self.ingredient.layers).value(module, self.ingredient.weight)


@dataclass(frozen=True, slots=True)
class Change:
    """What one piece of one adapter does to a tensor. `place` is the part of the piece's weight that the tensor is."""

    member: int
    weight: float
    piece: Update | Part
    target: Weight
    place: WeightPlace
    is_bias: bool = False
    """Whether it is what an update does to its module's bias, rather than to its weight."""


@dataclass
class MergeTarget:
    """A tensor that comes out. `source` is the base's tensor that it starts from, None for a new one."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str | None
    changes: list[Change] = field(default_factory=list)

    @property
    def is_stack(self) -> bool:
        return any(
            (change.place.part is not None and change.place.part.expert is not None)
            or (len(change.piece.shape) == 3 and _is_linear(change.piece))
            for change in self.changes
        )

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns) that steps see."""
        if len(self.shape) < 2:
            return prod(self.shape), 1
        if self.is_stack:
            return prod(self.shape[:-1]), self.shape[-1]
        return self.shape[0], prod(self.shape[1:])

    @property
    def bytes(self) -> int:
        return prod(self.shape) * FLOATS[self.dtype] if self.dtype in FLOATS else 0


@dataclass(frozen=True)
class OutputModel:
    """What comes out. `configuration` are the values of config.json that change."""

    targets: Mapping[str, list[MergeTarget]]
    """By the base's tensor that they stand in the place of; under "" those that stand behind the last."""
    configuration: Mapping[str, Any]
    notes: tuple[str, ...]
    layers: Sequence[int] = ()
    """The base's layer for each layer, where layers are replicated."""


def _is_linear(piece: Update | Part) -> bool:
    return isinstance(piece, Update) and piece.kind is Kind.LINEAR


def fit(member: MergeMember, base: BaseLayout, names: BaseNames) -> Report:
    """Raises `AdapterDoesNotFit` or `NotMergeable`."""
    adapter, name = member.adapter, member.ingredient.source
    if base.is_quantised:
        raise NotMergeable(
            f"the weights of {base.name or 'the base'} are quantised ({(base.quantisation or 'packed').upper()}); "
            "merging into such weights isn't supported yet",
            hint="merge into the 16-bit model it was made from",
        )
    report = check(adapter, base, names=names)
    errors = [found for found in report.findings if found.severity is Severity.ERROR]
    if errors or report.verdict is Verdict.UNDECIDED:
        worst = errors[0] if errors else min(report.findings, key=lambda found: found.rule != "LH306")
        raise AdapterDoesNotFit(f"{name}: {worst.message}", hint=worst.hint, rule=worst.rule)
    if not adapter.is_mergeable:
        why = adapter.obstacle or adapter.method
        raise NotMergeable(
            f"{name} acts on activations ({why}), not on weights: there is nothing to merge",
            hint="load it beside its base",
        )
    row = format_of(adapter)
    if row is not None and row.reorders_rows:
        raise NotMergeable(
            f"{name} is in the format of {adapter.format}, whose rows of q and k are in another order",
            hint="convert it first: lorahub convert ADAPTER FOLDER --to peft"
            if row.is_convertible
            else "merge the adapter that it was made from",
        )
    return report


def model_of(base: BaseLayout, members: Sequence[MergeMember], dtype: str | None) -> OutputModel:
    """Raises `AdapterDoesNotFit` and `NotMergeable`."""
    return _Builder(base, members, dtype).build()


class _Builder:
    def __init__(self, base: BaseLayout, members: Sequence[MergeMember], dtype: str | None) -> None:
        self.base = base
        self.members = members
        self.dtype = dtype
        self.order = self._replication()
        self.notes: list[str] = []
        self.configuration: dict[str, Any] = {}
        self.targets: dict[str, list[MergeTarget]] = {name: self._copies(name) for name in base.tensors}
        self.by_name = {target.name: target for made in self.targets.values() for target in made}
        self.embedding: str | None = None
        self.head: list[Change] = []

    def build(self) -> OutputModel:
        names = BaseNames(self.base)
        for number, member in enumerate(self.members):
            report = fit(member, self.base, names)
            self._take(number, member, report)
        self._separate_head()
        for target in self.by_name.values():
            self._resize(target)
        if self.order:
            self.configuration["num_hidden_layers"] = len(self.order)
            self.notes.append(f"layers are replicated: the model has {len(self.order)}")
        if self.dtype:
            self.configuration["dtype"] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}[
                self.dtype
            ]
        return OutputModel(self.targets, self.configuration, tuple(self.notes), self.order)

    # --- tensors ------------------------------------------------------------------------------------------------------

    def _replication(self) -> list[int]:
        orders = {member.adapter.layers for member in self.members}
        if len(orders) > 1:
            raise NotMergeable("the adapters replicate layers in different ways", hint="merge them one at a time")
        return list(orders.pop())

    def _copies(self, name: str) -> list[MergeTarget]:
        tensor, index = self.base.tensors[name], layer_index(name)
        dtype = self.dtype if self.dtype and tensor.dtype in FLOATS else tensor.dtype
        if not self.order or index is None:
            return [MergeTarget(name, dtype, tensor.shape, name)]
        places = [new for new, old in enumerate(self.order) if old == index]
        return [MergeTarget(_renumbered(name, index, new), dtype, tensor.shape, name) for new in places]

    def _named(self, place: str, module: str) -> MergeTarget:
        """The tensor that stands for `place` in the layer of the adapter's `module`."""
        old, new = layer_index(place), layer_index(module)
        name = _renumbered(place, old, new) if self.order and old is not None and new is not None else place
        return self.by_name[name]

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _take(self, number: int, member: MergeMember, report: Report) -> None:
        pairs: list[tuple[Update | Part, Weight]] = [*report.bound, *report.placed]
        is_both = member.adapter.ties_weights
        for piece, weight in pairs:
            if is_both and weight.is_tied:
                continue  # the embedding carries it for both
            if isinstance(piece, Update):
                self._take_update(number, member, piece, weight)
            else:
                self._take_part(number, member, piece, weight)
        known = {id(piece) for piece, _ in pairs}
        for part in member.adapter.parts:
            if id(part) not in known:
                self._take_new(number, part)

    def _take_update(self, number: int, member: MergeMember, update: Update, weight: Weight) -> None:
        is_stack = len(update.shape) == 3 and update.kind is Kind.LINEAR
        refuse_unmergeable(update, member.adapter.base_change, is_stack=is_stack)
        if update.method in ("vera", "pvera") and not {"shared_down", "shared_up"} <= update.tensors.keys():
            raise NotMergeable(
                f"the projections of {update.method} are not in the file (save_projection=false); they come from "
                "torch's random numbers, which may differ between versions",
                hint="save the adapter with save_projection=True",
            )
        self._refuse_pieces(member, update, weight)
        factor = member.weight_of(update.module)
        self._place(number, factor, update, weight)
        touches_bias = "up_bias" in update.tensors or turns_bias(update)
        biases = [replace(place, tensor=f"{place.tensor.removesuffix('.weight')}.bias") for place in weight.places]
        if touches_bias and all(place.tensor in self.base.tensors for place in biases):
            target = Weight(f"{weight.name.removesuffix('.weight')}.bias", weight.shape[:1], weight.dtype, ())
            for place in biases:
                change = Change(number, factor, update, target, place, is_bias=True)
                self._named(place.tensor, update.module).changes.append(change)
        elif "up_bias" in update.tensors:
            raise NotMergeable(
                f"{update.module} has a bias on lora_B, its layer in the base has none", hint="train without lora_bias"
            )

    def _refuse_pieces(self, member: MergeMember, update: Update, weight: Weight) -> None:
        change = member.adapter.base_change
        is_whole = len(weight.places) == 1 and weight.places[0].part is None
        if not is_whole and needs_whole(update, change):
            raise NotMergeable(
                f"{update.module} is no tensor of its own in the base, and {update.method} needs it whole",
                hint="merge it with PEFT",
            )
        is_sum = is_additive(update, change) and update.method in ("lora", "adalora", "vera")
        part = weight.places[0].part
        if part is not None and part.expert is not None and not is_sum:
            raise NotMergeable(
                f"{update.module} is a part of {weight.places[0].tensor}, to which only plain LoRA can be added",
                hint="merge it into a base that stores each expert by itself",
            )

    def _take_part(self, number: int, member: MergeMember, part: Part, weight: Weight) -> None:
        is_whole = len(weight.places) == 1 and weight.places[0].part is None
        if part.kind in (PartKind.REPLACEMENT, PartKind.BASE_COPY, PartKind.BIAS) and not is_whole:
            raise NotMergeable(f"{part.name} is stored in pieces in the base", hint="merge it with PEFT")
        self._place(number, member.weight_of(part.module), part, weight)

    def _take_new(self, number: int, part: Part) -> None:
        """A module that the base's file doesn't have: a head for another task."""
        if part.kind is not PartKind.REPLACEMENT:
            raise NotMergeable(f"{part.name} has no place in the base", hint="see `lorahub check`")
        entry = next(iter(part.tensors.values()))
        if part.name in self.by_name:
            raise NotMergeable(f"two adapters bring {part.name}", hint="merge them one at a time")
        target = MergeTarget(part.name, self.dtype or entry.dtype, entry.shape, None)
        weight = Weight(part.name, entry.shape, entry.dtype, (WeightPlace(part.name),))
        target.changes.append(Change(number, 1.0, part, weight, WeightPlace(part.name)))
        self.targets.setdefault("", []).append(target)
        self.by_name[part.name] = target
        self.notes.append(f"{part.name} is new: it comes from the adapter")

    def _place(self, number: int, factor: float, piece: Update | Part, weight: Weight) -> None:
        changes = [Change(number, factor, piece, weight, place) for place in weight.places]
        if weight.is_tied:
            self.head += changes
            self.embedding = weight.places[0].tensor
            return
        for change in changes:
            target = self._named(change.place.tensor, piece.module)
            if target.dtype not in FLOATS:
                raise NotMergeable(f"{target.name} is {target.dtype}", hint="merge into a base of BF16, F16 or F32")
            target.changes.append(change)

    # --- tied heads, resized vocabularies -----------------------------------------------------------------------------

    def _separate_head(self) -> None:
        """A head that is the input embedding becomes a tensor of its own where only one of the two changes.

        Rows of trained tokens and copies of the base's own weights are of both: PEFT ties the two, and may write them
        twice.
        """
        tied = self.base.text_config.get("tie_word_embeddings", self.base.config.get("tie_word_embeddings"))
        source = self.embedding or self._tied_embedding()
        if source is None or not (tied or self.head):
            return
        changes = self.by_name[source].changes
        both = [change for change in changes if self._is_for_both(change)]
        kinds = {(change.member, change.piece.kind) for change in both}
        self.head = [change for change in self.head if (change.member, change.piece.kind) not in kinds]
        if len(both) == len(changes) and not self.head:
            return
        own_name = next((change.target.name for change in self.head if change.target.name != _HEAD), _HEAD)
        name = source.rpartition("model.embed_tokens")[0] + own_name if "model.embed_tokens" in source else own_name
        tensor = self.base.tensors[source]
        head = MergeTarget(name, self.by_name[source].dtype, tensor.shape, source, [*both, *self.head])
        self.targets[source].append(head)
        self.by_name[name] = head
        self.configuration["tie_word_embeddings"] = False
        self.notes.append(f"{name} is a tensor of its own now: the adapter changes only one of the two tied weights")

    def _tied_embedding(self) -> str | None:
        return next((name for name in self.base.tensors if name.endswith(("embed_tokens.weight", "wte.weight"))), None)

    def _is_for_both(self, change: Change) -> bool:
        return change.piece.kind in _OF_BOTH or self.members[change.member].adapter.ties_weights

    def _resize(self, target: MergeTarget) -> None:
        """A whole tensor of another size in its place: a vocabulary that grew."""
        wholes = [
            _entry(change.piece)
            for change in target.changes
            if isinstance(change.piece, Part) and change.piece.kind in _WHOLE
        ]
        sizes = {entry.shape for entry in wholes} - {target.shape}
        if not sizes:
            return
        if len(sizes) > 1 or len(self.members) > 1:
            raise NotMergeable(f"{target.name} is resized, by one adapter of several", hint="merge them one at a time")
        target.shape = sizes.pop()
        if any(change.weight != 1 for change in target.changes):
            raise NotMergeable(f"{target.name} is resized: a part of it is no embedding", hint="give it the weight 1")
        if target.name.rpartition(".")[0].rpartition(".")[2] in VOCABULARY:
            self.configuration["vocab_size"] = target.shape[0]
            self.notes.append(f"the vocabulary has {target.shape[0]} tokens, as the adapter's")


def _entry(part: Part) -> TensorEntry:
    return next(iter(part.tensors.values()))


def _renumbered(name: str, old: int | None, new: int | None) -> str:
    return name.replace(f".{old}.", f".{new}.", 1)


def is_whole(target: MergeTarget, members: Sequence[MergeMember]) -> bool:
    """Whether a row of the result depends on other rows."""
    updates = updates_of(target.changes)
    return any(needs_whole(update, members[number].adapter.base_change) for number, update in updates)


def is_sum(changes: Iterable[Change], members: Sequence[MergeMember]) -> bool:
    """Whether all changes only add something that doesn't depend on the weight."""
    for change in changes:
        if isinstance(change.piece, Part):
            if change.piece.kind is not PartKind.BIAS_DELTA:
                return False
        elif not (is_additive(change.piece, members[change.member].adapter.base_change)):
            return False
    return True


def updates_of(changes: Iterable[Change]) -> Iterator[tuple[int, Update]]:
    """Those of the weight itself, each with the number of its member."""
    for change in changes:
        if isinstance(change.piece, Update) and not change.is_bias:
            yield change.member, change.piece
