"""The lean ways compute what PEFT, loralib and transformers compute: losses, gradients, steps; packed or one by one."""

import copy
from pathlib import Path
from typing import Any

import loralib
import peft
import pytest
import torch
import transformers
from lorahub.training.batches import IGNORED, Batches, TokenBatch
from lorahub.training.config import TrainConfig
from lorahub.training.dataset import prepare
from lorahub.training.loss import Loss, chunked_nll, keeps_samples_apart, loss_of
from lorahub.training.methods import METHODS
from lorahub.training.models import load_tokenizer
from lorahub.training.optimizer import FlatAdamW, schedule
from torch import nn
from torch.nn import functional

CONFIG = TrainConfig(rank=4, max_len=96, eval_split=0.0)
BOTH = pytest.mark.parametrize("folder", ["llama", "gpt2"], indirect=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT asks transformers for what is deprecated there


def model_of(folder: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).requires_grad_(requires_grad=False)


def adapted(folder: Path, config: TrainConfig = CONFIG, *, noise: float = 0.05, **options: Any) -> nn.Module:
    """With a B that isn't zero, so that A has a gradient."""
    torch.manual_seed(1)
    model = METHODS["lora"](config).attach(model_of(folder, **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=noise)
    return model


def batches_of(folder: Path, rows: Path, *, is_packed: bool, room: int = 384) -> Batches:
    samples = prepare(rows, load_tokenizer(folder), CONFIG).train
    return Batches(samples, max_len=CONFIG.max_len, room=room, is_packed=is_packed)


def grads(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def differ(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    assert max(float(grad.abs().max()) for grad in left.values()) > 1e-3
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@BOTH
def test_the_lean_loss_has_the_models_own_gradients(folder: Path, rows: Path) -> None:
    model = adapted(folder)
    lean = loss_of(model, model.config.vocab_size)
    assert lean.is_lean
    batch = batches_of(folder, rows, is_packed=False).batch(0)
    found = []
    for loss in (lean, Loss(model, is_lean=False)):
        model.zero_grad()
        value = loss(batch) / batch.supervised
        value.backward()
        found.append((value.item(), grads(model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert differ(found[0][1], found[1][1]) <= 1e-6


@BOTH
def test_the_gradients_are_those_of_peft(folder: Path, rows: Path) -> None:
    """Padded, with PEFT's own wrapper, attention mask and the model's loss."""
    ours = adapted(folder)
    theirs = peft.get_peft_model(
        model_of(folder),
        peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", fan_in_fan_out=folder.name == "gpt2"
        ),
    )
    theirs.load_state_dict(ours.state_dict())
    batch = batches_of(folder, rows, is_packed=False).batch(0)
    (loss_of(ours, ours.config.vocab_size)(batch) / batch.supervised).backward()
    mask = torch.ones_like(batch.ids)
    theirs(input_ids=batch.ids, attention_mask=mask, labels=batch.labels).loss.backward()
    assert differ(grads(ours), grads(theirs)) <= 1e-6


def test_the_gradients_are_those_of_loralib(llama: Path, rows: Path) -> None:
    targets = ("q_proj", "v_proj", "down_proj")
    ours = adapted(llama, TrainConfig(rank=4, alpha=8, targets=targets, max_len=96))
    theirs = model_of(llama)
    pairs = []
    for name, module in list(theirs.named_modules()):
        if name.endswith(targets):
            made = loralib.Linear(module.in_features, module.out_features, r=4, lora_alpha=8, bias=False)
            made.weight = nn.Parameter(module.weight.data, requires_grad=False)
            own = ours.get_submodule(f"base_model.model.{name}")
            made.lora_A.data = own.lora_A["default"].weight.data.clone()
            made.lora_B.data = own.lora_B["default"].weight.data.clone()
            theirs.set_submodule(name, made)
            pairs.append((own, made))
    batch = batches_of(llama, rows, is_packed=False).batch(0)
    (loss_of(ours, ours.config.vocab_size)(batch) / batch.supervised).backward()
    theirs.train()(input_ids=batch.ids, labels=batch.labels).loss.backward()
    assert len(pairs) == 6
    for own, made in pairs:
        torch.testing.assert_close(own.lora_A["default"].weight.grad, made.lora_A.grad, rtol=0, atol=1e-6)
        torch.testing.assert_close(own.lora_B["default"].weight.grad, made.lora_B.grad, rtol=0, atol=1e-6)


@BOTH
def test_packed_samples_learn_as_if_each_were_alone(folder: Path, rows: Path) -> None:
    model = adapted(folder)
    loss = loss_of(model, model.config.vocab_size)
    assert keeps_samples_apart(model, model.config.vocab_size)
    found = []
    for is_packed in (True, False):
        model.zero_grad()
        batches = batches_of(folder, rows, is_packed=is_packed)
        assert any(batch.positions is not None for batch in batches) is is_packed
        total = sum(batch.supervised for batch in batches)
        for batch in batches:
            (loss(batch) / total).backward()
        found.append(grads(model))
    assert differ(*found) <= 1e-6


def test_a_batch_in_one_row_has_the_same_loss(llama: Path, rows: Path) -> None:
    """As FlashAttention wants it."""
    model = adapted(llama)
    loss = loss_of(model, model.config.vocab_size)
    batch = next(batch for batch in batches_of(llama, rows, is_packed=True) if len(batch.ids) > 1)
    assert batch.in_one_row().ids.shape == (1, batch.ids.numel())
    torch.testing.assert_close(loss(batch), loss(batch.in_one_row()), rtol=1e-5, atol=1e-4)


def test_a_model_that_lets_samples_leak_is_noticed(gpt2: Path) -> None:
    model = model_of(gpt2)
    forward = model.forward
    model.forward = lambda **given: forward(**given | {"attention_mask": torch.ones_like(given["input_ids"])})
    assert not keeps_samples_apart(model, model.config.vocab_size)


@pytest.mark.parametrize("bits", [torch.float32, torch.bfloat16])
def test_chunks_are_the_whole(monkeypatch: pytest.MonkeyPatch, bits: torch.dtype) -> None:
    monkeypatch.setattr("lorahub.training.loss.CHUNK_NUMBERS", 1)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(70, 8, dtype=bits), torch.randn(50, 8, dtype=bits), torch.randint(50, (70,))
    one, two = hidden.clone().requires_grad_(), hidden.float().requires_grad_()
    found = chunked_nll(one, weight, targets)
    expected = functional.cross_entropy(two @ weight.float().T, targets, reduction="sum")
    (found * 0.5).backward()
    (expected * 0.5).backward()
    close = {"rtol": 1e-5, "atol": 1e-5} if bits is torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(one.grad.float(), two.grad, **close)


def trainable_head(model: Any) -> None:
    model.lm_head.weight.requires_grad_()


def biased_head(model: Any) -> None:
    model.lm_head = nn.Linear(64, model.config.vocab_size)
    model.requires_grad_(requires_grad=False)


def scaled_logits(model: Any) -> None:
    forward = model.forward

    def scaled(**given: Any) -> Any:
        out = forward(**given | {"labels": None})
        logits = out.logits * 3
        if given.get("labels") is not None:
            labels = functional.pad(given["labels"], (0, 1), value=IGNORED)[:, 1:]
            out.loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return out

    model.forward = scaled


@pytest.mark.parametrize("change", [trainable_head, biased_head, scaled_logits])
def test_what_the_lean_loss_cannot_do_is_left_to_the_model(llama: Path, change: Any) -> None:
    model = model_of(llama)
    change(model)
    loss = loss_of(model, model.config.vocab_size)
    assert not loss.is_lean
    ids = torch.arange(20)[None] + 60
    batch = TokenBatch(ids, ids.clone(), None, 20, 19, ())
    expected = model(input_ids=ids, labels=ids).loss * 19
    torch.testing.assert_close(loss(batch), expected)


def test_steps_are_those_of_adamw(llama: Path, rows: Path) -> None:
    """In float32, with clipping, accumulation and two groups."""
    ours = adapted(llama)
    theirs = copy.deepcopy(ours)
    batches = batches_of(llama, rows, is_packed=True, room=96)
    named = [(name, p) for name, p in ours.named_parameters() if p.requires_grad]
    split = [[pair for pair in named if key in pair[0]] for key in ("lora_A", "lora_B")]
    flat = FlatAdamW([(split[0], 1.0), (split[1], 4.0)], lr=1e-2, weight_decay=0.1, clip=0.5)
    other = dict(theirs.named_parameters())
    groups = [
        {"params": [other[name] for name, _ in part], "lr": 1e-2 * f} for part, f in zip(split, (1, 4), strict=True)
    ]
    reference = torch.optim.AdamW(groups, weight_decay=0.1)
    for number in range(4):
        for batch in (batches.at(2 * number), batches.at(2 * number + 1)):
            (loss_of(ours, 300)(batch) / 50).backward()
            flat.collect()
            (Loss(theirs, is_lean=False)(batch) / 50).backward()
        norm = flat.grad_norm()
        flat.step(1.0, norm)
        clipped = nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 0.5)
        assert norm == pytest.approx(float(clipped), rel=1e-4)
        reference.step()
        reference.zero_grad()
    for name, parameter in named:
        torch.testing.assert_close(parameter.data, other[name].data, rtol=1e-4, atol=1e-5)


def test_bf16_parameters_follow_masters_in_float32() -> None:
    """Steps too small for bf16 add up; the model always has its master, rounded."""
    parameter = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    flat = FlatAdamW([([("p", parameter)], 1.0)], lr=1e-4, weight_decay=0.0, clip=1e9)
    for _ in range(100):
        assert parameter.grad is not None
        parameter.grad.fill_(1.0)
        flat.collect()
        flat.step(1.0, flat.grad_norm())
    master = flat.state()["0.master"]
    torch.testing.assert_close(master, torch.full((64,), 0.99), rtol=1e-5, atol=1e-5)
    assert torch.equal(parameter.data, master.bfloat16())
    assert (parameter.data < 1).all()


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    factors = [schedule(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert max(factors) == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] <= 1 / 90 + 1e-9
    assert schedule(0, 1, 0.03) == 1.0
