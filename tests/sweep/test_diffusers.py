"""Adapters in every spelling for every class of diffusers that loads LoRA: what diffusers' own converters say."""

import pytest
from sweep import images
from sweep.outcome import hold

SAMPLE = {
    "ZImageTransformer2DModel": (
        "no prefix",
        "authors', lora_unet_",
        "authors' on a single file",
        "diffusers: fused rows lora_unet_",
        "diffusers: LoKr, ai-toolkit diffusion_model.",
    )
}
"""In `make test`: fused rows, refiners, an original file as base."""


@pytest.mark.sweep
@pytest.mark.parametrize("name", images.classes())
def test_every_class(name: str) -> None:
    hold(images.trials(name), may_have_holes=True)


@pytest.mark.parametrize("name", SAMPLE)
def test_some_classes(name: str) -> None:
    found = list(images.trials(name, SAMPLE[name]))
    assert len(found) == len(SAMPLE[name])
    hold(found, may_have_holes=False)
