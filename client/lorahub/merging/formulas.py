"""Each method's formula: an update and its factors -> the step that it is. docs/merging.md has them in a table.

Steps are made for the weight as (out, in); `oriented` turns them for weights stored (in, out).
"""

from collections.abc import Callable, Iterator, Mapping
from math import isqrt, prod
from typing import TYPE_CHECKING

import numpy as np

from lorahub.adapters.adapter import Kind, Update
from lorahub.adapters.base_changes import BaseChange, Taken
from lorahub.adapters.names.weight import TensorPart, Weight, WeightPlace
from lorahub.errors import NotMergeable
from lorahub.merging.factors import FactorReader
from lorahub.merging.steps import (
    Added,
    BlockProducts,
    Chain,
    Circulant,
    ColumnFactors,
    Flipped,
    Hadamard,
    Kronecker,
    Magnitude,
    Permuted,
    Product,
    Reflections,
    Residual,
    Rotation,
    RowFactors,
    RowRotation,
    Scaled,
    Shifted,
    Sparse,
    Stacked,
    Step,
    Within,
)

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix

Roles = Mapping[str, "Matrix"]

ADDITIVE = frozenset("lora adalora loha lokr vera shira full delora miss gralora c3a vblora randlora".split())
"""Methods whose ΔW doesn't depend on W, unless they are DoRA or change the base."""

MERGEABLE = ADDITIVE | {"ia3", "oft", "boft", "hra", "hira"}
_ROTATIONS = {"oft": (2,), "boft": (3, 4)}
"""Dimensions of their rotations."""
_PLAIN = frozenset({"lora", "adalora", "vera", "full", "delora", "miss", "vblora", "randlora"})
"""Methods whose step is a product, or a matrix that is read."""
_NOT_LOADED = frozenset("indices alpha ignored weight down_choices up_choices copied_down copied_up".split())
_CONVERT = "save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"


def refuse_unmergeable(update: Update, change: BaseChange | None, *, is_stack: bool) -> None:
    """Raises `NotMergeable`, from headers alone."""
    if update.method not in MERGEABLE:
        raise NotMergeable(
            f"{update.module}: the method {update.method} isn't merged here", hint="merge it with the PEFT that made it"
        )
    if change is not None and change.taken is None:
        raise NotMergeable(f"{change.setting}: {change.why}", hint=_CONVERT)
    if "rotation" in update.tensors and not _is_rotation(update.tensors["rotation"].shape, update.method):
        shape = list(update.tensors["rotation"].shape)
        raise NotMergeable(f"{update.module}: {shape} is no shape of {update.method}'s", hint="save the adapter again")
    if is_stack and (update.method != "lora" or update.is_dora):
        raise NotMergeable(f"{update.module} is a stack of experts with {update.method}", hint="use plain LoRA")


def _is_rotation(shape: tuple[int, ...], method: str) -> bool:
    return len(shape) in _ROTATIONS[method] and (len(shape) == 2 or shape[-1] == shape[-2])


def needs_whole(update: Update, change: BaseChange | None) -> bool:
    """Whether one row of the result depends on other rows of the weight."""
    if change is not None or "blocks" in update.tensors:
        return True  # blocks turn outputs
    if update.is_dora:
        return update.transposed or update.kind is Kind.EMBEDDING or "input_magnitude" in update.tensors
    return update.transposed and update.method in ("oft", "boft", "hra", "lokr", "gralora", "c3a")


def is_additive(update: Update, change: BaseChange | None) -> bool:
    return update.method in ADDITIVE and not update.is_dora and change is None


def exact_rank(update: Update, change: BaseChange | None) -> int | None:
    """The most that ΔW's rank is, whatever the weight; None where it may be the weight's."""
    if update.is_dora or update.rank is None or update.method not in ("lora", "adalora", "vera", "hra"):
        return None
    return update.rank if change is None else 2 * update.rank  # what is taken away has the same rank


def work_of(update: Update) -> tuple[int, int]:
    """Multiplications: for each number of the weight, and once, to make the step. From headers alone."""
    rank = update.rank or 1
    if update.method in ("oft", "boft"):
        shape = update.tensors["blocks" if "blocks" in update.tensors else "rotation"].shape
        side = shape[-1] if len(shape) > 2 else (1 + isqrt(1 + 8 * shape[1])) // 2
        count = prod(shape[:-2]) if len(shape) > 2 else shape[0]
        return side * (shape[0] if len(shape) == 4 else 1), 8 * count * side**3
    if update.method == "hra":
        return 8 * rank, 2 * rank * prod(update.tensors["reflections"].shape)
    width = update.shape[-1] or 1
    cores = sum(prod(update.tensors[role].shape) for role in ("mid", "t1", "t2") if role in update.tensors)
    return (2 * rank if update.method == "loha" else rank), cores * width


def arrays_of(update: Update, change: BaseChange | None) -> float:
    """Memory that its step takes beside the rows it changes, as a number of such matrices of float64."""
    if change is not None:
        return 8  # a decomposition of the weight
    turned = 2 if update.transposed and needs_whole(update, change) else 0
    return turned + (1 if update.method in _PLAIN else 3)


def step_of(
    update: Update,
    factors: FactorReader,
    change: BaseChange | None,
    *,
    to: Weight,
    weight: float,
) -> Step:
    """The step of the base's weight `to`; `weight` multiplies an additive update and is 1 for others.

    Raises `NotMergeable` where factors are missing.
    """
    roles = {role: factors.load(entry) for role, entry in update.tensors.items() if role not in _NOT_LOADED}
    if len(update.shape) == 3 and update.kind is Kind.LINEAR and update.method == "lora":
        return _experts(update, roles, update.scale * weight, is_turned=to.turns(update.shape))
    step = _MAKERS[update.method](_Case(update, roles, factors, change, to.shape, update.scale * weight))
    step = oriented(step) if update.transposed and update.kind is Kind.LINEAR else step
    if isinstance(step, Product):
        _refuse_another_shape(update, step, to)
    return step


def _refuse_another_shape(update: Update, step: Product, to: Weight) -> None:
    made, asked = (len(step.left), step.right.shape[1]), (to.shape[0], prod(to.shape[1:]))
    if made != asked:
        raise NotMergeable(
            f"{update.module}: its factors make {list(made)}, the weight is {list(to.shape)}", hint="save it again"
        )


def oriented(step: Step) -> Step:
    """The step for the transposed weight: row by row where the method allows it."""
    if isinstance(step, Product | Hadamard | Scaled | RowFactors | ColumnFactors | Sparse):
        return step.flipped
    return step if isinstance(step, Added) else Flipped(step)


def at_place(step: Step, of: Weight, place: WeightPlace, shape: tuple[int, ...]) -> Step:
    """The step for the tensor of this place and shape, of the step for the weight `of`."""
    if place.part is not None and place.part.expert is not None:
        assert isinstance(step, Product)  # whatever else was refused
        return _in_stack(step, place.part, shape, is_turned=of.is_turned)
    if place.expert is not None:
        assert isinstance(step, Stacked)  # only stacks have experts
        step = step.steps[place.expert]
    return within(_of_rows(step, place.rows), place)


def _of_rows(step: Step, rows: tuple[int, int] | None) -> Step:
    if rows is None:
        return step
    start, stop = rows
    if isinstance(step, Stacked):
        return Stacked([Shifted(one, start) for one in step.steps], stop - start)
    return Shifted(step, start) if start else step


def within(step: Step, place: WeightPlace) -> Step:
    """The step for the tensor, of which only some rows may be the weight's."""
    if place.part is None or place.part.rows is None:
        return step
    start, stop = place.part.rows
    return Within(step, start, stop - start)


def _in_stack(step: Product, part: TensorPart, shape: tuple[int, ...], *, is_turned: bool) -> Step:
    """The update of some rows of one expert, on the stack that holds it; where that is turned, they are columns."""
    assert part.expert is not None
    _, height, width = shape
    first = part.rows[0] if part.rows is not None else 0
    if not is_turned:
        return Within(step, part.expert * height + first, len(step.left))
    right = np.zeros((step.left.shape[1], width))
    right[:, first : first + len(step.left)] = step.left.T
    return Within(Product(np.ascontiguousarray(step.right.T), right), part.expert * height, height)


class _Case:
    """One update with its factors in memory."""

    def __init__(
        self,
        update: Update,
        roles: Roles,
        factors: FactorReader,
        change: BaseChange | None,
        shape: tuple[int, ...],
        scale: float,
    ) -> None:
        self.update = update
        self.roles = roles
        self.factors = factors
        self.change = change
        self.shape = shape
        self.scale = scale

    @property
    def out_in(self) -> tuple[int, int]:
        """The weight's (out, in), convolutions flattened."""
        rows, columns = self.shape[0], prod(self.shape[1:])
        return (columns, rows) if self.update.transposed else (rows, columns)


# --- sums of products -------------------------------------------------------------------------------------------------


def _lora(case: _Case) -> Step:
    """ΔW = s · up · down (arXiv:2106.09685); DoRA's magnitude and inits that take from the base around it."""
    step: Step = _low_rank(case)
    remove = _taken_away(case)
    if remove is not None:
        step = Residual(remove, step)
    return _dora(case, step) if case.update.is_dora else step


def _low_rank(case: _Case) -> Product:
    down, up = _down_up(case)
    if "diagonal" in case.roles:
        down = down * case.roles["diagonal"].reshape(-1, 1)
    if case.update.kind is Kind.EMBEDDING:
        down, up = up.T, down.T
    left = np.ascontiguousarray(up)
    left *= case.scale  # the factors are this step's own
    return Product(left, np.ascontiguousarray(down))


def _down_up(case: _Case) -> tuple["Matrix", "Matrix"]:
    """Down (r, in·k·k), up (out, r)."""
    roles = case.roles
    down, up = roles["down"], roles["up"].reshape(len(roles["up"]), -1)
    if "mid" in roles:  # Tucker: mid (r, r, k, k), down (r, in)
        core = np.einsum("ijkl,jn->inkl", roles["mid"], down.reshape(len(down), -1))
        return core.reshape(len(core), -1), up
    return down.reshape(len(down), -1), up


def _adalora(case: _Case) -> Step:
    """ΔW = s · B · (A ∘ E), E (r, 1) (arXiv:2303.10512)."""
    return _low_rank(case)


def _loha(case: _Case) -> Step:
    one, two = (_hadamard_half(case.roles, number) for number in "12")
    return Hadamard(Product(one.left * case.scale, one.right), two)


def _hadamard_half(roles: Roles, number: str) -> Product:
    """w_a · w_b; with Tucker's core t (r, r, k, k): Σ_ij t[i, j] w_a[i, out] w_b[j, in]."""
    a, b, core = roles[f"w{number}_a"], roles[f"w{number}_b"], roles.get(f"t{number}")
    if core is None:
        return Product(a, b)
    right = np.einsum("ijkl,jn->inkl", core, b)
    return Product(np.ascontiguousarray(a.T), right.reshape(len(right), -1))


def _lokr(case: _Case) -> Step:
    one, two = (_kronecker_half(case.roles, half) for half in ("w1", "w2"))
    return Kronecker(one.reshape(len(one), -1) * case.scale, two.reshape(len(two), -1))


def _kronecker_half(roles: Roles, half: str) -> "Matrix":
    if half in roles:
        return roles[half]
    a, b, core = roles[f"{half}_a"], roles[f"{half}_b"], roles.get("t2" if half == "w2" else "t1")
    return a @ b if core is None else np.einsum("ijkl,ip,jr->prkl", core, a, b)


def _vera(case: _Case) -> Step:
    """ΔW = (λ_b ∘ B) · (λ_d ∘ A), both shared by all modules (arXiv:2310.11454)."""
    out, width = case.out_in
    down, up = case.roles["shared_down"], case.roles["shared_up"]
    outputs, ranks = case.roles["lambda_b"].reshape(-1), case.roles["lambda_d"].reshape(-1)
    rank = len(ranks)
    if down.ndim != 2 or up.ndim != 2 or (len(outputs), len(down), up.shape[1]) != (out, rank, rank):
        raise NotMergeable(f"{case.update.module}: its factors don't fit each other", hint="save the adapter again")
    if len(up) < out or down.shape[1] < width:
        raise _too_small(case)
    return Product(outputs[:, None] * up[:out] * case.scale, ranks[:, None] * down[:, :width])


def _delora(case: _Case) -> Step:
    """ΔW = λ/r · B · diag(1 / (‖Aᵢ‖ ‖Bⁱ‖)) · A, each input times the norm of the base's column (arXiv:2503.18225)."""
    down, up = _matrices(case)
    norms = np.maximum(np.linalg.norm(down, axis=1), _LEAST_NORM) * np.maximum(np.linalg.norm(up, axis=0), _LEAST_NORM)
    strength = float(case.roles["strength"].reshape(-1)[0]) / len(down)
    return Product(up * (case.scale * strength / norms), down * case.roles["input_norm"].reshape(-1))


_LEAST_NORM = 1e-4


def _matrices(case: _Case) -> tuple["Matrix", "Matrix"]:
    """Down (r, in), up (out, r), of methods that know no convolutions."""
    down, up = case.roles["down"], case.roles["up"]
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        raise NotMergeable(f"{case.update.module}: its factors have no rank in common", hint="save the adapter again")
    return down, up


def _miss(case: _Case) -> Step:
    """Each run of r inputs gets the same r columns, block (r, out) (arXiv:2409.15371); "mini" repeats its columns."""
    block, (out, width) = case.roles["block"], case.out_in
    if block.ndim == 3:
        raise NotMergeable(f"{case.update.module}: MiSS's bat depends on the base", hint="merge it with PEFT")
    if out % block.shape[1]:
        raise NotMergeable(
            f"{case.update.module}: {block.shape[1]} columns don't repeat to {out}", hint="save it again"
        )
    left = np.tile(block, (1, out // block.shape[1])).T
    return Product(left * case.scale, np.tile(np.eye(len(block)), (1, -(-width // len(block))))[:, :width])


def _gralora(case: _Case) -> Step:
    """A LoRA of rank r / k for each of k · k blocks, and one of all of them."""
    count, _, rank = case.roles["down_blocks"].shape
    if rank % count:
        raise NotMergeable(
            f"{case.update.module}: rank {rank} is not for {count} blocks", hint="save the adapter again"
        )
    step: Step = BlockProducts(case.roles["down_blocks"], case.roles["up_blocks"] * case.scale)
    if "up" in case.roles and "down" in case.roles:
        down, up = _matrices(case)
        every = Product(up * case.scale, down)
        if (len(every.left), every.right.shape[1]) != case.out_in:
            raise NotMergeable(f"{case.update.module}: its second LoRA is for another shape", hint="save it again")
        step = Chain([step, every])
    return step


def _c3a(case: _Case) -> Step:
    """Circulant blocks, over the number of inputs."""
    return Circulant(case.roles["kernel"] * (case.scale / case.out_in[1]))


def _vblora(case: _Case) -> Step:
    """Both factors are made of a bank's vectors: the k of the largest logits, by softmax (arXiv:2405.15179)."""
    down, up = (_of_bank(case, side) for side in ("down", "up"))
    left = up.transpose(0, 2, 1).reshape(-1, up.shape[1])
    return Product(left * case.scale, down.reshape(len(down), -1))


def _of_bank(case: _Case, side: str) -> "Matrix":
    """(…, vector length) of (…, vectors of the bank)."""
    if f"{side}_choices" in case.roles:
        choices = case.factors.integers(case.update.tensors[f"{side}_choices"])
        shares = case.roles[f"{side}_shares"]
        shares = np.concatenate([shares, 1 - shares.sum(axis=-1, keepdims=True)], axis=-1)
        is_inside = choices.size and 0 <= choices.min() <= choices.max() < len(case.roles["bank"])
        if shares.shape != choices.shape or not is_inside:
            raise NotMergeable(f"{case.update.module}: vectors outside the bank", hint="save the adapter again")
    else:
        logits = case.roles[f"{side}_logits"]
        choices = np.argsort(-logits, axis=-1, kind="stable")[..., : case.update.terms or 1]
        chosen = np.take_along_axis(logits, choices, axis=-1)
        shares = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
    return np.asarray((shares[..., None] * case.roles["bank"][choices]).sum(axis=-2), np.float64)


def _randlora(case: _Case) -> Step:
    """ΔW = Σₙ Bₙ Λₙ A Γₙ with random A and B that all modules share (arXiv:2502.00987), the smaller side with A."""
    out, width = case.out_in
    lambdas, gammas = case.roles["lambda_r"], case.roles["gamma"]
    small, large, count = min(out, width), max(out, width), len(gammas)
    if "shared_down" not in case.roles or "shared_up" not in case.roles:
        raise NotMergeable(
            f"{case.update.module}: RandLoRA's bases are not in the file (save_projection=false)",
            hint="save the adapter with save_projection=True",
        )
    down, up = case.roles["shared_down"], case.roles["shared_up"]
    rank = len(lambdas)
    if down.shape[:-1] != (rank, 1) or up.ndim != 3 or up.shape[2] != rank:
        raise NotMergeable(f"{case.update.module}: the bases have another rank", hint="save the adapter again")
    if min(down.shape[2], gammas.shape[1]) < small or len(up) < large or up.shape[1] < count:
        raise _too_small(case)
    down, up = lambdas[:, :, None] * down[:, :, :small] * gammas[None, :, :small], up[:large, :count]
    left, right = up.reshape(large, -1), down.reshape(-1, small)  # PEFT's order, though the two have another
    product = Product(left * case.scale, right)
    return product if small == width else product.flipped


def _too_small(case: _Case) -> NotMergeable:
    return NotMergeable(
        f"{case.update.module}: what all modules share is smaller than the weight", hint="save the adapter again"
    )


def _shira(case: _Case) -> Step:
    at = case.factors.integers(case.update.tensors["indices"])
    out, width = case.out_in
    inside = at.ndim == 2 and len(at) == 2 and at.min(initial=0) >= 0
    if not inside or at[0].max(initial=0) >= out or at[1].max(initial=0) >= width:
        raise NotMergeable(f"{case.update.module}: indices outside the weight", hint="save the adapter again")
    return Sparse(case.roles["values"].reshape(-1) * case.scale, at)


def _full(case: _Case) -> Step:
    return Added(case.factors.rows(case.update.tensors["weight"]), case.scale)


def _experts(update: Update, roles: Roles, scale: float, *, is_turned: bool) -> Step:
    """One product an expert; `is_turned`: stored (experts, in, out)."""
    _, out, width = update.shape
    downs, ups = expert_factors(update, roles["down"], roles["up"])
    steps = [Product(np.ascontiguousarray(up) * scale, down) for up, down in zip(ups, downs, strict=True)]
    return Stacked([step.flipped for step in steps] if is_turned else steps, (width if is_turned else out) or 0)


def expert_factors(update: Update, down: "Matrix", up: "Matrix") -> tuple["Matrix", "Matrix"]:
    """Down (experts, r, in) and up (experts, out, r): as they are, or of the matrices that PEFT has, `down`
    (experts·r, in) expert by expert and `up` (out, r·experts) rank by rank.
    """
    experts, out, width = (size or 0 for size in update.shape)
    if down.ndim == 3:
        return down, up
    rank = update.rank or 1
    return down.reshape(experts, rank, width), up.reshape(out, rank, experts).transpose(2, 0, 1)


# --- DoRA -------------------------------------------------------------------------------------------------------------


def _dora(case: _Case, inner: Step) -> Step:
    if "input_magnitude" in case.roles:
        return Magnitude(inner, case.roles["input_magnitude"].reshape(-1), axis=0, group=prod(case.shape[2:]))
    magnitude = case.roles["magnitude"].reshape(-1)
    return Magnitude(inner, magnitude, axis=0) if case.update.kind is Kind.EMBEDDING else Magnitude(inner, magnitude)


# --- starts that change the base --------------------------------------------------------------------------------------


def _taken_away(case: _Case) -> Callable[["Matrix"], "Matrix"] | None:
    """What PEFT subtracts from the base when it loads the adapter: W (out, in) -> the same shape."""
    taken, rank = None if case.change is None else case.change.taken, case.update.rank or 1
    if taken is Taken.SMALLEST:
        return lambda weight: _svd_part(weight, slice(min(weight.shape) - rank, None))
    if taken is Taken.LARGEST:
        return lambda weight: _svd_part(weight, slice(rank))
    if taken is Taken.ORTHOGONAL:
        return lambda weight: _qr_part(weight, rank) * case.update.scale
    return None


def _svd_part(weight: "Matrix", part: slice) -> "Matrix":
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    return np.asarray((u[:, part] * s[part]) @ v[part], np.float64)


def _qr_part(weight: "Matrix", rank: int) -> "Matrix":
    q, r = np.linalg.qr(weight)
    return np.asarray(q[:, :rank] @ r[:rank], np.float64)


# --- factors and rotations --------------------------------------------------------------------------------------------


def _ia3(case: _Case) -> Step:
    """W ∘ l: for each output, for feed-forward modules each input (arXiv:2205.05638). LyCORIS's growth is l − 1."""
    factors = (case.roles["factor"] if "factor" in case.roles else 1 + case.roles["growth"]).reshape(-1)
    if case.update.shape[0] is None:
        return ColumnFactors(np.repeat(factors, prod(case.shape[2:]) if len(case.shape) > 2 else 1))
    return RowFactors(factors)


def _hira(case: _Case) -> Step:
    return Scaled(_low_rank(case))


def _oft(case: _Case) -> Step:
    if "blocks" in case.roles:
        return _output_blocks(case, case.roles["blocks"])
    raw = case.roles["rotation"]
    size = (1 + isqrt(1 + 8 * raw.shape[1])) // 2
    skew = np.zeros((len(raw), size, size))
    above = np.triu_indices(size, 1)
    skew[:, above[0], above[1]] = raw
    skew -= skew.transpose(0, 2, 1)
    blocks = _rotations(skew, case.update.terms)
    width = case.out_in[1]
    return Rotation(np.broadcast_to(blocks, (width // size, size, size)) if len(blocks) == 1 else blocks)


def _rotations(skew: "Matrix", terms: int | None) -> "Matrix":
    """Cayley's transform (I − Q)(I + Q)⁻¹, or its series I + 2Q + 2Q² + … + Qⁿ as PEFT cuts it."""
    unit = np.eye(skew.shape[-1])
    if terms is None:
        return np.asarray((unit - skew) @ np.linalg.inv(unit + skew), np.float64)
    blocks = np.broadcast_to(unit, skew.shape).copy()
    if terms > 1:
        blocks += 2 * skew
    if terms > 2:
        power = skew @ skew
        blocks += 2 * power
        for _ in range(3, min(terms, _MOST_TERMS) - 1):
            power = power @ skew
            blocks += 2 * power
        blocks += power @ skew
    return blocks


_MOST_TERMS = 64


def _output_blocks(case: _Case, raw: "Matrix") -> Step:
    """Blocks (count, b, b) turn outputs; made skew-symmetric first (kohya-ss `networks/oft.py`)."""
    skew = raw - raw.transpose(0, 2, 1)
    if "alpha" in case.update.tensors:
        limit = float(case.factors.load(case.update.tensors["alpha"]).reshape(-1)[0]) * case.shape[0]
        norm = float(np.linalg.norm(skew)) + 1e-8
        skew = skew * (min(norm, limit) / norm) if limit > 0 else skew
    unit = np.eye(skew.shape[-1])
    return RowRotation(np.asarray((unit + skew) @ np.linalg.inv(unit - skew), np.float64))


def _boft(case: _Case) -> Step:
    """Butterflies of block rotations, then a factor for each output (arXiv:2311.06243)."""
    raw = case.roles["rotation"]
    raw = raw if raw.ndim == 4 else raw[None]
    skew = (raw - raw.transpose(0, 1, 3, 2)) / 2
    unit = np.eye(raw.shape[-1])
    levels, count, size = raw.shape[:3]
    if levels > 1 and (count % 2 ** (levels - 1) or size % 2):
        raise NotMergeable(
            f"{case.update.module}: {levels} levels are no butterfly of {count} blocks of {size}",
            hint="save the adapter again",
        )
    steps: list[Step] = []
    for level in range(levels):
        step: Step = Rotation((unit - skew[level]) @ np.linalg.inv(unit + skew[level]))
        if levels > 1:
            order = _butterfly(count * size, count // 2**level, size // 2)
            step = Permuted(step, np.argsort(order))
        steps.append(step)
    return Chain([*steps, RowFactors(case.roles["factor"].reshape(-1))])


def _butterfly(width: int, count: int, half: int) -> "np.typing.NDArray[np.int64]":
    """PEFT's `block_butterfly_perm`: inside each of `count` blocks, groups of `half` columns, even ones first."""
    block = width // count
    groups = np.arange(block).reshape(-1, half)
    inner = np.concatenate([groups[::2], groups[1::2]]).reshape(-1)
    return np.asarray((np.arange(0, width, block)[:, None] + inner).reshape(-1), np.int64)


def _hra(case: _Case) -> Step:
    vectors = case.roles["reflections"]
    with np.errstate(divide="ignore", invalid="ignore"):
        if case.update.is_orthonormal:
            vectors = np.stack(list(_gram_schmidt(vectors)), axis=1)
        units = vectors / np.linalg.norm(vectors, axis=0)
    if not np.isfinite(units).all():
        raise NotMergeable(f"{case.update.module}: a reflection has no direction", hint="save the adapter again")
    return Reflections(units)


def _gram_schmidt(vectors: "Matrix") -> Iterator["Matrix"]:
    done: list[Matrix] = []
    for vector in vectors.T:
        rest = vector.copy()
        for earlier in done:
            rest -= (earlier @ rest) * earlier
        done.append(rest / np.linalg.norm(rest))
        yield done[-1]


_MAKERS: Mapping[str, Callable[[_Case], Step]] = {
    "lora": _lora,
    "adalora": _adalora,
    "loha": _loha,
    "lokr": _lokr,
    "vera": _vera,
    "shira": _shira,
    "delora": _delora,
    "miss": _miss,
    "gralora": _gralora,
    "c3a": _c3a,
    "vblora": _vblora,
    "randlora": _randlora,
    "full": _full,
    "ia3": _ia3,
    "hira": _hira,
    "oft": _oft,
    "boft": _boft,
    "hra": _hra,
}
