"""diffusers."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import (
    IMAGES,
    Loads,
    Reason,
    RuntimeFacts,
    of_an_image_model,
    of_another_format,
    where,
)
from lorahub.adapters.runtimes.runtime import Runtime, Version

_SIGNS = ("out_proj", "fc1", "fc2")
"""Modules of a text encoder in kohya's spelling, without which diffusers doesn't know what it reads."""


_WITHOUT_PREFIX = (0, 42)
"""Since when it reads what transformers 5 calls a text encoder's modules."""


def _is_bare(module: str) -> bool:
    return module.startswith("text_encoder") and ".text_model." not in module


_OWN = frozenset({"diffusers"})
_KOHYA = frozenset({"kohya"})


def _reasons(facts: RuntimeFacts, version: Version) -> Iterator[Reason]:
    yield from of_an_image_model(facts, "diffusers")
    if facts.format not in IMAGES:
        yield of_another_format(facts, "diffusers reads its own files and kohya's")
    elif facts.adapter.method != "lora":
        yield Loads.NO, "LH409", f"diffusers loads LoRA from such files, this is {facts.adapter.method}"
    elif facts.format in _OWN and version < _WITHOUT_PREFIX and not facts.is_converted:
        bare = [one.module for one in facts.adapter.updates if _is_bare(one.module)]
        yield from where(Loads.NO, (bool(bare), "LH412", "diffusers before 0.42 wants text_model. in the names"))
    elif facts.format in _KOHYA:
        text = [update.module for update in facts.adapter.updates if update.module.startswith("lora_te")]
        unsaid = bool(text) and not any(module.endswith(_SIGNS) for module in text)
        yield from where(Loads.WRONG, (facts.has_dora, "LH402", "diffusers drops kohya's dora_scale with a log line"))
        yield from where(Loads.NO, (unsaid, "LH412", "diffusers can't tell whose a text encoder without out_proj is"))


RUNTIME = Runtime(
    name="diffusers",
    label="diffusers",
    form="diffusers",
    formats=IMAGES,
    reasons=_reasons,
    reads="its own files, kohya's LoRA",
    refuses="LoKr, LoHa and the like from kohya's files",
    source="`diffusers.loaders`",
    versions=("0.42.1", "0.35.2"),
)
