"""PEFT, which made most adapters."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import PEFT, Loads, Reason, RuntimeFacts, of_another_format, where
from lorahub.adapters.runtimes.runtime import Runtime, Version

_LORA_ONLY = frozenset({"awq", "gptq", "aqlm", "eetq", "hqq"})
"""Quantised layers that PEFT has few methods for beside LoRA (`peft.tuners.lora.gptq`, …; read, not run)."""


def _reasons(facts: RuntimeFacts, version: Version) -> Iterator[Reason]:
    if facts.format not in PEFT:
        yield of_another_format(facts, "PEFT reads adapter_config.json and adapter_model.safetensors")
    yield from of_a_grown_base(facts)
    if facts.is_renamed:
        yield Loads.WRONG, "LH412", "PEFT warns of missing keys, and leaves the base as it is"
    if not facts.adapter.is_known:
        yield Loads.UNKNOWN, "LH306", "the method isn't known here"
    if facts.quantisation in _LORA_ONLY and not _has_layer(facts):
        yield Loads.NO, "LH409", f"PEFT has no such layer on a base in {facts.quantisation.upper()}"
    yield from of_stacked_experts(facts, are_single=version < (0, 19))
    yield from _of_its_age(facts, version)


def _has_layer(facts: RuntimeFacts) -> bool:
    if facts.adapter.method == "adalora":
        return facts.quantisation == "gptq"
    return facts.is_lora and (not facts.has_dora or facts.quantisation == "hqq")


def of_a_grown_base(facts: RuntimeFacts) -> Iterator[Reason]:
    if facts.new_rows is not None:
        yield Loads.WITH, "LH224", f"the base needs model.resize_token_embeddings({facts.new_rows}) first"


def of_stacked_experts(facts: RuntimeFacts, *, are_single: bool) -> Iterator[Reason]:
    """Transformers before 5 has a module for each expert, where later ones have one parameter for all."""
    if are_single and facts.has_experts:
        alone = all(len(update.shape) == 3 for update in facts.adapter.updates)
        yield Loads.NO if alone else Loads.WRONG, "LH406", "transformers before 5 has no stacked experts"


_SINCE = {
    "orthogonal": (0, 17),
    "randlora": (0, 17),
    "shira": (0, 17),
    "miss": (0, 17),
}
"""Methods and starts, and the first measured version that has them."""


def _of_its_age(facts: RuntimeFacts, version: Version) -> Iterator[Reason]:
    """What versions that were measured haven't got yet."""
    adapter = facts.adapter
    new = next((name for name in (adapter.method, adapter.start) if _SINCE.get(str(name), ()) > version), None)
    yield from where(
        Loads.NO,
        (new is not None, "LH409", f"PEFT has {new} only since a later version"),
        (facts.is_block_diagonal and version < (0, 19), "LH409", "PEFT before 0.19 has no block-diagonal LoRA"),
    )
    yield from where(
        Loads.WRONG,
        (facts.obstacle == "alora_invocation_tokens" and version < (0, 18), "LH409", "PEFT before 0.18 has no aLoRA"),
        (adapter.method == "oft" and version < (0, 18), "LH409", "PEFT before 0.18 computes OFT otherwise"),
        (facts.has_router and version < (0, 17), "LH406", "PEFT before 0.17 leaves a router's update out"),
    )


RUNTIME = Runtime(
    name="peft",
    label="PEFT",
    form="peft",
    formats=PEFT,
    reasons=_reasons,
    reads="its own directories; every method of PEFT 0.21",
    refuses="drops settings and tensors it doesn't know without an error",
    source="`peft.utils.save_and_load`; peft#2118, #2566, #2699",
    versions=("0.21.2", "0.19.1", "0.18.1", "0.17.1", "0.15.2"),
)
