"""llama.cpp, and what is built on it."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import (
    GGUF,
    Loads,
    Reason,
    RuntimeFacts,
    of_a_language_model,
    of_another_format,
    of_lora,
)
from lorahub.adapters.runtimes.runtime import Runtime, Version


def of_gguf(facts: RuntimeFacts, name: str) -> Iterator[Reason]:
    """What has a name in GGUF, and how, is the converter's to say."""
    yield from of_a_language_model(facts, name)
    yield from of_lora(facts, name)
    if facts.format not in GGUF:
        yield of_another_format(facts, f"{name} reads GGUF")
    elif facts.adapter.obstacle is not None:
        yield Loads.UNKNOWN, "LH413", f"{facts.adapter.obstacle} wasn't measured in {name}"


def _reasons(facts: RuntimeFacts, _: Version) -> Iterator[Reason]:
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
    versions=("0.10434.0", "0.10092.0"),
)
