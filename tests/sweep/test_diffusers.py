"""Adapters in every spelling for every class of diffusers that loads LoRA: what diffusers' own converters say."""

import pytest
from sweep import images

SAMPLE = ("ZImageTransformer2DModel",)
"""In `make test`: fused rows, refiners, three spellings, an original file as base."""


@pytest.mark.sweep
@pytest.mark.parametrize("name", images.classes())
def test_every_class(name: str) -> None:
    _hold(name)


@pytest.mark.parametrize("name", SAMPLE)
def test_some_classes(name: str) -> None:
    _hold(name)


def _hold(name: str) -> None:
    outcomes = list(images.trials(name))
    assert not (faults := [f"{one.recipe}: {one.fault}" for one in outcomes if one.fault]), "\n".join(faults)
    if reasons := {one.hole for one in outcomes if one.hole}:
        pytest.skip("; ".join(sorted(reasons)))
