"""The canonical kernel: what a tensor's changes come to, block by block.

A block is a fixed number of rows; whoever asks for one byte gets it from the whole block, so blocking, threads and
ranges can't change a result. Sums are float64, `up` is multiplied by scale · weight first, and a result is rounded as
`rounding` says. The version is in `recipe.KERNEL`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import count as counter
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lorahub.adapters.adapter import Kind, Part, PartKind, Update
from lorahub.adapters.names.weight import Weight
from lorahub.adapters.safetensors_header import TensorEntry
from lorahub.errors import NotMergeable
from lorahub.merging.combinations import COMBINATIONS
from lorahub.merging.factors import STEP
from lorahub.merging.formulas import arrays_of, at_place, step_of, turns_bias, within, work_of
from lorahub.merging.recipe import Recipe
from lorahub.merging.rounding import FLOATS, narrow, scratch, widen, working_bytes
from lorahub.merging.steps import Added, Chain, Product, Replaced, Rows, Shifted, Step
from lorahub.merging.targets import Change, MergeMember, MergeTarget, is_sum, is_whole, updates_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lorahub.merging.rounding import Matrix

BLOCK_ELEMENTS = 1 << 18
"""The most that a block has, unless one row has more: half a megabyte of BF16, which stays in a core's cache."""
_MOST_KEPT = 4
_numbers = counter()
"""Tell the kernels of one plan from those of another in the same cache."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What one block of a tensor takes, from headers alone: bytes of memory at the peak, multiplications."""

    memory: int
    work: int


class BlockCache(Protocol):
    """What was computed, by name: blocks, and steps with their factors. `put` may forget whatever it likes."""

    def get(self, key: str) -> Any | None: ...

    def put(self, key: str, value: Any, size: int) -> None:
        """`size` in bytes."""
        ...


class LastFew:
    """Keeps the last few, whatever their size: for whoever goes through a model once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str) -> Any | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, value: Any, size: int) -> None:  # noqa: ARG002 (a count is enough)
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One tensor. `chains` have a step and a weight for each adapter."""

    target: MergeTarget
    block_rows: int
    chains: tuple[tuple[Step, float], ...]
    recipe: Recipe
    is_plain: bool
    """Whether the chains come one after another: sums, or one adapter with a weight of 1."""
    is_additive: bool
    """Whether what is added doesn't depend on the base's rows."""

    def block(self, raw: bytes, dtype: str, start: int) -> memoryview:
        """The rows from `start` rounded to the target's dtype; `raw` are those of the base, of `dtype`.

        They are this thread's until it computes another block.
        """
        return narrow(self._exact(self._base(raw, dtype, start), start), self.target.dtype)

    def loss(self, raw: bytes, dtype: str, start: int) -> tuple[float, float]:
        """What rounding loses of a block: (‖rounded − W′‖², ‖W′ − W‖²)."""
        base = self._base(raw, dtype, start).astype(np.float64)
        exact = np.array(self._exact(base, start), np.float64)
        lost = widen(narrow(exact, self.target.dtype), self.target.dtype).reshape(exact.shape) - exact
        moved = exact - self._base(raw, dtype, start)
        return float(np.sum(lost**2)), float(np.sum(moved**2))

    def delta(self, raw: bytes, dtype: str, start: int, count: int) -> "Matrix":
        """W′ − W of the rows [start, start + count), not rounded; `raw` isn't looked at where `is_additive`."""
        shape = count, self.target.matrix[1]
        if self.is_additive:
            return self._rows(np.zeros(shape), start)
        base = widen(raw, dtype).reshape(shape).astype(np.float64)
        return _minus(self._rows(base.copy(), start), base)

    def _base(self, raw: bytes, dtype: str, start: int) -> "NDArray[Any]":
        rows, columns = self.target.matrix
        count = min(self.block_rows, rows - start)
        return widen(raw, dtype).reshape(count, columns) if raw else np.zeros((count, columns), np.float32)

    def _exact(self, base: "NDArray[Any]", start: int) -> "NDArray[Any]":
        """What the rows come to before they are rounded."""
        if not self.chains:
            return base
        if self.product is not None:
            total = self.product.rows(start, start + len(base), scratch(base.size).reshape(base.shape))
            total += base
            return total
        return self._rows(base.astype(np.float64), start)

    @property
    def product(self) -> Product | None:
        """Where W + left · right is all that is done."""
        first = self.chains[0][0] if len(self.chains) == 1 and self.is_plain else None
        return first if isinstance(first, Product) else None

    def _rows(self, base: "Matrix", start: int) -> "Matrix":
        if self.is_plain:
            for step, _ in self.chains:
                base = step.apply(base, start)
            return base
        deltas = [_minus(step.apply(base.copy(), start), base) for step, _ in self.chains]
        recipe = self.recipe
        weights = [weight for _, weight in self.chains]
        base += COMBINATIONS[recipe.method].apply(deltas, weights, recipe.options(self.target.name))
        return base


class Kernels:
    """Makes kernels, and keeps them in `kept`, or the last few: factors are read when their tensor's turn comes."""

    def __init__(self, members: Sequence[MergeMember], recipe: Recipe, kept: BlockCache | None = None) -> None:
        self.members = members
        self.recipe = recipe
        self._name = f"kernels {next(_numbers)}"
        self._kept = kept or LastFew()
        self._steps_kept = kept or LastFew()
        self._locks: dict[str, Lock] = {}
        self._lock = Lock()

    def is_whole(self, target: MergeTarget) -> bool:
        if self.recipe.method != "sum" and target.changes:
            return True
        return is_whole(target, self.members)

    def block_rows(self, target: MergeTarget) -> int:
        rows, columns = target.matrix
        return rows if self.is_whole(target) else max(1, min(rows, BLOCK_ELEMENTS // max(1, columns)))

    def effort(self, target: MergeTarget, source: str) -> Effort:
        """`source` is the dtype that the base's rows have."""
        updates = [(update, self.members[number].adapter.base_change) for number, update in updates_of(target.changes)]
        numbers = [*self._numbers(target)]
        is_one_product = self.recipe.method == "sum" and len(updates) == 1 == len(target.changes)
        copies = 1 if is_one_product and numbers and _is_laid_out(updates[0][0]) else 2
        columns = max(1, target.matrix[1])
        count = self.block_rows(target) * columns
        most = max([1, *(arrays_of(*update) for update in updates)])
        members = len({change.member for change in target.changes})
        matrices = most + 1
        if self.recipe.method != "sum" or not self._is_plain(target):
            matrices = 1 + members + max(most, COMBINATIONS[self.recipe.method].arrays)
        block = int(count * (8 * matrices + working_bytes(source, target.dtype)))
        each, once = (
            sum(part) for part in zip(*(work_of(update, columns) for update, _ in updates), (1, 0), strict=True)
        )
        read = 16 * min(STEP, max(numbers, default=0))
        return Effort(8 * copies * sum(numbers) + max(block, read), each * count + once)

    def _numbers(self, target: MergeTarget) -> Iterator[int]:
        """How many numbers each factor has that is kept in memory for a tensor."""
        for change in target.changes:
            if isinstance(change.piece, Part) and change.piece.kind is not PartKind.TOKEN_ROWS:
                continue  # read row by row
            yield from (prod(entry.shape) for entry in change.piece.tensors.values())

    def of(self, target: MergeTarget) -> Kernel:
        key = f"{self._name}/{target.name}"
        with self._lock:
            lock = self._locks.setdefault(target.name, Lock())
        with lock:
            kernel = self._kept.get(key)
            if kernel is None:
                kernel = self._make(target)
                self._kept.put(key, kernel, held_bytes(kernel))
            assert isinstance(kernel, Kernel)
            return kernel

    def _is_plain(self, target: MergeTarget) -> bool:
        """Whether the changes come one after another: sums, or one adapter with a weight of 1."""
        if self.recipe.method != "sum":
            return False
        weights = {change.member: change.weight for change in reversed(target.changes)}
        return is_sum(target.changes, self.members) or [*weights.values()] == [1]

    def _make(self, target: MergeTarget) -> Kernel:
        changes = target.changes
        by_member = [[change for change in changes if change.member == number] for number in range(len(self.members))]
        present = [(group, group[0].weight) for group in by_member if group]
        is_additive = is_sum(changes, self.members) and self.recipe.method == "sum"
        is_plain = self._is_plain(target)
        chains = tuple(
            (_chain([*self._steps(target, group, fold=is_additive)]), 1.0 if is_additive else weight)
            for group, weight in present
        )
        if is_additive and all(isinstance(step, Product) for step, _ in chains):
            chains = ((_concatenated([step for step, _ in chains]), 1.0),) if chains else ()
        return Kernel(target, self.block_rows(target), chains, self.recipe, is_plain, is_additive)

    def _steps(self, target: MergeTarget, changes: Sequence[Change], *, fold: bool) -> Iterator[Step]:
        for change in sorted(changes, key=_turn):
            member = self.members[change.member]
            weight = change.weight if fold else 1.0
            if isinstance(change.piece, Part):
                yield within(_part_step(change.piece, member, change, target, weight), change.place)
            elif change.is_bias:
                step = _bias_step(change, member, weight)
                yield at_place(step, change.target, change.place, target.shape)
            else:
                step = self._step(change.piece, member, change.target, weight)
                yield at_place(step, change.target, change.place, target.shape)

    def _step(self, update: Update, member: MergeMember, to: Weight, weight: float) -> Step:
        """The step of a whole weight; experts that lie in tensors of their own share it."""
        if len(update.shape) < 3:
            return step_of(update, member.factors, member.adapter.base_change, to=to, weight=weight)
        key = f"{self._name}/{id(update)}/{weight}"
        step: Step | None = self._steps_kept.get(key)
        if step is None:
            step = step_of(update, member.factors, member.adapter.base_change, to=to, weight=weight)
            self._steps_kept.put(key, step, held_bytes(step))
        return step


def held_bytes(held: Any) -> int:
    """The bytes of all arrays that a kernel or a step holds on to, each counted once."""
    return sum({id(array): array.nbytes for array in _arrays(held)}.values())


def _arrays(held: Any) -> "Iterator[NDArray[Any]]":
    if isinstance(held, np.ndarray):
        while isinstance(held.base, np.ndarray):
            held = held.base
        yield held
    elif isinstance(held, list | tuple):
        for one in held:
            yield from _arrays(one)
    elif is_dataclass(held) and not isinstance(held, MergeTarget | Recipe):
        for field in fields(held):
            yield from _arrays(getattr(held, field.name))


def _is_laid_out(update: Update) -> bool:
    """Whether its factors are used as they lie in the file, without a second copy."""
    is_flat = update.kind is Kind.LINEAR and not update.transposed and len(update.shape) < 3
    return is_flat and update.method in ("lora", "adalora") and not _is_turned(update)


def _is_turned(update: Update) -> bool:
    return any(entry.is_turned for entry in update.tensors.values())


def _minus(changed: "Matrix", base: "Matrix") -> "Matrix":
    changed -= base
    return changed


def _turn(change: Change) -> int:
    """Copies of the base first, then whole tensors, then what is added to them, rows of tokens last."""
    if isinstance(change.piece, Update):
        return 2
    return {PartKind.BASE_COPY: 0, PartKind.TOKEN_ROWS: 3}.get(change.piece.kind, 1)


def _chain(steps: Sequence[Step]) -> Step:
    return steps[0] if len(steps) == 1 else Chain(steps)


def _concatenated(steps: Sequence[Any]) -> Step:
    """Products summed: one product of stacked factors, exactly."""
    if len(steps) == 1:
        return steps[0]  # type: ignore[no-any-return]
    left = np.concatenate([step.left for step in steps], axis=1)
    return Product(left, np.concatenate([step.right for step in steps], axis=0))


def _part_step(part: Part, member: MergeMember, change: Change, target: MergeTarget, weight: float) -> Step:
    entry: TensorEntry = next(iter(part.tensors.values()))
    if part.kind is PartKind.TOKEN_ROWS:
        entry = part.tensors.get("rows", entry)
        if len(part.indices) != entry.shape[0]:
            raise NotMergeable(f"{part.name}: the configuration doesn't say which tokens its rows are for")
        return Rows(np.array(part.indices, np.int64), member.factors.load(entry).reshape(entry.shape[0], -1))
    if entry.dtype not in FLOATS:
        raise NotMergeable(f"{entry.name} is {entry.dtype}", hint="save the adapter in F32, BF16 or F16")
    read: Callable[[int, int], Matrix] = member.factors.rows(entry)
    step: Step = Added(read, weight) if part.kind is PartKind.BIAS_DELTA else Replaced(read)
    rows = change.place.rows
    assert rows is None or part.kind is PartKind.BIAS_DELTA or target.shape == entry.shape
    return Shifted(step, rows[0]) if rows is not None and rows[0] else step


def _bias_step(change: Change, member: MergeMember, weight: float) -> Step:
    """IA3 and RoAd change the outputs, and so their module's bias too; a bias of lora_B is added, scaled."""
    update = change.piece
    assert isinstance(update, Update)  # a bias of a part is a part
    if turns_bias(update):
        return step_of(replace(update, transposed=False), member.factors, None, to=change.target, weight=1.0)
    entry = update.tensors["up_bias"]
    return Added(member.factors.rows(entry), update.scale * weight)
