"""SGLang, which stacks q, k and v before it looks anything up, and ignores what it has no place for."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import (
    DEFAULT_RANK,
    PEFT,
    Loads,
    Reason,
    RuntimeFacts,
    of_a_language_model,
    of_another_format,
    of_its_vocabulary,
    of_lora,
    where,
)
from lorahub.adapters.runtimes.runtime import Runtime, Version

_LATER = (0, 5, 23)
"""0.5.10, which was measured too, ignores DoRA's magnitudes, and needs up_proj beside gate_proj."""


def _reasons(facts: RuntimeFacts, version: Version) -> Iterator[Reason]:
    yield from of_a_language_model(facts, "SGLang")
    if facts.format not in PEFT:
        yield of_another_format(facts, "SGLang reads PEFT's files")
    yield from of_lora(facts, "SGLang")
    layers = facts.layers_by_leaf
    q, k, v, gate, up = (layers.get(f"{name}_proj", set()) for name in ("q", "k", "v", "gate", "up"))
    selection = facts.adapter.selection
    by_expression = selection is not None and isinstance(selection.targets, str) and selection.targets != "all-linear"
    yield from where(
        Loads.NO,
        (facts.has_dora and version >= _LATER, "LH402", "SGLang refuses DoRA"),
        (facts.has_lonely_biases, "LH404", "SGLang stacks the biases of q, k and v, and not all are there"),
        (facts.is_replicated, "LH219", "SGLang has no layer for those that are replicated"),
        (by_expression, "LH409", "SGLang refuses a regular expression for target_modules"),
        (facts.has_ranks, "LH407", "SGLang stacks factors of one rank"),
        (bool(q - v), "LH411", "SGLang needs v_proj in every layer that has q_proj"),
        (bool(gate - up) and version < _LATER, "LH411", "SGLang needs up_proj beside gate_proj"),
        (facts.is_block_diagonal, "LH409", "SGLang has no block-diagonal LoRA"),
    )
    yield from of_its_vocabulary(facts, "SGLang")
    obstacle = facts.obstacle
    yield from where(
        Loads.WRONG,
        (facts.has_dora and version < _LATER, "LH402", "SGLang ignores the magnitudes"),
        (bool(facts.saved), "LH403", "SGLang ignores whole modules (modules_to_save)"),
        (facts.has_bias or facts.has_up_bias, "LH404", "SGLang ignores biases"),
        (facts.has_rows, "LH410", "SGLang ignores trained token rows"),
        (facts.changes_base, "LH216", "SGLang adds the update to the unchanged base"),
        (obstacle is not None, "LH409", f"SGLang doesn't do what {obstacle} asks for"),
        (facts.is_uneven, "LH407", "SGLang computes one scale from r and lora_alpha"),
        (facts.is_root, "LH408", "SGLang divides alpha by the rank"),
        (bool((k | v) - q), "LH411", "SGLang drops k_proj and v_proj of a layer without q_proj"),
    )
    if facts.rank > DEFAULT_RANK and facts.is_lora:
        yield Loads.WITH, "LH401", f"rank {facts.rank} needs --max-lora-rank {facts.rank}, if others are loaded first"
    if facts.of_experts:
        yield Loads.UNKNOWN, "LH413", "adapters beside experts weren't measured in SGLang"


RUNTIME = Runtime(
    name="sglang",
    label="SGLang",
    form="peft-normalized",
    formats=PEFT,
    reasons=_reasons,
    reads="PEFT LoRA on language models, all of one rank",
    refuses=(
        "DoRA, regular expressions, q_proj without v_proj; ignores rsLoRA, patterns, biases, saved modules and token "
        "rows"
    ),
    source="`sglang.srt.lora`; sglang#40835",
    versions=("0.5.23", "0.5.10"),
)
