"""What training computes in a way of its own, LoRA's layer and attention of short rows, is what others compute."""

import warnings
from typing import Any

import peft
import pytest
import torch
from corpus.peft_corpus import gpt2, llama, lora
from lorahub.training.attention import NAME, use_short_rows
from lorahub.training.fused import fuse
from torch import Tensor

PLACES = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6], [*range(12)]])
IDS = torch.arange(24).reshape(2, 12) * 7 % 64


def adapted(base: Any, **settings: Any) -> Any:
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base, lora(target_modules="all-linear", **settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def gradients(model: Any, **given: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False, **given).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-6)
    assert one[1].keys() == other[1].keys() != set()
    for name, expected in other[1].items():
        assert torch.allclose(one[1][name], expected, atol=1e-6), name


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
def test_the_fused_layer_has_the_loss_and_gradients_of_peft(settings: dict[str, Any]) -> None:
    model = adapted(llama(), **settings)
    theirs = gradients(model)
    assert fuse(model) == 21
    assert_same(gradients(model), theirs)
    model.merge_adapter()
    assert gradients_free(model) == pytest.approx(theirs[0], abs=1e-5)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert gradients_free(model) != pytest.approx(theirs[0], abs=1e-5)


def gradients_free(model: Any) -> float:
    with torch.no_grad():
        return float(model(input_ids=IDS, labels=IDS, use_cache=False).loss)


@pytest.mark.parametrize(
    "model",
    [adapted(llama(), lora_dropout=0.1), adapted(llama(), use_dora=True), adapted(gpt2(), fan_in_fan_out=True)],
    ids=["dropout", "dora", "conv1d"],
)
def test_layers_that_do_more_keep_the_forward_of_peft(model: Any) -> None:
    assert fuse(model) == 0


def gpt2_without_dropout() -> Any:
    model = gpt2()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize(
    "make", [llama, gpt2_without_dropout, lambda: llama(num_key_value_heads=4)], ids=["grouped", "gpt2", "llama"]
)
@pytest.mark.parametrize("given", [{}, {"position_ids": PLACES}], ids=["causal", "packed"])
def test_short_rows_attend_as_torch_does(make: Any, given: dict[str, Tensor]) -> None:
    model = adapted(make())
    theirs = gradients(model, **given)
    assert use_short_rows(model.base_model.model)
    assert model.config._attn_implementation == NAME
    assert_same(gradients(model, **given), theirs)


def test_a_model_with_an_attention_of_its_own_keeps_it() -> None:
    model = llama()
    model.set_attn_implementation("eager")
    assert not use_short_rows(model)
    assert model.config._attn_implementation == "eager"


def test_a_batch_with_padding_and_a_generation_go_on() -> None:
    model: Any = llama().eval()
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    expected = model(input_ids=IDS, attention_mask=mask).logits[mask.bool()]
    written = model.generate(input_ids=IDS[:1], max_new_tokens=4, do_sample=False)
    assert use_short_rows(model)
    assert torch.allclose(model(input_ids=IDS, attention_mask=mask).logits[mask.bool()], expected, atol=1e-6)
    assert torch.equal(model.generate(input_ids=IDS[:1], max_new_tokens=4, do_sample=False), written)
