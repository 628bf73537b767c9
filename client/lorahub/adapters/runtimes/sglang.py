"""SGLang."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import DEFAULT_RANK, PEFT, Loads, Reason, RuntimeFacts, of_a_server
from lorahub.adapters.runtimes.runtime import Runtime


def _reasons(facts: RuntimeFacts) -> Iterator[Reason]:
    yield from of_a_server(facts, "SGLang")
    if facts.rank > DEFAULT_RANK and facts.is_lora:
        yield Loads.WITH, "LH401", f"rank {facts.rank} needs --max-lora-rank {facts.rank}, if others are loaded first"
    if facts.is_root:
        yield Loads.WRONG, "LH408", "SGLang divides alpha by the rank"


RUNTIME = Runtime(
    name="sglang",
    label="SGLang",
    form="peft-normalized",
    formats=PEFT,
    reasons=_reasons,
    reads="as vLLM",
    refuses="as vLLM, and ignores rsLoRA",
    source="sglang#40835",
)
