"""transformers, whose models load an adapter without PEFT's wrapper around them."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import PEFT, Loads, Reason, RuntimeFacts, of_another_format, where
from lorahub.adapters.runtimes.peft import of_a_grown_base, of_stacked_experts
from lorahub.adapters.runtimes.runtime import Runtime, Version

_TAKEN = frozenset(
    "adalora boft fourierft hra ia3 ln_tuning loha lokr miss oft randlora shira trainable_tokens".split()
)
_REFUSED = frozenset({"prefix_tuning", "prompt_tuning", "p_tuning", "adaption_prompt", "vera"})


def _reasons(facts: RuntimeFacts, version: Version) -> Iterator[Reason]:
    if facts.format not in PEFT:
        yield of_another_format(facts, "transformers reads PEFT's directories")
    yield from of_a_grown_base(facts)
    yield from of_stacked_experts(facts, are_single=version < (5,))
    yield from where(
        Loads.NO,
        (facts.adapter.method in _REFUSED, "LH409", f"transformers refuses {facts.adapter.method}"),
    )
    is_known = facts.is_lora or facts.adapter.method in _TAKEN | _REFUSED
    yield from where(Loads.UNKNOWN, (not is_known, "LH413", f"{facts.adapter.method} wasn't measured in transformers"))
    yield from where(
        Loads.WRONG,
        (facts.is_renamed, "LH412", "transformers warns of missing keys, and leaves the base as it is"),
        (facts.has_dora and version >= (5,), "LH402", "transformers leaves DoRA's magnitudes as they began"),
        (facts.obstacle == "alora_invocation_tokens", "LH409", "transformers never calls an activated LoRA"),
    )


RUNTIME = Runtime(
    name="transformers",
    label="transformers",
    form="peft",
    formats=PEFT,
    reasons=_reasons,
    reads="PEFT's directories",
    refuses="prompts, VeRA; DoRA's magnitudes and activated LoRA are lost without a word",
    source="`transformers.integrations.peft`",
    versions=("5.23.0", "4.57.6"),
)
