"""An adapter of any method that can be merged, as plain LoRA: module by module what the merge would add to the weight,
exactly where the method's algebra allows it, else the best of a rank.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lorahub.adapters.adapter import Adapter, Kind, Part, PartKind, Update
from lorahub.adapters.files import Files
from lorahub.adapters.reader import read_adapter
from lorahub.adapters.shapes import VOCABULARY
from lorahub.conversion import TARGETS, Target, write
from lorahub.conversion.arrays import Array
from lorahub.conversion.lora import Layer, LoraAdapter, refuse_broken
from lorahub.errors import NotConvertible
from lorahub.merging.adapters import Made, made_of
from lorahub.merging.formulas import exact_rank, is_additive, step_of
from lorahub.merging.layout import Extent
from lorahub.merging.low_rank import Approximation, Limit, of_blocks, of_product, product_of
from lorahub.merging.plan import Ingredients, MergePlan
from lorahub.merging.recipe import Ingredient, Recipe
from lorahub.merging.steps import Product
from lorahub.merging.targets import Change

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix

Advance = Callable[[int], None]
_HEADS = frozenset({"lm_head", "embed_out"})
"""Tables of the vocabulary that are linear layers."""
_ASK = "say what it may lose: --rank N, or --keep 0.99 of ‖ΔW‖²"


@dataclass(frozen=True, slots=True)
class _Piece:
    """One change of a module, and the tensor of the merge that it lies in."""

    extent: Extent
    change: Change

    @property
    def is_bias(self) -> bool:
        piece = self.change.piece
        return self.change.is_bias or (isinstance(piece, Part) and piece.parameter == "bias")

    @property
    def first_row(self) -> int:
        """The first of the weight's rows that this is."""
        return self.change.place.rows[0] if self.change.place.rows is not None else 0


def as_lora(
    files: Files,
    base: Files,
    target: Target | None = None,
    *,
    limit: Limit = Limit(),  # noqa: B008 (a value that can't change)
    base_name: str,
    begin: Advance = lambda _: None,
    advance: Advance = lambda _: None,
) -> Made:
    """The files of a LoRA in the target's format, or in the adapter's own.

    The base's weights are read for those modules only whose ΔW depends on them. `begin` is called with the bytes of all
    weights that change, `advance` with those that are done. Raises `AdapterDoesNotFit`, `NotMergeable`, and
    `NotConvertible` for what no LoRA can hold, or none without a loss that `limit` doesn't allow.
    """
    adapter = read_adapter(files)
    refuse_broken(adapter)
    if adapter.replication:
        raise NotConvertible("layer_replication makes layers that the base doesn't have", hint="merge the adapter")
    plan = MergePlan(Recipe(base_name, (Ingredient("the adapter"),)), Ingredients(base, [files], {}))
    layers, losses = [], {}
    found_in = _by_module(plan)
    begin(sum(map(_bytes, found_in.values())))
    for module, pieces in found_in.items():
        layer, found = _layer(plan, module, pieces, limit)
        layers.append(layer)
        losses[module] = found.lost, found.size
        advance(_bytes(pieces))
    if not layers:
        raise NotConvertible("the adapter changes no weight", hint="see `lorahub check`")
    name = adapter.claim.name or base_name
    lora = LoraAdapter(tuple(layers), adapter.naming, name, architecture=plan.base.model_type)
    form = target or (adapter.format if adapter.format in TARGETS else "peft")
    return made_of(write(lora, adapter.format, form, plan.base), layers, losses)


def _bytes(pieces: "Sequence[_Piece]") -> int:
    return sum(piece.extent.target.bytes for piece in pieces)


def needs_weights(adapter: Adapter) -> bool:
    """Whether the base's weights have to be read, and not its headers alone."""
    is_sum = all(is_additive(update, adapter.base_change) for update in adapter.updates)
    return not is_sum or any(part.kind not in (PartKind.BASE_COPY, PartKind.BIAS_DELTA) for part in adapter.parts)


def _by_module(plan: MergePlan) -> dict[str, list[_Piece]]:
    """What changes, but for copies of the base's own weights."""
    found: dict[str, list[_Piece]] = {}
    for file in plan.weights.values():
        for extent in file.extents:
            for change in extent.target.changes:
                if change.piece.kind is not PartKind.BASE_COPY:
                    _refuse(plan, extent, change)
                    found.setdefault(change.piece.module, []).append(_Piece(extent, change))
    return found


def _refuse(plan: MergePlan, extent: Extent, change: Change) -> None:
    """Raises `NotConvertible` for what LoRA has no place for."""
    piece, target = change.piece, extent.target
    name = piece.name if isinstance(piece, Part) else piece.module
    if extent.source is None:
        raise NotConvertible(f"{name} is a module that the base doesn't have", hint="keep the adapter as it is")
    if extent.source.shape != target.shape:
        raise NotConvertible(f"{name} resizes the vocabulary, which no LoRA does", hint="merge it into its base")
    if isinstance(piece, Update) and (piece.parameters != ("weight",) or _is_stack(piece)):
        raise NotConvertible(f"{name} is a stack of experts or a bare parameter", hint="keep it in PEFT's format")
    if not change.is_bias and len(change.target.shape) < 2 and (isinstance(piece, Update) or piece.parameter != "bias"):
        raise NotConvertible(f"{name} is no matrix, which LoRA can't change", hint="merge the adapter into its base")
    is_tied = bool(plan.base.text_config.get("tie_word_embeddings", plan.base.config.get("tie_word_embeddings")))
    is_for_both = piece.kind is PartKind.TOKEN_ROWS or plan.members[0].adapter.ties_weights
    if is_tied and is_for_both and piece.leaf in VOCABULARY:
        raise NotConvertible(f"{name} is tied to the head, a LoRA of it isn't", hint="merge the adapter into its base")


def _is_stack(update: Update) -> bool:
    return len(update.shape) == 3 and update.kind is Kind.LINEAR


# --- one module -------------------------------------------------------------------------------------------------------


def _layer(plan: MergePlan, module: str, pieces: Sequence[_Piece], limit: Limit) -> tuple[Layer, Approximation]:
    weights = [piece for piece in pieces if not piece.is_bias]
    biases = [piece for piece in pieces if piece.is_bias]
    if not weights:
        raise NotConvertible(f"of {module} only the bias changes, which LoRA can't do", hint="merge the adapter")
    product = _product(plan, weights)
    found = of_product(product, limit) if product is not None else _approximated(plan, module, weights, limit)
    return _shaped(module, weights[0].change, found.product, _bias(plan, biases)), found


def _product(plan: MergePlan, weights: Sequence[_Piece]) -> Product | None:
    """Where one update is all that there is, and a product whatever the weight."""
    piece, target = weights[0].change.piece, weights[0].change.target
    if not isinstance(piece, Update) or any(one.change.piece is not piece for one in weights):
        return None
    member = plan.members[0]
    if not is_additive(piece, member.adapter.base_change):
        return None
    product = product_of(step_of(piece, member.factors, member.adapter.base_change, to=target, weight=1.0))
    is_thin = product is not None and product.left.shape[1] < min(len(product.left), product.right.shape[1])
    return product if is_thin or piece.method == "lora" else None


def _approximated(plan: MergePlan, module: str, weights: Sequence[_Piece], limit: Limit) -> Approximation:
    target = weights[0].change.target
    if limit.is_exact:
        rank = _exact_rank(plan, weights)
        if rank is None:
            what = _method(weights[0].change.piece)
            raise NotConvertible(f"{module} ({what}) is no LoRA of a low rank without a loss", hint=_ASK)
        limit = Limit(rank)
    shape = target.shape[0], prod(target.shape[1:])
    return of_blocks(shape, partial(_deltas, plan, weights), limit)


def _method(piece: Update | Part) -> str:
    if isinstance(piece, Part):
        return "a whole module"
    return "DoRA" if piece.is_dora else piece.method


def _exact_rank(plan: MergePlan, weights: Sequence[_Piece]) -> int | None:
    pieces = {id(one.change.piece): one.change.piece for one in weights}
    [first, *others] = pieces.values()
    if isinstance(first, Part):
        return len(first.indices) if first.kind is PartKind.TOKEN_ROWS and not others else None
    return None if others else exact_rank(first, plan.members[0].adapter.base_change)


def _deltas(plan: MergePlan, weights: Sequence[_Piece]) -> Iterator[tuple[int, "Matrix"]]:
    """The rows of ΔW, from the tensors that the weight lies in."""
    for piece in sorted(weights, key=lambda one: one.first_row):
        part = piece.change.place.part
        first, last = part.rows if part is not None and part.rows is not None else (0, piece.extent.target.matrix[0])
        for start, block in plan.deltas(piece.extent):
            begin, end = max(start, first), min(start + len(block), last)
            if begin < end:
                yield piece.first_row + begin - first, block[begin - start : end - start]


def _bias(plan: MergePlan, biases: Sequence[_Piece]) -> Array | None:
    """What is added to the bias (out)."""
    if not biases:
        return None
    change = np.concatenate([block for _, block in _deltas(plan, biases)]).reshape(-1)
    return _written(change) if change.any() else None


def _shaped(module: str, change: Change, product: Product, bias: Array | None) -> Layer:
    """The factors of ΔW as it is stored, as LoRA has them."""
    piece, shape = change.piece, change.target.shape
    is_embedding = piece.kind in (Kind.EMBEDDING, PartKind.TOKEN_ROWS) or (
        piece.kind is PartKind.REPLACEMENT and piece.leaf in VOCABULARY and piece.leaf not in _HEADS
    )
    down, up = product.right, product.left
    if is_embedding or (isinstance(piece, Update) and piece.transposed):
        down, up = up.T, down.T
    if len(shape) > 2:
        inner = (1,) * (len(shape) - 2)
        down, up = down.reshape(len(down), *shape[1:]), up.reshape(*up.shape, *inner)
    return Layer(module, _written(down), _written(up), 1.0, up_bias=bias, is_embedding=is_embedding)


def _written(factor: "Matrix") -> Array:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(factor).astype("<f4")
    if not np.isfinite(values).all():
        raise NotConvertible("a factor is beyond F32", hint="look for NaN or infinity")
    return Array("F32", values)
