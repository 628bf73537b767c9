"""vLLM."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import (
    DEFAULT_RANK,
    PEFT,
    VLLM_RANKS,
    Loads,
    Reason,
    RuntimeFacts,
    of_a_language_model,
    of_another_format,
    of_its_vocabulary,
    of_lora,
    reserved_rank,
    where,
)
from lorahub.adapters.runtimes.runtime import Runtime, Version

_ASKS = (0, 32)
"""Since when it computes patterns module by module, and refuses by its settings what it hasn't got."""
_WITHOUT = frozenset({"gpt2", "gptj", "gpt_neox", "falcon", "bloom", "mpt", "stablelm", "mamba", "gemma3n"})
"""Language models whose class isn't `SupportsLoRA`."""
_HEADS = frozenset({"score", "classifier"})


def _reasons(facts: RuntimeFacts, version: Version) -> Iterator[Reason]:
    asks = version >= _ASKS
    yield from of_a_language_model(facts, "vLLM")
    if facts.model_type in _WITHOUT:
        yield Loads.NO, "LH406", f"vLLM has no LoRA for {facts.model_type}"
    if facts.format not in PEFT:
        yield of_another_format(facts, "vLLM reads PEFT's files")
    yield from of_lora(facts, "vLLM")
    saved = [leaf for leaf in facts.saved if not asks or leaf not in _HEADS]
    yield from where(
        Loads.NO,
        (facts.has_dora, "LH402", "vLLM refuses DoRA"),
        (bool(saved), "LH403", "vLLM refuses whole modules (modules_to_save)"),
        (facts.asks_for_biases or facts.has_up_bias, "LH404", "vLLM refuses biases"),
        (facts.has_rows, "LH410", "vLLM has no trained token rows"),
        (facts.is_block_diagonal, "LH409", "vLLM has no block-diagonal LoRA"),
    )
    yield from of_its_vocabulary(facts, "vLLM")
    obstacle = facts.adapter.obstacle if asks else facts.obstacle
    yield from where(
        Loads.NO if asks else Loads.WRONG,
        (facts.is_replicated, "LH219", "vLLM doesn't replicate layers"),
        (facts.changes_base, "LH216", "vLLM adds the update to the unchanged base"),
        (obstacle is not None, "LH409", f"vLLM doesn't do what {obstacle} asks for"),
    )
    yield from where(
        Loads.WRONG,
        (facts.is_uneven and not asks, "LH407", "vLLM before 0.32 computes one scale from r and lora_alpha"),
        (facts.is_renamed, "LH412", "vLLM loads nothing of it, and serves the base"),
    )
    yield from _of_ranks(facts)


def _of_ranks(facts: RuntimeFacts) -> Iterator[Reason]:
    if facts.rank > VLLM_RANKS[-1]:
        yield Loads.NO, "LH401", f"rank {facts.rank}; vLLM takes at most {VLLM_RANKS[-1]}"
    elif facts.rank > DEFAULT_RANK and facts.is_lora:
        yield Loads.WITH, "LH401", f"rank {facts.rank} needs --max-lora-rank {reserved_rank(facts.rank)}"
    if facts.of_experts:
        yield Loads.UNKNOWN, "LH413", "adapters beside experts weren't measured in vLLM"


RUNTIME = Runtime(
    name="vllm",
    label="vLLM",
    form="peft-normalized",
    formats=PEFT,
    reasons=_reasons,
    reads=(
        f"PEFT LoRA on language models; rank up to `--max-lora-rank` ({DEFAULT_RANK} by default; "
        f"{', '.join(map(str, VLLM_RANKS[:-1]))} or {VLLM_RANKS[-1]})"
    ),
    refuses=(
        "DoRA, biases, `modules_to_save` but for a classifier's, trained token rows; before 0.32 one scale for the "
        "whole adapter (patterns), and PiSSA, activated LoRA and replication as plain LoRA, without a word"
    ),
    source="`vllm.lora.peft_helper`, `LoRAConfig`; vllm#9280, #36501, #55545",
    versions=("0.33.0", "0.32.0", "0.27.1", "0.20.2", "0.15.1"),
)
