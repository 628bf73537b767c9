"""What stands before the tokens: virtual tokens (prompt tuning), or keys and values of each layer (prefix tuning).

Both act once, where the cache is empty; from then on the cache has them, and positions and masks count them.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorahub.serving.slots import Live

_IGNORED = -100
_CACHES = ("cache", "past_key_values")  # transformers' name for it from 5.24 on, and before


@dataclass(frozen=True, slots=True)
class Front:
    """`embeddings` (length, width) of virtual tokens, or `states` (layers, 2, heads, length, width of a head)."""

    embeddings: Tensor | None
    states: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in (self.embeddings, self.states) if tensor is not None)

    @property
    def length(self) -> int:
        return self.tensors[0].shape[-2]

    def __call__(self, forward: Callable[..., Any], model: Any, given: dict[str, Any], cache_name: str) -> Any:
        """The model's own answer: logits of the tokens that were given, not of virtual ones."""
        self._count(given)
        cache = given.get(cache_name)
        if cache is not None and cache.get_seq_length():
            return forward(**given)
        if self.states is not None:
            given[cache_name] = self._filled(cache, model, _rows(given))
            return forward(**given)
        wanted = self._put_before(model, given)
        answer = forward(**given)
        answer.logits = answer.logits[:, -wanted:]
        return answer

    def _count(self, given: dict[str, Any]) -> None:
        mask, positions = given.get("attention_mask"), given.get("position_ids")
        if mask is not None and mask.ndim == 2:
            given["attention_mask"] = torch.cat([mask.new_ones(len(mask), self.length), mask], 1)
        if positions is not None:
            given["position_ids"] = positions + self.length
        given.pop("cache_position", None)

    def _filled(self, cache: Any, model: Any, rows: int) -> Any:
        from transformers import DynamicCache

        filled = DynamicCache(config=model.config) if cache is None else cache
        assert self.states is not None  # a prefix has them
        for layer, (keys, values) in enumerate(self.states):
            filled.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return filled

    def _put_before(self, model: Any, given: dict[str, Any]) -> int:
        """Returns how many tokens of their own were given."""
        ids, own = given.pop("input_ids", None), given.get("inputs_embeds")
        own = model.get_input_embeddings()(ids) if own is None else own
        assert self.embeddings is not None  # virtual tokens have them
        before = self.embeddings.to(own.dtype).expand(len(own), -1, -1)
        given["inputs_embeds"] = torch.cat([before, own], 1)
        if given.get("position_ids") is not None:
            counted = torch.arange(self.length, device=own.device).expand(len(given["position_ids"]), -1)
            given["position_ids"] = torch.cat([counted, given["position_ids"]], 1)
        if given.get("labels") is not None:
            unlearnt = given["labels"].new_full((len(own), self.length), _IGNORED)
            given["labels"] = torch.cat([unlearnt, given["labels"]], 1)
        return int(own.shape[1])


def _rows(given: dict[str, Any]) -> int:
    ids = given.get("input_ids")
    return len(given["inputs_embeds"] if ids is None else ids)


class Entrance:
    """Stands in for a model's `forward`, as slots do for its modules'."""

    def __init__(self, model: nn.Module, live: Live) -> None:
        self._model = model
        self._live = live
        self._before: Any = model.__dict__.get("forward")
        self._forward: Callable[..., Any] = model.forward
        self.__signature__ = inspect.signature(model.forward)
        self._cache_name = next(name for name in _CACHES if name in self.__signature__.parameters)
        model.forward = self

    def __call__(self, *args: Any, **given: Any) -> Any:
        front = self._live.state.front
        if front is None:
            return self._forward(*args, **given)
        bound = self.__signature__.bind_partial(*args, **given).arguments
        extra = bound.pop("kwargs", {})
        return front(self._forward, self._model, {**bound, **extra}, self._cache_name)

    def remove(self) -> None:
        if self._before is None:
            del self._model.forward
        else:
            self._model.forward = self._before
