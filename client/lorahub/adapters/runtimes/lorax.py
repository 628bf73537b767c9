"""LoRAX."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import (
    PEFT,
    Loads,
    Reason,
    RuntimeFacts,
    of_a_language_model,
    of_another_format,
    of_lora,
    where,
)
from lorahub.adapters.runtimes.runtime import Runtime, Version


def _reasons(facts: RuntimeFacts, _: Version) -> Iterator[Reason]:
    yield from of_a_language_model(facts, "LoRAX")
    if facts.format not in PEFT:
        yield of_another_format(facts, "LoRAX reads PEFT's files")
    yield from of_lora(facts, "LoRAX")
    obstacle = facts.obstacle
    yield from where(
        Loads.WRONG,
        (facts.has_dora, "LH402", "LoRAX ignores the magnitudes"),
        (bool(facts.saved), "LH403", "LoRAX ignores whole modules"),
        (facts.has_bias or facts.has_up_bias, "LH404", "LoRAX ignores biases"),
        (facts.has_rows, "LH410", "LoRAX ignores token rows"),
        (bool(facts.edges), "LH406", f"LoRAX ignores {', '.join(facts.edges)}"),
        (facts.is_uneven, "LH407", "LoRAX computes one scale from r and lora_alpha"),
        (facts.changes_base, "LH216", "LoRAX adds the update to the unchanged base"),
        (obstacle is not None, "LH409", f"LoRAX doesn't do what {obstacle} asks for"),
        (facts.is_replicated, "LH219", "LoRAX doesn't replicate layers"),
    )
    if facts.uncovered_types:
        yield Loads.WRONG, "LH411", f"LoRAX drops {', '.join(facts.uncovered_types[:5])}: some layers have no tensors"


RUNTIME = Runtime(
    name="lorax",
    label="LoRAX",
    form="peft-normalized",
    formats=PEFT,
    reasons=_reasons,
    reads="PEFT LoRA on language models",
    refuses="ignores DoRA, biases, saved modules, embeddings; drops a layer type of which one layer has no tensors",
    source="`lorax_server.adapters.lora`",
)
