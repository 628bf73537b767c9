"""Ollama, which runs llama.cpp."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import GGUF, Reason, RuntimeFacts, of_gguf
from lorahub.adapters.runtimes.runtime import Runtime


def _reasons(facts: RuntimeFacts) -> Iterator[Reason]:
    yield from of_gguf(facts, "Ollama")


RUNTIME = Runtime(
    name="ollama",
    label="Ollama",
    form="gguf",
    formats=GGUF,
    reasons=_reasons,
    reads="as llama.cpp",
    refuses="as llama.cpp",
    source="as llama.cpp",
)
