"""Methods whose ΔW depends on the weight: they scale it, turn it, or replace a part of it."""

from collections.abc import Callable, Iterator, Mapping
from math import isqrt, prod
from typing import TYPE_CHECKING

import numpy as np

from lorahub.merging.formulas.case import Case
from lorahub.merging.formulas.sums import low_rank, svd_part
from lorahub.merging.steps import (
    Activated,
    Chain,
    ColumnFactors,
    Deflated,
    Permuted,
    Product,
    Reflections,
    Residual,
    Rotation,
    RowFactors,
    RowPairs,
    RowRotation,
    RunsTurned,
    Scaled,
    Step,
)

if TYPE_CHECKING:
    from lorahub.merging.rounding import Matrix


def ia3(case: Case) -> Step:
    """W ∘ l: for each output, for feed-forward modules each input (arXiv:2205.05638). LyCORIS's growth is l − 1."""
    factors = (case.roles["factor"] if "factor" in case.roles else 1 + case.roles["growth"]).reshape(-1)
    if case.update.shape[0] is None:
        return ColumnFactors(np.repeat(factors, prod(case.shape[2:]) if len(case.shape) > 2 else 1))
    return RowFactors(factors)


def hira(case: Case) -> Step:
    return Scaled(low_rank(case))


def miss_bat(case: Case) -> Step:
    """Each run of r inputs is turned by a block of its r outputs, (out / r, r, r), which is added too."""
    blocks, (out, width) = case.roles["block"], case.out_in
    count, size, _ = blocks.shape
    if blocks.shape[2] != size or count * size != out or width % size:
        raise case.refused(f"blocks of {size} don't fit [{out}, {width}]")
    return RunsTurned(blocks)


def road(case: Case) -> Step:
    """Outputs in pairs, each pair turned and stretched (arXiv:2409.00119): R · W, and R · b."""
    group, (out, _) = case.update.number or 0, case.out_in
    angles, lengths = case.roles["angles"].reshape(-1), case.roles["lengths"].reshape(-1)
    if group < 2 or group % 2 or out % group or len(angles) != len(lengths):
        raise case.refused(f"groups of {group} don't fit {out} outputs")
    per_group = len(angles) * group // out
    if per_group * out != len(angles) * group or per_group not in (group // 2, group, 2 * group):
        raise case.refused(f"{len(angles)} angles don't fit {out} outputs")
    times = 2 if per_group == group // 2 else 1  # both of a pair have the same
    turned, stretched = (np.tile(part.reshape(-1, per_group), times) for part in (angles, lengths))
    first, last = slice(group), slice(-group, None)  # one and the same, but where each number has two of its own
    kept = stretched[:, first] * np.cos(turned[:, first])
    crossed = stretched[:, last] * np.sin(turned[:, last])
    return RowPairs(kept.reshape(-1), crossed.reshape(-1), group)


def deft(case: Case) -> Step:
    """(I − Q · rightᵀ) · W + s · Q · R: what P spans is taken away and written anew; PaRa has no R."""
    factor = case.roles["projection"]
    if case.update.variant not in ("relu", "qr"):
        raise case.refused(f"the decomposition {case.update.variant[:20]} isn't merged here", hint="merge it with PEFT")
    left = factor if case.update.variant == "relu" else np.linalg.qr(factor)[0]
    right = np.maximum(left, 0) if case.update.variant == "relu" else left
    anew = case.roles.get("right")
    if len(left) != case.out_in[0] or (anew is not None and anew.shape != (left.shape[1], case.out_in[1])):
        raise case.refused("its factors don't fit the weight")
    return Deflated(left, right, None if anew is None else anew * case.scale)


def osf(case: Case) -> Step:
    """The smallest part of W's singular value decomposition in another form (arXiv:2504.07097)."""
    left, values, right = case.roles["left"], case.roles["values"].reshape(-1), case.roles["right"]
    rank = len(values)
    if (left.shape, right.shape) != ((case.out_in[0], rank), (rank, case.out_in[1])):
        raise case.refused("its factors don't fit the weight")
    kept = min(case.out_in) - rank
    return Residual(lambda weight: svd_part(weight, slice(max(kept, 0), None)), Product(left * values, right))


def peanut(case: Case) -> Step:
    """ΔW = s · B · f(A · W), without layers between (arXiv:2410.01870)."""
    down, up = case.roles["down"], case.roles["up"]
    out, rank = case.out_in[0], len(down)
    if (down.shape, up.shape) != ((rank, out), (out, rank)):
        raise case.refused("its factors don't fit the weight")
    if case.update.variant not in _ACTIVATIONS:
        raise case.refused(f"the activation {case.update.variant[:20]} isn't merged here", hint="merge it with PEFT")
    return Activated(down, up * case.scale, _ACTIVATIONS[case.update.variant])


_ACTIVATIONS: "Mapping[str, Callable[[Matrix], Matrix]]" = {
    "relu": lambda numbers: np.maximum(numbers, 0),
    "relu6": lambda numbers: np.clip(numbers, 0, 6),
    "tanh": np.tanh,
    "sigmoid": lambda numbers: 1 / (1 + np.exp(-numbers)),
    "silu": lambda numbers: numbers / (1 + np.exp(-numbers)),
    "swish": lambda numbers: numbers / (1 + np.exp(-numbers)),
    "linear": lambda numbers: numbers,
}


def oft(case: Case) -> Step:
    if "blocks" in case.roles:
        return _output_blocks(case, case.roles["blocks"])
    raw = case.roles["rotation"]
    size = (1 + isqrt(1 + 8 * raw.shape[1])) // 2
    skew = np.zeros((len(raw), size, size))
    above = np.triu_indices(size, 1)
    skew[:, above[0], above[1]] = raw
    skew -= skew.transpose(0, 2, 1)
    blocks = _rotations(skew, case.update.number)
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


def _output_blocks(case: Case, raw: "Matrix") -> Step:
    """Blocks (count, b, b) turn outputs; made skew-symmetric first (kohya-ss `networks/oft.py`)."""
    skew = raw - raw.transpose(0, 2, 1)
    if "alpha" in case.update.tensors:
        limit = float(case.factors.load(case.update.tensors["alpha"]).reshape(-1)[0]) * case.shape[0]
        norm = float(np.linalg.norm(skew)) + 1e-8
        skew = skew * (min(norm, limit) / norm) if limit > 0 else skew
    unit = np.eye(skew.shape[-1])
    return RowRotation(np.asarray((unit + skew) @ np.linalg.inv(unit - skew), np.float64))


def boft(case: Case) -> Step:
    """Butterflies of block rotations, then a factor for each output (arXiv:2311.06243)."""
    raw = case.roles["rotation"]
    raw = raw if raw.ndim == 4 else raw[None]
    skew = (raw - raw.transpose(0, 1, 3, 2)) / 2
    unit = np.eye(raw.shape[-1])
    levels, count, size = raw.shape[:3]
    if levels > 1 and (count % 2 ** (levels - 1) or size % 2):
        raise case.refused(f"{levels} levels are no butterfly of {count} blocks of {size}")
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


def hra(case: Case) -> Step:
    vectors = case.roles["reflections"]
    with np.errstate(divide="ignore", invalid="ignore"):
        if case.update.variant == "orthonormal":
            vectors = np.stack(list(_gram_schmidt(vectors)), axis=1)
        units = vectors / np.linalg.norm(vectors, axis=0)
    if not np.isfinite(units).all():
        raise case.refused("a reflection has no direction")
    return Reflections(units)


def _gram_schmidt(vectors: "Matrix") -> Iterator["Matrix"]:
    done: list[Matrix] = []
    for vector in vectors.T:
        rest = vector.copy()
        for earlier in done:
            rest -= (earlier @ rest) * earlier
        done.append(rest / np.linalg.norm(rest))
        yield done[-1]
