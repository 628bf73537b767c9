"""Adapters of PEFT for every class of transformers that can be made tiny: check, merge and Session agree with PEFT."""

import pytest
from sweep import tiny
from sweep.outcome import hold
from sweep.trial import trials

SAMPLE = ("BertForMaskedLM", "GPT2LMHeadModel", "LlamaForCausalLM", "T5ForConditionalGeneration")
"""In `make test`: an encoder, transposed weights, the commonest decoder, an encoder with a decoder."""


@pytest.mark.sweep
@pytest.mark.parametrize("name", tiny.classes())
def test_every_class(name: str) -> None:
    hold(trials(name), may_have_holes=True)


@pytest.mark.parametrize("name", SAMPLE)
def test_some_classes(name: str) -> None:
    hold(trials(name), may_have_holes=False)
