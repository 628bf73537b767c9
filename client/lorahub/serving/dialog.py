"""A conversation in which the adapter may change between any two tokens.

The cache holds keys and values that the adapter of their time made. After a swap they are computed anew (`reprefill`:
exactly what a fresh start with the new adapter gives) or kept (`keep`: at once, but an approximation, and
`Dialog.is_exact` says so).
"""

import inspect
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lorahub.errors import InvalidBaseModel, InvalidUsage
from lorahub.serving.failures import within_memory
from lorahub.serving.slots import State


class Switch(Protocol):
    """What a dialog needs of `session.Session`."""

    model: Any

    @property
    def state(self) -> State: ...

    def use(self, name: str | None) -> None: ...


class Dialog:
    """`say` takes and gives text, `continue_ids` token ids. Greedy at temperature 0; else seeded by torch.manual_seed.

    With a chat template `messages` are rendered anew each turn, and only what differs from the cache is computed;
    without one, text is continued as it is. Swaps may also be made on the session: the next token notices.
    """

    def __init__(self, session: Switch, tokenizer: Any = None, *, on_swap: str, temperature: float = 0.0) -> None:
        if on_swap not in ("reprefill", "keep"):
            raise InvalidUsage(f"no policy is called {on_swap!r}", hint="reprefill is exact, keep is fast")
        if not temperature >= 0:
            raise InvalidUsage(f"the temperature is {temperature}", hint="0 is greedy, 1 is the model's own")
        self.on_swap = on_swap
        self.temperature = temperature
        self.messages: list[dict[str, str]] = []
        self.ids: list[int] = []
        """All tokens, the answers' too."""
        self.is_exact = True
        """Whether the whole cache was made by what acts now."""
        self._session = session
        self._tokenizer = tokenizer
        self._stops = _stops(session.model, tokenizer)
        self._positions = getattr(session.model.config, "max_position_embeddings", None)
        takes = inspect.signature(session.model.forward).parameters
        self._options = {"use_cache": True, **({"logits_to_keep": 1} if "logits_to_keep" in takes else {})}
        self._cache_name = "cache" if "cache" in takes else "past_key_values"  # as transformers called it before 5.24
        self._cache: Any = None
        self._cached = 0
        self._made_by = session.state

    def say(self, text: str, max_new_tokens: int = 128) -> Iterator[str]:
        """One turn; the answer in pieces, as they are made. Raises `InvalidUsage` without room for it."""
        if self._tokenizer is None:
            raise InvalidUsage("this dialog has no tokenizer", hint="continue_ids takes token ids")
        question = {"role": "user", "content": text}
        self._take(self._prompt(question))
        answer = {"role": "assistant", "content": ""}
        self.messages += [question, answer]
        return self._told(answer, max_new_tokens)

    def continue_ids(self, ids: Sequence[int], n: int) -> Iterator[int]:
        """Takes `ids` behind what there is, gives up to `n` more; fewer where the model ends, or has no more room."""
        self._take([*self.ids, *ids])
        return self._generated(n)

    def swap(self, name: str | None) -> float:
        """The adapter of everything that follows; seconds that it took, without what the policy costs later."""
        started = time.perf_counter()
        self._session.use(name)
        return time.perf_counter() - started

    # --- turns --------------------------------------------------------------------------------------------------------

    def _prompt(self, question: dict[str, str]) -> list[int]:
        if getattr(self._tokenizer, "chat_template", None):
            whole = [*self.messages, question]
            try:
                return list(self._tokenizer.apply_chat_template(whole, add_generation_prompt=True, return_dict=False))
            except Exception as error:
                raise InvalidUsage(
                    f"the chat template refuses it: {str(error)[:200]}", hint="correct the template of the base"
                ) from error
        return [*self.ids, *self._tokenizer.encode(question["content"], add_special_tokens=not self.ids)]

    def _take(self, ids: list[int]) -> None:
        if not ids:
            raise InvalidUsage("there is nothing to continue", hint="say something first")
        self._refuse_beyond(ids)
        limit = self._limit
        if limit is not None and len(ids) >= limit:
            raise InvalidUsage(f"the dialog is {len(ids)} tokens long, the model takes {limit}", hint="start anew")
        if ids[: self._cached] != self.ids[: self._cached] or len(ids) == self._cached:
            self._drop()
        self.ids = ids

    def _refuse_beyond(self, ids: list[int]) -> None:
        rows = self._session.model.get_input_embeddings().weight.shape[0]
        token = next((token for token in ids if not 0 <= token < rows), None)
        if token is not None:
            shown = "" if self._tokenizer is None else f" ({self._tokenizer.convert_ids_to_tokens(token)})"
            raise InvalidUsage(
                f"that has token {token}{shown}; the base has embeddings for 0 to {rows - 1}",
                hint="take the tokenizer that the base was saved with",
            )

    def _told(self, answer: dict[str, str], most: int) -> Iterator[str]:
        """Text as far as it is certain: half a character waits for its other half, and is told at the end."""
        tokens: list[int] = []
        text = ""
        for token in self._generated(most):
            tokens.append(token)
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            piece = text[len(answer["content"]) :]
            if piece and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                answer["content"] = text
                yield piece
        if len(text) > len(answer["content"]):
            piece = text[len(answer["content"]) :]
            answer["content"] = text
            yield piece

    @property
    def _limit(self) -> int | None:
        """How many tokens there may be; what an adapter puts before them takes positions too."""
        front = self._session.state.front
        return self._positions if self._positions is None or front is None else self._positions - front.length

    # --- tokens -------------------------------------------------------------------------------------------------------

    def _generated(self, most: int) -> Iterator[int]:
        limit = self._limit
        room = most if limit is None else min(most, limit - len(self.ids))
        for _ in range(room):
            token = self._chosen(self._logits())
            self.ids.append(token)
            yield token
            if token in self._stops:
                return

    def _logits(self) -> Tensor:
        """(vocabulary) of the token behind all ids."""
        state = self._session.state
        if state is not self._made_by:
            if self.on_swap == "reprefill":
                self._drop()
            self.is_exact = not self._cached
            self._made_by = state
        model = self._session.model
        fresh = torch.tensor([self.ids[self._cached :]], device=model.device)
        try:
            with torch.inference_mode(), within_memory(lambda: "start anew, or take a smaller model"):
                given = model(input_ids=fresh, **{self._cache_name: self._cache}, **self._options)
        except BaseException:
            self._drop()  # some layers have seen the tokens, others haven't
            raise
        self._cache = getattr(given, self._cache_name, None)
        self._cached = 0 if self._cache is None else len(self.ids)  # without one, all is computed anew for each token
        logits: Tensor = given.logits[0, -1]
        return logits

    def _chosen(self, logits: Tensor) -> int:
        most = logits.max()
        if not most.isfinite():
            raise InvalidBaseModel(
                "the model computes no finite numbers for this", hint="look for NaN in the base, and in its adapter"
            )
        if self.temperature <= 0:
            return int(logits.argmax())
        below = (logits - most).double() / self.temperature  # 0 at most: a low temperature overflows nothing
        return int(torch.multinomial(below.softmax(-1), 1))

    def _drop(self) -> None:
        self._cache, self._cached, self.is_exact = None, 0, True


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = own if isinstance(own, list) else [own]
    return frozenset({*several, getattr(tokenizer, "eos_token_id", None)} - {None})
