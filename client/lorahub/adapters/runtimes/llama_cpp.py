"""llama.cpp."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import GGUF, Reason, RuntimeFacts, of_gguf
from lorahub.adapters.runtimes.runtime import Runtime


def _reasons(facts: RuntimeFacts) -> Iterator[Reason]:
    yield from of_gguf(facts, "llama.cpp")


RUNTIME = Runtime(
    name="llama.cpp",
    label="llama.cpp",
    form="gguf",
    formats=GGUF,
    reasons=_reasons,
    reads="GGUF adapters",
    refuses="DoRA, biases, saved modules, embeddings and heads",
    source="`convert_lora_to_gguf.py`, `llama_adapter_lora_weight::get_scale`; llama.cpp#9065, #9948, #11554",
)
