"""MLX (mlx-lm)."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import Loads, Reason, RuntimeFacts, of_a_language_model, of_another_format
from lorahub.adapters.runtimes.runtime import Runtime

FORMATS = frozenset({"mlx"})


def _reasons(facts: RuntimeFacts) -> Iterator[Reason]:
    yield from of_a_language_model(facts, "MLX")
    if not facts.is_lora and facts.adapter.method != "full":
        yield Loads.NO, "LH409", f"MLX loads LoRA and DoRA, this is {facts.adapter.method}"
    if facts.has_saved or facts.has_rows:
        yield Loads.NO, "LH403", "MLX has no whole modules beside LoRA"
    if facts.has_bias:
        yield Loads.NO, "LH404", "MLX has no biases in adapters"
    if facts.adapter.format not in FORMATS:
        yield of_another_format(
            facts,
            "MLX reads adapters.safetensors with factors the other way round",
            is_convertible=facts.is_lora and len(facts.adapter.ranks) == 1,
        )


RUNTIME = Runtime(
    name="mlx",
    label="MLX",
    form="mlx",
    formats=FORMATS,
    reasons=_reasons,
    reads="its own directories; one rank",
    refuses="biases, saved modules",
    source="`mlx_lm.tuner.utils.linear_to_lora_layers`",
)
