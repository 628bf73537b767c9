"""Rows as tokens, and which of them are trained on: the answers, found where the template's rendering grows by them."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorahub.errors import InvalidTrainingData
from lorahub.training.config import TrainConfig
from lorahub.training.data import DataRow

Span = tuple[int, int]
MOST_TOKENS = 1 << 31
"""Ids are kept in 4 bytes."""


@dataclass(slots=True)
class Samples:
    """All samples end to end: 4 bytes for a token's id, 1 for whether it is trained on."""

    ids: "array[int]" = field(default_factory=lambda: array("i"))
    supervised: bytearray = field(default_factory=bytearray)
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    """Where in the file each came from."""

    def __len__(self) -> int:
        return len(self.ends)

    def add(self, ids: Sequence[int], supervised: Sequence[int], line: int) -> None:
        self.ids.extend(ids)
        self.supervised.extend(supervised)
        self.ends.append(len(self.ids))
        self.lines.append(line)

    def bounds(self, index: int) -> Span:
        return (self.ends[index - 1] if index else 0), self.ends[index]

    @property
    def lengths(self) -> list[int]:
        return [stop - start for start, stop in map(self.bounds, range(len(self)))]

    @property
    def supervised_tokens(self) -> int:
        return sum(self.supervised)


@dataclass(slots=True)
class RowReport:
    """What became of the rows; lines of those that were changed or left out, and why."""

    rows: int = 0
    truncated: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    masked: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    leaked: list[int] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        said: Mapping[str, Sequence[int]] = {
            "cut at --max-len": self.truncated,
            "left out, empty": self.empty,
            "left out, nothing in them to train on": self.masked,
            "a second time": self.duplicates,
            "both trained on and evaluated, but for case and spaces": self.leaked,
        }
        for what, lines in said.items():
            if lines:
                some = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
                yield f"{len(lines)} of {self.rows} rows {what}: line{'s' * (len(lines) > 1)} {some}"

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "truncated": len(self.truncated),
            "empty": len(self.empty),
            "masked": len(self.masked),
            "duplicates": len(self.duplicates),
            "leaked": len(self.leaked),
        }


class Tokens:
    """Turns rows into samples with one tokenizer."""

    def __init__(self, tokenizer: Any, config: TrainConfig, embeddings: int) -> None:
        self._tokenizer = tokenizer
        self._embeddings = embeddings
        self._most = config.max_len
        self._all = config.train_on == "all"

    def add(self, row: DataRow, samples: Samples, report: RowReport) -> None:
        """Where the row is too long it is cut, where nothing is left it is left out: both are reported.

        Raises `InvalidTrainingData`, without a line number, for a chat that the template can't render, and for a token
        that the base has no embedding for.
        """
        report.rows += 1
        ids, supervised = self._encoded(row)
        if len(ids) > self._most:
            report.truncated.append(row.line)
            ids, supervised = ids[: self._most], supervised[: self._most]
        self._refuse_beyond(ids)
        if len(ids) < 2:
            report.empty.append(row.line)
        elif not any(supervised[1:]):
            report.masked.append(row.line)
        else:
            samples.add(ids, [0, *supervised[1:]], row.line)  # nothing stands before the first token to predict it from

    def _refuse_beyond(self, ids: Sequence[int]) -> None:
        if not ids or 0 <= min(ids) <= max(ids) < self._embeddings:
            return
        token = next(token for token in ids if not 0 <= token < self._embeddings)
        size = max(len(self._tokenizer), token + 1)
        raise InvalidTrainingData(
            f"becomes token {token} ({self._tokenizer.convert_ids_to_tokens(token)}); the base has embeddings for "
            f"0 to {self._embeddings - 1}",
            hint=f"the tokenizer knows {size} tokens: take the one that the base was saved with, or give the base more "
            f"rows: model.resize_token_embeddings({size})",
        )

    def _encoded(self, row: DataRow) -> tuple[list[int], list[int]]:
        if row.format == "text":
            return self._text(row.content["text"], 0)
        if row.format == "chat":
            return self._chat(row.content["messages"], 0)
        prompt, completion = row.content["prompt"], row.content["completion"]
        if isinstance(prompt, list):
            return self._chat([*prompt, *completion], len(prompt))
        return self._text(prompt + completion, len(prompt)) if completion else ([], [])

    def _text(self, text: str, start: int) -> tuple[list[int], list[int]]:
        ids, supervised = self._marked(text, [(start, len(text))] if text else [], special=True)
        end = self._tokenizer.eos_token_id
        if text and end is not None and ids[-1:] != [end]:
            ids.append(end)
            supervised.append(1)
        return ids, supervised

    def _chat(self, messages: list[dict[str, Any]], first: int) -> tuple[list[int], list[int]]:
        whole = self._rendered(messages)
        spans = [] if self._all else list(self._answers(messages, first, whole))
        return self._marked(whole, spans, special=False)

    def _answers(self, messages: list[dict[str, Any]], first: int, whole: str) -> Iterator[Span]:
        """Characters of the assistant's turns: what the rendering grows by with each.

        Raises `InvalidTrainingData` for a template that renders earlier turns otherwise once there are later ones.
        """
        for number, message in enumerate(messages):
            if number < first or message["role"] != "assistant":
                continue
            after = self._rendered(messages[: number + 1])
            before = self._rendered(messages[:number], prompt=True) if number else ""
            if not after.startswith(before):
                before = self._rendered(messages[:number])
            if not (after.startswith(before) and whole.startswith(after)):
                raise InvalidTrainingData(
                    f"the chat template renders turn {number + 1} otherwise once later ones follow, "
                    "so that the answer can't be told from the rest; try --train-on all, or rows with one answer each"
                )
            yield len(before), len(after)

    def _rendered(self, messages: list[dict[str, Any]], *, prompt: bool = False) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
        except Exception as error:  # noqa: BLE001 (templates raise what they like)
            raise InvalidTrainingData(f"the chat template refuses it: {str(error)[:200]}") from None

    def _marked(self, text: str, spans: Sequence[Span], *, special: bool) -> tuple[list[int], list[int]]:
        """Ids, and 1 for each token that has a character of a span: one that straddles its start is part of it."""
        encoded = self._tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        ids = list(encoded["input_ids"])
        if self._all:
            return ids, [1] * len(ids)
        return ids, [
            int(any(begin < stop and end > start for start, stop in spans)) for begin, end in encoded["offset_mapping"]
        ]
