"""Mixtures of experts: one tensor an expert on disk, one tensor for all in memory, and the reverse."""

import re
from collections.abc import Iterable, Mapping

from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.names.weight import Names, Weight, WeightPlace, renamed

_EXPERT = re.compile(
    r"^(.+\.)?experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3|linear|linear_1|linear_v)\.weight$"
)
_GATE, _UP, _DOWN = ("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")


def expert_stacks(base: BaseLayout) -> Names:
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


def expert_renames(base: BaseLayout) -> Names:
    """Adapters of transformers 4 keep an expert's own name; Mixtral's were w1, w3, w2 already."""
    for name, tensor in base.tensors.items():
        if ".block_sparse_moe." in name:
            yield renamed(name.replace(".block_sparse_moe.", ".mlp."), name, tensor)
