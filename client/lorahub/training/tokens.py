"""Rows as tokens, and which of them are trained on."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorahub.errors import InvalidTrainingData
from lorahub.training.config import TrainConfig
from lorahub.training.data import DataRow
from lorahub.training.files import Unit
from lorahub.training.templates import ChatRow, ChatTemplate

Span = tuple[int, int]
Sample = tuple[list[int], list[int]]
"""Ids, and 1 for each that is trained on."""
FILE = 1 << 40
MOST_TOKENS = 1 << 31
"""Ids are kept in 4 bytes."""


@dataclass(slots=True)
class Samples:
    """All samples end to end: 4 bytes for a token's id, 1 for whether it is trained on."""

    ids: "array[int]" = field(default_factory=lambda: array("i"))
    supervised: bytearray = field(default_factory=bytearray)
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    """Where in its file each came from; behind the first file they go on from the next multiple of `FILE`."""

    def __len__(self) -> int:
        return len(self.ends)

    def add(self, ids: Sequence[int], supervised: Sequence[int], line: int) -> None:
        self.ids.extend(ids)
        self.supervised.extend(supervised)
        self.ends.append(len(self.ids))
        self.lines.append(line)

    def bounds(self, index: int) -> Span:
        return (self.ends[index - 1] if index else 0), self.ends[index]

    def place(self, index: int) -> int | str:
        """The line of a sample; `2:17` is line 17 of the second file."""
        file, line = divmod(self.lines[index], FILE)
        return f"{file + 1}:{line}" if file else line

    @property
    def lengths(self) -> list[int]:
        return [stop - start for start, stop in map(self.bounds, range(len(self)))]

    @property
    def supervised_tokens(self) -> int:
        return sum(self.supervised)


@dataclass(slots=True)
class RowReport:
    """What became of the rows of a file; lines of those that were changed or left out, and why."""

    name: str = ""
    unit: Unit = "line"
    first: int = 0
    """What the lines of its samples begin behind."""
    rows: int = 0
    truncated: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    masked: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    leaked: list[int] = field(default_factory=list)
    divided: list[int] = field(default_factory=list)
    endless: list[int] = field(default_factory=list)
    unrendered: dict[str, list[int]] = field(default_factory=dict)

    def notes(self, *, is_alone: bool = True) -> Iterator[str]:
        said: Mapping[str, Sequence[int]] = {
            "cut at --max-len": self.truncated,
            "left out, empty": self.empty,
            "left out, nothing in them to train on": self.masked,
            "a second time": self.duplicates,
            "both trained on and evaluated, but for case and spaces": self.leaked,
            "divided into several samples": self.divided,
            "end without a token that stops: the model won't learn to": self.endless,
            **{f"have {what} that the chat template leaves out": lines for what, lines in self.unrendered.items()},
        }
        for what, lines in said.items():
            if lines:
                some = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
                where = f"{self.unit}{'s' * (len(lines) > 1)} {some}" + ("" if is_alone else f" of {self.name}")
                yield f"{len(lines)} of {self.rows} rows {what}: {where}"

    def as_json(self) -> dict[str, int]:
        return {
            "rows": self.rows,
            "truncated": len(self.truncated),
            "empty": len(self.empty),
            "masked": len(self.masked),
            "duplicates": len(self.duplicates),
            "leaked": len(self.leaked),
            "divided": len(self.divided),
        }


class Tokens:
    """Turns rows into samples with one tokenizer. `template` is None where it has none."""

    def __init__(self, tokenizer: Any, template: ChatTemplate | None, config: TrainConfig, embeddings: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._embeddings = embeddings
        self._most = config.max_len
        self._all = config.train_on == "all"
        self._stops = {tokenizer.eos_token_id, *tokenizer.added_tokens_decoder}

    def add(self, row: DataRow, samples: Samples, report: RowReport, times: int = 1) -> None:
        """What is too long is cut, a text is divided; where nothing is left a row is left out: all are reported.

        Raises `InvalidTrainingData`, without a line number, for a chat that the template can't render, and for a token
        that the base has no embedding for.
        """
        report.rows += 1
        made = list(self._encoded(row, report))
        if len(made) > 1:
            report.divided.append(row.line)
        kept = [self._cut(*one, row, report) for one in made]
        learnt = [(ids, supervised) for ids, supervised in kept if len(ids) >= 2 and any(supervised[1:])]
        if not learnt:
            is_empty = all(len(ids) < 2 for ids, _ in kept)
            (report.empty if is_empty else report.masked).append(row.line)
        for ids, supervised in learnt * times:
            samples.add(
                ids, [0, *supervised[1:]], report.first + row.line
            )  # nothing stands before the first token to predict it from

    def _cut(self, ids: list[int], supervised: list[int], row: DataRow, report: RowReport) -> Sample:
        if len(ids) > self._most:
            _once(report.truncated, row.line)
            ids, supervised = ids[: self._most], supervised[: self._most]
        self._refuse_beyond(ids)
        return ids, supervised

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

    # --- a row --------------------------------------------------------------------------------------------------------

    def _encoded(self, row: DataRow, report: RowReport) -> Iterator[Sample]:
        content = row.content
        if row.format == "text":
            yield from self._divided(*self._text(content["text"], 0))
        elif isinstance(content.get("prompt"), str):
            yield self._pair(content["prompt"], content["completion"])
        elif self._template is None and row.plain is not None:
            yield self._pair(*row.plain)
        else:
            yield from self._chat(row, report)

    def _pair(self, prompt: str, completion: str) -> Sample:
        return self._text(prompt + completion, len(prompt)) if completion else ([], [])

    def _text(self, text: str, start: int) -> Sample:
        ids, supervised = self._marked(text, [(start, len(text))] if text else [], special=True)
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        if begin is not None and ids[:2] == [begin, begin]:  # the text has one already
            ids, supervised = ids[1:], supervised[1:]
        if text and end is not None and ids[-1:] != [end]:
            ids.append(end)
            supervised.append(1)
        return ids, supervised

    def _divided(self, ids: list[int], supervised: list[int]) -> Iterator[Sample]:
        for start in range(0, max(len(ids), 1), self._most):
            yield ids[start : start + self._most], supervised[start : start + self._most]

    def _chat(self, row: DataRow, report: RowReport) -> Iterator[Sample]:
        assert self._template is not None  # a base without one was refused
        chat = chat_of(row)
        rendered = self._template.render(chat)
        for what in self._template.unrendered(chat, rendered):
            _once(report.unrendered.setdefault(what, []), row.line)
        for one in rendered:
            ids, supervised = self._marked(one.text, one.spans, special=False)
            if not self._all and not self._is_stopped(ids, supervised):
                _once(report.endless, row.line)
            yield ids, supervised

    def _is_stopped(self, ids: Sequence[int], supervised: Sequence[int]) -> bool:
        """Whether what is trained on ends with a token of its own, but for white space: that's how a model stops."""
        for token, is_trained in zip(reversed(ids), reversed(supervised), strict=True):
            if is_trained and (token in self._stops or self._tokenizer.decode([token]).strip()):
                return token in self._stops
        return True

    def _marked(self, text: str, spans: Sequence[Span], *, special: bool) -> Sample:
        """Ids, and 1 for each token that has a character of a span: one that straddles its start is part of it, and so
        is one that straddles its end, but for tokens of their own, such as the one that opens the next turn.
        """
        encoded = self._tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        ids = list(encoded["input_ids"])
        if self._all:
            return ids, [1] * len(ids)
        places = zip(ids, encoded["offset_mapping"], strict=True)
        return ids, [
            int(
                any(begin < stop and start < end and (end <= stop or token not in self._stops) for start, stop in spans)
            )
            for token, (begin, end) in places
        ]


def chat_of(row: DataRow) -> ChatRow:
    content = row.content
    beside = {"tools": content.get("tools"), "settings": content.get("chat_template_kwargs", {})}
    if row.format == "chat":
        return ChatRow(content["messages"], **beside)
    return ChatRow([*content["prompt"], *content["completion"]], first=len(content["prompt"]), **beside)


def _once(lines: list[int], line: int) -> None:
    if lines[-1:] != [line]:
        lines.append(line)
