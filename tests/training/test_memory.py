"""The paper's "3 times less memory": weights and Adam's two moments, as bytes of tensors after a real step."""

import pytest
import torch
import transformers
from lorahub import TrainConfig
from lorahub.training.batches import TokenBatch
from lorahub.training.loss import loss_of
from lorahub.training.methods import METHODS
from lorahub.training.models import attach
from lorahub.training.optimizer import FlatAdamW

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there

SHAPE = transformers.LlamaConfig(
    hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4, vocab_size=4096
)
"""6.9 M parameters, in proportions as large models have them."""


def static_bytes(config: TrainConfig) -> int:
    """Of the weights, and of what the optimizer keeps from step to step; shared memory counts once."""
    model = transformers.LlamaForCausalLM(SHAPE).requires_grad_(False)
    method = METHODS[config.method](config)
    adapted = attach(method, model, config, torch.float32)
    optimizer = FlatAdamW(method.groups(adapted), lr=1e-3, weight_decay=0.0, clip=1.0)
    ids = torch.arange(64)[None]
    loss_of(adapted, SHAPE.vocab_size)(TokenBatch(ids, ids, None, 64, 63, ())).backward()
    optimizer.collect()
    optimizer.step(1.0, optimizer.grad_norm())
    kept = [*adapted.parameters(), *optimizer.state().values()]
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in kept)}.values())


def test_lora_takes_a_third_of_full_fine_tuning() -> None:
    full = static_bytes(TrainConfig(method="full"))
    lora = static_bytes(TrainConfig(rank=4, targets=("q,v",)))
    weights = 4 * sum(p.numel() for p in transformers.LlamaForCausalLM(SHAPE).parameters())
    assert full == pytest.approx(3 * weights, rel=1e-3)
    assert full / lora >= 2.9
