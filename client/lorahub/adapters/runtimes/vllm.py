"""vLLM."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import (
    DEFAULT_RANK,
    PEFT,
    VLLM_RANKS,
    Loads,
    Reason,
    RuntimeFacts,
    of_a_server,
    reserved_rank,
)
from lorahub.adapters.runtimes.runtime import Runtime


def _reasons(facts: RuntimeFacts) -> Iterator[Reason]:
    yield from of_a_server(facts, "vLLM")
    if facts.rank > VLLM_RANKS[-1]:
        yield Loads.NO, "LH401", f"rank {facts.rank}; vLLM takes at most {VLLM_RANKS[-1]}"
    elif facts.rank > DEFAULT_RANK and facts.is_lora:
        yield Loads.WITH, "LH401", f"rank {facts.rank} needs --max-lora-rank {reserved_rank(facts.rank)}"
    if facts.has_experts and facts.is_root:
        yield Loads.WRONG, "LH408", "vLLM ignores rsLoRA in experts"


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
        "DoRA, biases, `modules_to_save`, trained token rows; one scale for the whole adapter (patterns); "
        "rsLoRA in experts"
    ),
    source="`vllm.lora.peft_helper`, `LoRAConfig`; vllm#9280, #36501, #55545",
    versions=("0.11.0",),
)
