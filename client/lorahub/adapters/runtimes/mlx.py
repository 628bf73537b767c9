"""MLX (mlx-lm)."""

from collections.abc import Iterator

from lorahub.adapters.runtimes.facts import Loads, Reason, RuntimeFacts, of_a_language_model, of_another_format
from lorahub.adapters.runtimes.runtime import Runtime, Version

FORMATS = frozenset({"mlx"})


def _reasons(facts: RuntimeFacts, _: Version) -> Iterator[Reason]:
    yield from of_a_language_model(facts, "MLX")
    if not facts.is_lora and facts.adapter.method != "full":
        yield Loads.NO, "LH409", f"MLX loads LoRA and DoRA, this is {facts.adapter.method}"
    if facts.format not in FORMATS:
        yield of_another_format(facts, "MLX reads adapters.safetensors with factors the other way round")


RUNTIME = Runtime(
    name="mlx",
    label="MLX",
    form="mlx",
    formats=FORMATS,
    reasons=_reasons,
    reads="its own directories",
    refuses="biases, saved modules, embeddings, experts",
    source="`mlx_lm.tuner.utils.linear_to_lora_layers`",
    versions=("0.32.2", "0.28.4"),
)
