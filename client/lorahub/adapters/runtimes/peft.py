"""PEFT, which made most adapters."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import PEFT, Loads, Reason, RuntimeFacts, of_another_format
from lorahub.adapters.runtimes.runtime import Runtime

_TAKEN = frozenset({"kohya", "diffusers", "mlx", "gguf", "loralib", "torchtune"})
"""Whose LoRA could be PEFT's. No conversion starts from the last two yet (`formats.SOURCES`)."""


def _reasons(facts: RuntimeFacts) -> Iterator[Reason]:
    if facts.adapter.format not in PEFT:
        yield of_another_format(
            facts,
            "PEFT reads adapter_config.json and adapter_model.safetensors",
            is_convertible=facts.is_lora and facts.adapter.format in _TAKEN,
        )
    if facts.new_rows is not None:
        yield Loads.WITH, "LH224", f"the base needs model.resize_token_embeddings({facts.new_rows}) first"
    if not facts.adapter.is_known:
        yield Loads.UNKNOWN, "LH306", "the method isn't known here"


RUNTIME = Runtime(
    name="peft",
    label="PEFT",
    form="peft",
    formats=PEFT,
    reasons=_reasons,
    reads="its own directories; every method of PEFT 0.21",
    refuses="drops settings and tensors it doesn't know without an error",
    source="`peft.utils.save_and_load`; peft#2118, #2566, #2699",
    versions=("0.21.2",),
)
