"""The loss without the logits. Where the head is a frozen matrix, only positions that are learnt reach it, some at a
time, and the gradient of the hidden states is made in the forward; else the model's own loss.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorahub.errors import InvalidUsage
from lorahub.serving.failures import is_out_of_memory, reason
from lorahub.training.batches import IGNORED, TokenBatch

CHUNK_NUMBERS = 1 << 24  # logits in memory at a time
_TRIED = 8  # tokens
_SHAPES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def chunked_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Σ −log softmax(hidden · weightᵀ)[target], one number in float32.

    `hidden` (n, width), `weight` (vocabulary, width) without a gradient, `targets` (n).
    """
    total: Tensor = _ChunkedNll.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return total


class _ChunkedNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        step = max(CHUNK_NUMBERS // len(weight), 16)
        for start in range(0, len(hidden), step):
            part, wanted = hidden[start : start + step], targets[start : start + step]
            logs = functional.linear(part, weight).float().log_softmax(-1)
            total -= logs.gather(1, wanted[:, None]).sum()
            if grad is not None:
                surplus = logs.exp_()
                surplus[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
                grad[start : start + step] = surplus.to(weight.dtype) @ weight
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, None, None]:
        (grad,) = ctx.saved_tensors
        return (None if grad is None else grad * given.to(grad.dtype)), None, None


class Loss:
    """The summed loss of a batch. `is_lean` says which of the two ways it goes."""

    def __init__(self, model: nn.Module, *, is_lean: bool) -> None:
        self._model: Any = model
        self._head: Any = _head_of(model)
        self.is_lean = is_lean

    def compiled(self) -> "Loss":
        """The same, by torch.compile: worth it from some hundred steps on."""
        made = Loss(self._model, is_lean=self.is_lean)
        made._model = torch.compile(self._model)
        return made

    def __call__(self, batch: TokenBatch) -> Tensor:
        """One number, float32: the sum over the positions that are learnt."""
        batch = _shaped(self._model, batch)
        given = {"input_ids": batch.ids, "use_cache": False}
        if batch.positions is not None:
            given["position_ids"] = batch.positions
        if not self.is_lean:
            own: Tensor = self._model(**given, labels=batch.labels).loss
            return own.float() * batch.supervised
        with head_bypassed(self._model):
            hidden = self._model(**given).logits
        hidden = hidden[:, -batch.ids.shape[1] :]  # prompts that a method puts before have no labels
        places = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        return chunked_nll(hidden[:, :-1][places], self._head.weight, batch.labels[:, 1:][places])


def loss_of(model: nn.Module, vocabulary: int, most: int = 2 * _TRIED) -> Loss:
    """Lean where that gives the model's own loss on some tokens: whatever a model does to its logits is not lost.

    `most` is how many tokens a row may have.
    """
    if not _has_plain_head(model):
        return Loss(model, is_lean=False)
    was_training = model.training
    model.eval()
    batch = _some_tokens(model, vocabulary, most)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lean, own = (float(Loss(model, is_lean=way)(batch)) for way in (True, False))
        except (RuntimeError, AttributeError, TypeError, ValueError):
            lean, own = 0.0, 1.0
    model.train(was_training)
    close = abs(lean - own) <= _TOLERANCE.get(_head_of(model).weight.dtype, 1e-4) * max(abs(own), 1.0)
    return Loss(model, is_lean=close)


def require_learning(loss: Loss, model: nn.Module, vocabulary: int, most: int) -> None:
    """Goes forward and back once, as a step does. Raises `InvalidUsage` where a library has no way for it."""
    model.train()
    try:
        loss(_some_tokens(model, vocabulary, most)).backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InvalidUsage(
            f"the base can't be trained so: {reason(error)}",
            hint="try without --load-4bit, --grad-ckpt or --attention, or another --method",
        ) from error
    finally:
        for parameter in model.parameters():
            parameter.grad = None


def keeps_samples_apart(model: nn.Module, vocabulary: int, most: int = 2 * _TRIED) -> bool:
    """Whether positions that begin anew in a row keep its samples from seeing each other, found by trying it."""
    was_training = model.training
    model.eval()
    ids = _some_tokens(model, vocabulary, most // 2).ids
    count = ids.shape[1]
    positions = torch.arange(count, device=ids.device).repeat(2, 2)
    rows = [torch.cat([torch.cat([first, ids], 1)] * 2) for first in (ids, (ids + 1) % vocabulary)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            a, b = (_logits(model, TokenBatch(row, row, positions, 0, 0, ())).view(2, 2 * count, -1) for row in rows)
        except (RuntimeError, AttributeError, TypeError, ValueError):
            return False
        finally:
            model.train(was_training)
    return bool(torch.allclose(a[:, count:], b[:, count:], rtol=1e-4, atol=1e-5))


def _logits(model: Any, batch: TokenBatch) -> Tensor:
    shaped = _shaped(model, batch)
    given: Tensor = model(input_ids=shaped.ids, position_ids=shaped.positions, use_cache=False).logits
    return given.float()


def _shaped(model: Any, batch: TokenBatch) -> TokenBatch:
    """FlashAttention looks at positions only where there is one row."""
    used = str(getattr(model.config, "_attn_implementation", ""))
    return batch.in_one_row() if used.startswith("flash") else batch


def _some_tokens(model: nn.Module, vocabulary: int, most: int) -> TokenBatch:
    """Eight, or fewer if a row may have no more; the first quarter isn't learnt."""
    device, count = next(model.parameters()).device, min(_TRIED, most)
    ids = (torch.arange(count, device=device)[None] * 31 + 7) % vocabulary
    labels = ids.clone()
    unlearnt = max(count // 4, 1)
    labels[0, :unlearnt] = IGNORED
    return TokenBatch(ids, labels, None, count, count - unlearnt, ())


def _head_of(model: Any) -> Any:
    find = getattr(model, "get_output_embeddings", None)
    return find() if find is not None else None


def _has_plain_head(model: Any) -> bool:
    head = _head_of(model)
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None:
        return False
    shaped = any(getattr(model.config, name, None) not in (None, 1, 1.0) for name in _SHAPES_LOGITS)
    return not head.weight.requires_grad and not shaped


@contextmanager
def head_bypassed(model: nn.Module) -> Iterator[None]:
    """The head hands on what it gets: the model's logits are its hidden states."""
    head = _head_of(model)
    head.forward = _unchanged
    try:
        yield
    finally:
        del head.forward


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden
