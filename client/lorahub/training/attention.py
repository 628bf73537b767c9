"""Attention for short rows on a CPU, where torch's fused kernel takes twice the time of the products it is made of.

Keeps the weights, in the dtype of the rest, for the backward: (rows · heads · tokens · tokens), which is why it ends at
512 tokens a row. docs/benchmarks.md has what it gains.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "lorahub_short_rows"
_MOST_TOKENS = 512


def use_short_rows(model: Any) -> bool:
    """False where the model's attention can't be chosen: it keeps its own."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    before = model.config._attn_implementation  # noqa: SLF001 (it has no other name)
    if before != "sdpa":
        return False
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, AttributeError):
        model.set_attn_implementation(before)
        return False
    return True


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Query (rows, heads, tokens, width), key and value with as many heads or fewer → (rows, tokens, heads, width).

    What isn't plain self-attention over a short row goes to torch's own.
    """
    tokens = query.shape[2]
    is_plain = tokens == key.shape[2] <= _MOST_TOKENS and tokens > 1 and not dropout and more.get("softcap") is None
    is_told = attention_mask is not None or getattr(module, "is_causal", False)
    if not (is_plain and is_told and more.get("is_causal", True) in (None, True) and value.shape == key.shape):
        own: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **more
        )
        return own
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = _ShortRows.apply(query, key, value, attention_mask, scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


class _ShortRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        rows, keys, values = _grouped(query, key), key.flatten(0, 1), value.flatten(0, 1)
        scores = torch.baddbmm(_bias(query, key, mask), rows, keys.transpose(1, 2), alpha=scale)
        weights = scores.softmax(-1)  # computed in float32, whatever goes in and out
        ctx.save_for_backward(query, key, value, weights)
        ctx.scale = scale
        return torch.bmm(weights, values).view(query.shape)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, weights = ctx.saved_tensors
        grad, rows, keys = _grouped(given, key), _grouped(query, key), key.flatten(0, 1)
        of_value = torch.bmm(weights.transpose(1, 2), grad).view(value.shape)
        of_weights = torch.bmm(grad, value.flatten(0, 1).transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)  # noqa: SLF001
        of_query = torch.bmm(of_scores, keys).mul_(ctx.scale).view(query.shape)
        of_key = torch.bmm(of_scores.transpose(1, 2), rows).mul_(ctx.scale).view(key.shape)
        return of_query, of_key, of_value, None, None


def _grouped(tensor: Tensor, key: Tensor) -> Tensor:
    """(rows, heads, tokens, width) → (rows · heads of keys, queries of all heads that share a key, width)."""
    return tensor.reshape(tensor.shape[0] * key.shape[1], -1, tensor.shape[-1])


def _bias(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """0 where a query may look, the lowest number elsewhere: (1 or rows · heads of keys, queries, tokens).

    Without a mask it is causal.
    """
    tokens, shared = query.shape[2], query.shape[1] // key.shape[1]
    if mask is None:
        seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril().repeat(shared, 1)[None]
    else:
        seen = mask.expand(query.shape[0], key.shape[1], tokens, tokens).repeat(1, 1, shared, 1).flatten(0, 1)
    return torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill_(
        ~seen, torch.finfo(query.dtype).min
    )
