"""Rows of a JSONL file: read one line at a time, checked, split. Needs no torch.

What is learnt are answers: rows that say which answer is better than another are refused by the name of what they are.

{"messages": [{"role": …, "content": …}, …]}   chat; trained on the assistant's turns
{"prompt": …, "completion": …}                 completion; texts, or lists of messages; trained on the completion
{"text": …}                                    text; trained on all of it
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidTrainingData, InvalidUsage
from lorahub.training.config import Format

RowFormat = Literal["chat", "completion", "text"]

KEYS: Mapping[RowFormat, tuple[str, ...]] = {
    "chat": ("messages",),
    "completion": ("prompt", "completion"),
    "text": ("text",),
}
MOST_PROBLEMS = 100

Problem = tuple[int, InvalidTrainingData]
"""A line, counted from 1, and what is wrong with it."""

_ROWS = 'rows are {"messages": […]}, {"prompt": …, "completion": …} or {"text": …}, all of one kind'

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_ANSWERS = frozenset({"completion", "messages", "conversations", "response", "output"})
_LABELS = ("label", "kto_tag")
"""True for a good answer. A label that is a number or a text is a class, which isn't read."""
_PAIRS = (
    ("chosen", "rejected"),
    ("score_chosen", "score_rejected"),
    ("preferred", "dispreferred"),
    ("response_a", "response_b"),
    ("response_1", "response_2"),
    ("response_j", "response_k"),
    ("completion_a", "completion_b"),
    ("answer_0", "answer_1"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
    ("human_ref_A", "human_ref_B"),
)
"""What TRL, UltraFeedback, HelpSteer, StackExchange, WebGPT, AlpacaFarm, Chatbot Arena and SHP call two answers."""
_SEVERAL = ("completions", "responses")
_BETTER = "keep the better answer"
_OF_MESSAGES = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"})


@dataclass(frozen=True, slots=True)
class DataRow:
    """One checked line, counted from 1. `content` has exactly the keys of its format."""

    line: int
    format: RowFormat
    content: dict[str, Any]

    @property
    def digest(self) -> bytes:
        """The same for the same content, whatever the order of its keys: 32 bytes."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True, ensure_ascii=False).encode()).digest()

    @property
    def gist(self) -> bytes:
        """The same for contents that differ in case and white space only: 32 bytes."""
        texts = (" ".join(text.casefold().split()) for text in _texts(self.content))
        return hashlib.sha256("\0".join(texts).encode()).digest()

    def is_held_out(self, share: float) -> bool:
        """Whether it is for evaluation: by content, so that another order of rows gives the same split."""
        return int.from_bytes(self.digest[:8], "big") < share * 2.0**64


@dataclass(slots=True)
class RowFile:
    """A file of rows; what is known of the whole file stands here once all of it was read."""

    path: Path
    wanted: Format = "auto"
    format: RowFormat | None = None
    rows: int = 0
    size: int = 0
    sha256: str = ""
    ignored: dict[str, int] = field(default_factory=dict)
    """Keys that no format has: how many rows have them."""

    def __iter__(self) -> Iterator[DataRow]:
        """Every row, in order. Raises `InvalidTrainingData` at the end, with every problem and its line."""
        self.format = None if self.wanted == "auto" else self.wanted
        self.rows, self.size, self.ignored = 0, 0, {}
        whole = hashlib.sha256()
        problems: list[Problem] = []
        for number, raw in enumerate(self._lines(), start=1):
            whole.update(raw)
            self.size += len(raw)
            if not raw.strip() or len(problems) >= MOST_PROBLEMS:
                continue
            self.rows += 1
            try:
                yield self._row(number, raw)
            except InvalidTrainingData as error:
                problems.append((number, error))
        self.sha256 = whole.hexdigest()
        if problems or not self.rows:
            raise self.refusal(problems)

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                yield from file
        except OSError as error:
            raise InvalidUsage(f"can't read {self.path}: {error.strerror}", hint="name a file of JSON lines") from None

    def _row(self, number: int, raw: bytes) -> DataRow:
        value = parse_json(raw, error=InvalidTrainingData)
        if not isinstance(value, dict):
            raise InvalidTrainingData("not a JSON object")
        _refuse_preference(value, is_told=self.wanted != "auto")
        found = self.format or _format_of(value)
        if any(key not in value for key in KEYS[found]):
            others = " and ".join(sorted(value)) or "nothing"
            raise InvalidTrainingData(f"has {others}; {found} rows have {' and '.join(KEYS[found])}")
        if self.format is None:
            self.format = found
        row = {key: value[key] for key in KEYS[found]}
        _check(found, row)
        for key in value.keys() - row.keys():
            self.ignored[key] = self.ignored.get(key, 0) + 1
        return DataRow(number, found, row)

    def refusal(self, problems: list[Problem]) -> InvalidTrainingData:
        if not problems:
            return InvalidTrainingData(f"{self.path} has no rows", hint="one JSON object a line")
        shown = "".join(f"\n    line {line}: {error.message}" for line, error in problems[:20])
        many = f"{len(problems)}{'+' if len(problems) >= MOST_PROBLEMS else ''}"
        rest = f"\n    … and {len(problems) - 20} more" if len(problems) > 20 else ""
        return InvalidTrainingData(
            f"{many} {'line' if len(problems) == 1 else 'lines'} of {self.path} can't be used{shown}{rest}",
            hint=next((error.hint for _, error in problems if error.hint), _ROWS),
            problems=[{"line": line, "message": error.message} for line, error in problems],
        )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _texts(value[key])


def _format_of(value: Mapping[str, Any]) -> RowFormat:
    found = [name for name, keys in KEYS.items() if any(key in value for key in keys)]
    if len(found) != 1:
        has = " and ".join(sorted(value)) or "no key"
        raise InvalidTrainingData(f"has {has}: " + ("rows of two formats" if found else "no format has these keys"))
    return found[0]


# --- what is no row ---------------------------------------------------------------------------------------------------


def _refuse_preference(value: Mapping[str, Any], *, is_told: bool) -> None:
    """Raises `InvalidTrainingData`. Where somebody told the format, what stands beside its keys isn't read."""
    if value.keys() & _ANSWERS and any(isinstance(value.get(key), bool) for key in _LABELS):
        raise _preference("an answer that is labelled good or bad, as for KTO", "keep the good answers, unlabelled,")
    if is_told:
        return
    whole = next((name for name, keys in KEYS.items() if value.keys() >= set(keys)), None)
    for pair in _PAIRS:
        if value.keys() >= set(pair):
            raise _preference(
                f"{' and '.join(pair)}, as for DPO, ORPO or a reward model",
                f"take --data-format {whole} to leave them out, or keep the better answer" if whole else _BETTER,
            )
    for key in _SEVERAL:
        if whole is None and isinstance(value.get(key), list) and len(value[key]) > 1:
            raise _preference(f"{key}, some better than others, as for a reward model", _BETTER)


def _preference(what: str, cure: str) -> InvalidTrainingData:
    return InvalidTrainingData(
        f"is preference data: {what}",
        hint=f'answers are learnt here, not preferences: {cure} as {{"prompt": …, "completion": …}}, '
        "or train with TRL and push what it leaves",
    )


# --- one row ----------------------------------------------------------------------------------------------------------


def _check(found: RowFormat, row: Mapping[str, Any]) -> None:
    """Raises `InvalidTrainingData` without a line number."""
    if found == "text":
        _check_text("text", row["text"])
    elif found == "chat":
        _check_messages("messages", row["messages"])
    elif isinstance(row["prompt"], list) and isinstance(row["completion"], list):
        _check_messages("prompt", row["prompt"])
        _check_messages("completion", row["completion"])
    else:
        _check_text("prompt", row["prompt"])
        _check_text("completion", row["completion"])


def _check_text(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidTrainingData(f"{key} is {_kind(value)}, not text")


def _check_messages(key: str, value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise InvalidTrainingData(f"{key} is {_kind(value)}, not a list of messages")
    for number, message in enumerate(value, start=1):
        place = f"message {number} of {key}"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            role = message.get("role") if isinstance(message, dict) else None
            raise InvalidTrainingData(f"{place} has the role {str(role)[:40]!r}; one of {', '.join(sorted(_ROLES))}")
        strange = sorted(message.keys() - _OF_MESSAGES)
        if strange:
            raise InvalidTrainingData(f"{place} has {strange[0][:40]!r}, which no template reads")
        if not isinstance(message.get("content"), str):
            raise InvalidTrainingData(f"the content of {place} is {_kind(message.get('content'))}, not text")


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "missing"}
    if value == []:
        return "an empty list"
    return kinds.get(type(value), "a number")
