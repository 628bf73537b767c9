"""A chat as one text, and which of its characters are the answers that are trained on.

Where a template marks what is generated, `{% generation %}`, its marks are taken; for templates of well-known families
that mark nothing there are twins that do, TRL's. Any other template is tried: what it renders after the prompt for an
answer is the answer. Where it renders earlier answers otherwise once later ones follow, as those do that drop earlier
reasoning, each answer is a sample of its own, behind the turns before it as the template renders them then.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers.utils import chat_template_utils

from lorahub.errors import InvalidConfiguration, InvalidTrainingData
from lorahub.training.config import TrainConfig

Span = tuple[int, int]
Message = dict[str, Any]
_render: Any = chat_template_utils.render_jinja_template  # which says that it returns one text
_MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_PROBE = "lorahub-probe"
_OURS = frozenset(
    "conversations messages tools documents chat_template add_generation_prompt return_assistant_tokens_mask "
    "continue_final_message".split()
)
"""What no row sets for a template by another name."""


@dataclass(frozen=True, slots=True)
class ChatRow:
    """`first` is the number of the first message that may be trained on."""

    messages: list[Message]
    tools: list[Message] | None = None
    first: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the row hands to the template beside its messages."""

    @property
    def answers(self) -> list[int]:
        """Numbers of the messages that are trained on."""
        return [
            number
            for number, message in enumerate(self.messages)
            if number >= self.first and message["role"] == "assistant" and message.get("weight", 1)
        ]


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A text, and from which character to which it is trained on."""

    text: str
    spans: list[Span]


@dataclass(slots=True)
class ChatTemplate:
    """The template of one tokenizer, as the settings of a run use it."""

    tokenizer: Any
    source: str
    train_on: str = "auto"
    marked: str | None = None
    """The template that marks its answers, if there is one."""

    @classmethod
    def of(cls, tokenizer: Any, config: TrainConfig) -> "ChatTemplate | None":
        """None where the tokenizer has none. Raises `InvalidConfiguration` for a file that can't be read."""
        source = _read(config.chat_template) if config.chat_template else getattr(tokenizer, "chat_template", None)
        if isinstance(source, dict):
            source = source.get("default") or next(iter(source.values()), None)
        if not source:
            return None
        marked = source if _MARKED.search(source) else twin_of(source)
        return cls(tokenizer, source, config.train_on, marked)

    def render(self, chat: ChatRow) -> list[RenderedChat]:
        """The samples that a chat becomes: one, or one for each answer. Raises `InvalidTrainingData`."""
        wanted = [number for number in chat.answers if self._is_shown(chat.messages[number])]
        wanted = wanted[-1:] if self.train_on == "last" else wanted
        if self.train_on == "all":
            text = self._text(chat)
            return [RenderedChat(text, [(0, len(text))])]
        if self.marked is not None and (self.train_on != "last" or self.marked == self.source):
            text, spans = self._marked(chat, self.marked)
            return [RenderedChat(text, self._chosen(chat, wanted, text, spans))]
        return self._grown(chat, wanted)

    def unrendered(self, chat: ChatRow, rendered: Sequence[RenderedChat]) -> Iterator[str]:
        """What a row has and no sample of it shows: some templates leave out what they don't know, in silence."""
        text = rendered[-1].text
        names = [tool["function"].get("name") for tool in chat.tools or () if isinstance(tool.get("function"), dict)]
        if any(isinstance(name, str) and name not in text for name in names):
            yield "tools"
        for number, message in enumerate(chat.messages):
            if any(call["function"]["name"] not in text for call in message.get("tool_calls", ())):
                yield "tool calls"
            if message["content"].strip() and message["content"].strip()[:40] not in _unescaped(text):
                yield f"messages of the role {message['role']}"
            reasoning = str(message.get("reasoning_content", "")).strip()
            if number in chat.answers and reasoning and not any(reasoning in one.text for one in rendered):
                yield "reasoning"

    def _is_shown(self, message: Message) -> bool:
        """A call that the template leaves out would be an empty answer to learn."""
        return not message.get("tool_calls") or "tool_calls" in (self.marked or self.source)

    # --- by marks -----------------------------------------------------------------------------------------------------

    def _marked(self, chat: ChatRow, template: str) -> tuple[str, list[Span]]:
        (text,), (spans,) = self._jinja(chat.messages, chat, template, marks=True)
        return text, [(start, stop) for start, stop in spans if start < stop]

    def _chosen(self, chat: ChatRow, wanted: list[int], text: str, spans: list[Span]) -> list[Span]:
        """The spans of the messages that are trained on."""
        answers = [number for number, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if wanted == answers:
            return spans
        ends = {number: _common(self._text(chat, number + 1, self.marked), text) for number in answers}
        begins = {number: ends[before] for before, number in pairwise(answers)}
        return [
            (start, stop)
            for start, stop in spans
            if any(begins.get(n, 0) <= start and (start < ends[n] or n == answers[-1]) for n in wanted)
        ]

    # --- by what the text grows by ------------------------------------------------------------------------------------

    def _grown(self, chat: ChatRow, wanted: list[int]) -> list[RenderedChat]:
        whole = self._text(chat)
        answers = [(number, *self._answer(chat, number)) for number in wanted]
        spans = [(start, self._end(chat, number, after)) for number, start, after in answers]
        if all(whole.startswith(after[:stop]) for (_, _, after), (_, stop) in zip(answers, spans, strict=True)):
            return [RenderedChat(whole, spans)]
        return [RenderedChat(after, [(start, len(after))]) for _, start, after in answers]

    def _answer(self, chat: ChatRow, number: int) -> tuple[int, str]:
        """Where the answer begins in the rendering that ends with it, and this rendering."""
        after = self._text(chat, number + 1)
        if number == 0:  # nothing to prompt it with
            return max(after.find(chat.messages[0]["content"].strip()), 0), after
        prompted, bare = self._text(chat, number, prompt=True), self._text(chat, number)
        start = _common(prompted, after)
        if start < _common(prompted, bare):
            raise InvalidTrainingData(
                f"the chat template renders what stands before turn {number + 1} otherwise once that turn follows, so "
                "that the answer can't be told from the rest",
                hint="take --train-on all, or a --chat-template that marks answers with {% generation %}",
            )
        return start, after

    def _end(self, chat: ChatRow, number: int, after: str) -> int:
        """Where the turn ends, without what closes a whole chat, unless it is the last."""
        if number == len(chat.messages) - 1:
            return len(after)
        return _common(after, self._text(chat, number + 1, prompt=True))

    # --- rendering ----------------------------------------------------------------------------------------------------

    def _text(
        self, chat: ChatRow, count: int | None = None, template: str | None = None, *, prompt: bool = False
    ) -> str:
        """The rendering of the first `count` messages; without a number of all."""
        (text,), _ = self._jinja(chat.messages[:count], chat, template or self.source, prompt=prompt)
        return str(text)

    def _jinja(
        self, messages: list[Message], chat: ChatRow, template: str, *, prompt: bool = False, marks: bool = False
    ) -> tuple[list[str], list[list[Span]]]:
        in_parts = _takes_parts(template)
        given = [_as_read(message, in_parts=in_parts) for message in messages]
        try:
            texts, spans = _render(
                conversations=[given], tools=chat.tools, chat_template=template, return_assistant_tokens_mask=marks,
                add_generation_prompt=prompt, **self.tokenizer.special_tokens_map, **self._settings(chat),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 (templates raise what they like)
            raise InvalidTrainingData(f"the chat template refuses it: {str(error)[:200]}") from None
        return texts, spans

    def _settings(self, chat: ChatRow) -> dict[str, Any]:
        known = _OURS.union(self.tokenizer.special_tokens_map)
        return {name: value for name, value in chat.settings.items() if name not in known}


@cache
def twin_of(source: str) -> str | None:
    """The template that renders the same chats, keeps what it has rendered, and marks the answers."""
    twins = json.loads(Path(__file__).with_name("twins.json").read_bytes())["twins"]
    return next((twin["template"] for twin in twins if twin["of"] == digest_of(source)), None)


def digest_of(source: str) -> str:
    """sha256 of a template, whatever blank lines stand around it."""
    return hashlib.sha256(source.strip().encode()).hexdigest()


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfiguration(f"can't read {path}: {error}", hint="name a file of Jinja") from None


def _as_read(message: Message, *, in_parts: bool) -> Message:
    made = {key: value for key, value in message.items() if key != "weight"}
    if in_parts:
        made["content"] = [{"type": "text", "text": message["content"]}]
    return made


@cache
def _takes_parts(template: str) -> bool:
    """Whether it reads contents as lists of parts alone, as some templates of models that see do."""
    one: list[Message] = [{"role": "user", "content": _PROBE}]
    parts = [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}]
    return not _shows(template, one) and _shows(template, parts)


def _shows(template: str, messages: list[Message]) -> bool:
    try:
        texts, _ = _render(
            conversations=[messages], chat_template=template, bos_token="", eos_token="", pad_token="", unk_token=""
        )
    except Exception:  # noqa: BLE001 (templates raise what they like)
        return False
    return _PROBE in texts[0]


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _unescaped(text: str) -> str:
    """JSON's escapes in results of tools, undone as far as they hide letters."""
    return text.replace("\\n", "\n").replace('\\"', '"')
