"""LoRAX."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import PEFT, Loads, Reason, RuntimeFacts, of_a_language_model, of_another_format
from lorahub.adapters.runtimes.runtime import Runtime


def _reasons(facts: RuntimeFacts) -> Iterator[Reason]:
    yield from of_a_language_model(facts, "LoRAX")
    if facts.adapter.format not in PEFT:
        yield of_another_format(facts, "LoRAX reads PEFT's files", is_convertible=facts.is_lora and not facts.is_image)
    if not facts.is_lora:
        yield Loads.NO, "LH409", f"LoRAX loads LoRA only, this is {facts.adapter.method}"
    ignored = (
        (facts.has_dora, "LH402", "the magnitudes"),
        (facts.has_saved, "LH403", "whole modules"),
        (facts.has_bias, "LH404", "biases"),
        (facts.has_rows, "LH410", "token rows"),
    )
    for is_there, rule, what in ignored:
        if is_there:
            yield Loads.WRONG, rule, f"LoRAX ignores {what}"
    if facts.is_uneven:
        yield Loads.WRONG, "LH407", "LoRAX computes one scale from r and lora_alpha"
    if facts.changes_base:
        yield Loads.WRONG, "LH216", "LoRAX adds the update to the unchanged base"
    if facts.uncovered_types:
        yield Loads.WRONG, "LH411", f"LoRAX drops {', '.join(facts.uncovered_types[:5])}: some layers have no tensors"


RUNTIME = Runtime(
    name="lorax",
    label="LoRAX",
    form="peft-normalized",
    formats=PEFT,
    reasons=_reasons,
    reads="as vLLM",
    refuses="ignores DoRA, biases, saved modules; drops a layer type of which one layer has no tensors",
    source="`lorax_server.adapters.lora`",
)
