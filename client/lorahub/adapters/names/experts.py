"""Mixtures of experts: one tensor an expert on disk, one tensor for all in memory, and the reverse."""

import re
from collections.abc import Mapping, Sequence

from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.names.weight import Names, TensorPart, Weight, WeightPlace, renamed

_EXPERT = re.compile(
    r"^(.+\.)?experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3|linear|linear_1|linear_v)\.weight$"
)
_GATES, _UPS, _DOWNS = ("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")
_STACK = re.compile(r"^(.+\.)?(experts)\.(gate_up_proj|up_proj|down_proj)$")
TURNED = frozenset({"gpt_oss", "openai_privacy_filter", "aria", "aria_text"})
"""Model types of transformers whose experts are (experts, in, out): `is_transposed`, where PEFT looks."""
_IN_HALVES = frozenset({"ernie4_5_vl_moe", "ernie4_5_vl_moe_text"})
"""Model types whose experts on disk are those of text, and behind them as many of pictures."""
_INTERLEAVED = frozenset({"gpt_oss", "openai_privacy_filter"})
"""Model types whose `gate_up_proj` has gate and up in turn (`is_concatenated=False`)."""

Experts = Mapping[int, Mapping[str, Weight]]
"""Number -> role -> the expert's own weight."""


def stacks(base: BaseLayout) -> Names:
    """Tensors that hold all experts, and whether the model takes them as (experts, in, out)."""
    is_turned = _is_of(base, TURNED)
    for name, tensor in base.tensors.items():
        if len(tensor.shape) == 3 and _STACK.match(name):
            yield Weight(name, tensor.shape, tensor.dtype, (WeightPlace(name),), is_turned=is_turned)


def expert_stacks(base: BaseLayout, weights: Mapping[str, Weight]) -> Names:
    """Experts that are stored one a tensor, as one weight for all.

    Transformers 5 stacks (experts, 2·width, hidden) gate over up, and (experts, hidden, width) down; Mixtral's
    `block_sparse_moe.experts.N.w1` becomes `mlp.experts.gate_up_proj`.
    """
    every: dict[str, dict[int, dict[str, Weight]]] = {}
    for name, weight in weights.items():
        match = _EXPERT.match(name)
        if match and len(weight.places) == 1 and len(weight.shape) == 2:
            every.setdefault(match[1] or "", {}).setdefault(int(match[2]), {})[match[3]] = weight
    for prefix, experts in every.items():
        if _is_of(base, _IN_HALVES):
            half = -(-len(experts) // 2)
            for kind, first in (("text_moe", 0), ("vision_moe", half)):
                own = {number - first: experts[number] for number in experts if first <= number < first + half}
                yield from _stack(f"{prefix}{kind}.experts", own)
        else:
            yield from _stack(f"{prefix}experts".replace("block_sparse_moe.", "mlp."), experts)
    yield from _halves_of_stacks(weights)


def _halves_of_stacks(weights: Mapping[str, Weight]) -> Names:
    """Step 3 stacks the experts on disk, and has gate and up apart there."""
    for name, gate in weights.items():
        owner = name.removesuffix(".moe.gate_proj.weight")
        up = weights.get(f"{owner}.moe.up_proj.weight")
        if owner != name and up is not None and len(gate.shape) == 3 and up.shape == gate.shape:
            experts, width, inner = gate.shape
            places = (
                WeightPlace(gate.places[0].tensor, (0, width)),
                WeightPlace(up.places[0].tensor, (width, 2 * width)),
            )
            yield Weight(f"{owner}.mlp.experts.gate_up_proj", (experts, 2 * width, inner), gate.dtype, places)


def _stack(owner: str, experts: Experts) -> Names:
    gates, ups, downs = (_of_all(experts, roles) for roles in (_GATES, _UPS, _DOWNS))
    if gates and len(gates) == len(ups):
        yield _stacked(f"{owner}.gate_up_proj", gates, ups)
    elif ups:
        yield _stacked(f"{owner}.up_proj", ups)
    if downs:
        yield _stacked(f"{owner}.down_proj", downs)


def _of_all(experts: Experts, roles: Sequence[str]) -> list[Weight]:
    """The weight of that role of expert 0, 1, …; empty if one is missing."""
    for role in roles:
        found = {number: own[role] for number, own in experts.items() if role in own}
        if found and max(found) == len(found) - 1:
            return [found[number] for number in sorted(found)]
    return []


def _stacked(name: str, *rows: Sequence[Weight]) -> Weight:
    """`rows` are what lies one below the other in each expert, each by expert."""
    first, places, height = rows[0][0], [], sum(weights[0].shape[0] for weights in rows)
    for expert, weights in enumerate(zip(*rows, strict=True)):
        start = 0
        for weight in weights:
            stop = start + weight.shape[0]
            places.append(WeightPlace(weight.places[0].tensor, (start, stop) if len(rows) > 1 else None, expert))
            start = stop
    return Weight(name, (len(rows[0]), height, *first.shape[1:]), first.dtype, tuple(places))


def is_in_turn(name: str) -> bool:
    """Whether a tensor has gate and up in turn on disk, which are one behind the other in memory (Inkling 2)."""
    return name.endswith(".experts.w13_weight")


def is_stack(name: str) -> bool:
    """Whether it is the name of a parameter that holds all experts in memory."""
    return _STACK.match(name) is not None


def is_expert(module: str) -> bool:
    """Whether the module is one expert's own, as in transformers 4."""
    return _EXPERT.match(f"{module}.weight") is not None


def single_expert(name: str, base: BaseLayout, weights: Mapping[str, Weight]) -> Weight | None:
    """One expert of a stack, by the name that it had in transformers 4. Not all are made beforehand: there are many."""
    match = _EXPERT.match(name)
    if match is None or _is_of(base, _INTERLEAVED):
        return None
    owner, expert, role = f"{match[1] or ''}experts".replace("block_sparse_moe.", "mlp."), int(match[2]), match[3]
    down, gate_up, up = (weights.get(f"{owner}.{name}") for name in ("down_proj", "gate_up_proj", "up_proj"))
    stack = down if role in _DOWNS else gate_up or up
    if down is None or stack is None or not len(down.shape) == len(stack.shape) == 3 or expert >= stack.shape[0]:
        return None
    if stack.places != (WeightPlace(stack.places[0].tensor),) or role not in (*_GATES, *_UPS, *_DOWNS):
        return None
    is_turned = gate_up is not None and gate_up.shape[2:] == (2 * down.shape[1],)
    out, width = stack.shape[:0:-1] if is_turned else stack.shape[1:]
    rows = None
    if stack is gate_up:
        rows = (0, out // 2) if role in _GATES else (out // 2, out)
        out //= 2
    place = WeightPlace(stack.places[0].tensor, part=TensorPart(expert, rows))
    return Weight(name, (out, width), stack.dtype, (place,), is_turned=is_turned)


def _is_of(base: BaseLayout, kinds: frozenset[str]) -> bool:
    inner = base.text_config.get("model_type")
    return base.model_type in kinds or (isinstance(inner, str) and inner in kinds)


def expert_renames(base: BaseLayout) -> Names:
    """Adapters of transformers 4 keep an expert's own name; Mixtral's were w1, w3, w2 already."""
    for name, tensor in base.tensors.items():
        if ".block_sparse_moe." in name:
            yield renamed(name.replace(".block_sparse_moe.", ".mlp."), name, tensor)
