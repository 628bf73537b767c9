"""ComfyUI."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import IMAGES, Reason, RuntimeFacts, of_an_image_model, of_another_format
from lorahub.adapters.runtimes.runtime import Runtime, Version


def _reasons(facts: RuntimeFacts, _: Version) -> Iterator[Reason]:
    yield from of_an_image_model(facts, "ComfyUI")
    if facts.format not in IMAGES:
        yield of_another_format(facts, "ComfyUI reads kohya's files and diffusers'")


RUNTIME = Runtime(
    name="comfyui",
    label="ComfyUI",
    form="kohya",
    formats=IMAGES,
    reasons=_reasons,
    reads="kohya's, LyCORIS's and diffusers' files",
    refuses="",
    source="`comfy.weight_adapter`",
)
