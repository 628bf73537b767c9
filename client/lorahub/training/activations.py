"""How many bytes a forward keeps for its backward: counted on shapes alone, with nothing computed or allocated."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lorahub.training.loss import head_bypassed

_ATTENTION = "lorahub_shapes"


class _Fused(torch.autograd.Function):
    """Keeps what flash attention keeps: queries, keys, values, what comes out, and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out


def _attention(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    out: Tensor = _Fused.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def kept_bytes(model: Any, rows: int, width: int) -> int | None:
    """What a batch (rows, width) keeps for the backward pass, up to the head. `model` is on the meta device.

    None where it can't be told there.
    """
    AttentionInterface.register(_ATTENTION, _attention)
    own = {_storage(parameter) for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    ids = torch.zeros(rows, width, dtype=torch.int64, device="meta")
    everywhere = torch.ones(rows, 1, width, width, dtype=torch.bool, device="meta")
    try:
        model.set_attn_implementation(_ATTENTION)
        with head_bypassed(model), torch.autograd.graph.saved_tensors_hooks(note, _same):
            model(input_ids=ids, attention_mask=everywhere, use_cache=False)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _storage(tensor: Tensor) -> int:
    """What two views of the same bytes have in common; addresses are 0 on the meta device."""
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001


def _same(tensor: Tensor) -> Tensor:
    return tensor
