"""Ollama, which runs llama.cpp."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import GGUF, Reason, RuntimeFacts
from lorahub.adapters.runtimes.llama_cpp import of_gguf
from lorahub.adapters.runtimes.runtime import Runtime, Version


def _reasons(facts: RuntimeFacts, _: Version) -> Iterator[Reason]:
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
