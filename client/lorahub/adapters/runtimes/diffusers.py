"""diffusers."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import IMAGES, Loads, Reason, RuntimeFacts, of_an_image_model, of_another_format
from lorahub.adapters.runtimes.runtime import Runtime


def _reasons(facts: RuntimeFacts) -> Iterator[Reason]:
    yield from of_an_image_model(facts, "diffusers")
    if facts.adapter.format not in IMAGES:
        yield of_another_format(facts, "diffusers reads its own files and kohya's", is_convertible=facts.is_lora)
    elif facts.adapter.method != "lora":
        yield Loads.NO, "LH409", f"diffusers loads LoRA from such files, this is {facts.adapter.method}"


RUNTIME = Runtime(
    name="diffusers",
    label="diffusers",
    form="diffusers",
    formats=IMAGES,
    reasons=_reasons,
    reads="its own files, kohya's LoRA",
    refuses="LoKr, LoHa and the like from kohya's files",
    source="`diffusers.loaders`",
)
