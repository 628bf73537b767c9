"""Which tokens TRL trains on, for every template that it ships and some chats: tests/training/masks.json.

Written by TRL itself, which `make clients` puts beside the environment. Run: make chat-templates
"""

import json
import sys
from pathlib import Path
from typing import Any

import transformers
from serving.text_model import make_tokenizer

ROOT = Path(__file__).parents[2]
TRL = ROOT / ".venv" / "clients" / "trl"
GOLDEN = ROOT / "tests" / "training" / "masks.json"
PARTS = frozenset({"idefics3", "llava_next", "smolvlm"})
"""Templates that take contents as parts alone: TRL hands them over so."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


def _turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _call(arguments: Any) -> list[dict[str, Any]]:
    return [{"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": arguments}}]


CHATS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [_turn("user", "2 + 2?"), _turn("assistant", "4")]},
    "three turns": {
        "messages": [
            _turn("user", "سلام"), _turn("assistant", "وعليكم السلام."), _turn("user", "你好吗？"),
            _turn("assistant", "我很好。\n你呢?"), _turn("user", "bye"), _turn("assistant", "Bye <b>now</b>!"),
        ]
    },
    "a system": {
        "messages": [
            _turn("system", "Be short."), _turn("user", "Hi"), _turn("assistant", "Yes?"), _turn("user", "No"),
            _turn("assistant", "Ok"),
        ]
    },
    "reasoning": {
        "messages": [
            _turn("user", "3 + 4?"), _turn("assistant", "7", reasoning_content="Three and four are seven."),
            _turn("user", "5 + 6?"), _turn("assistant", "11", reasoning_content="Five and six are eleven."),
        ]
    },
    "tools": {
        "tools": [WEATHER],
        "messages": [
            _turn("user", "Weather in Kyoto?"), _turn("assistant", "", tool_calls=_call({"place": "Kyoto"})),
            _turn("tool", "rain", name="weather", tool_call_id="call12345"), _turn("assistant", "It rains."),
            _turn("user", "Thanks"), _turn("assistant", "Sure."),
        ],
    },
}  # fmt: skip
"""Rows as a file has them. Answers end with a letter of one byte: of a longer one, transformers' masks take the first
byte alone, where marks follow each other.
"""


def tokenizer_of(template: str) -> transformers.PreTrainedTokenizerFast:
    """Of single bytes, so that what is trained on reads as text."""
    made = make_tokenizer()
    made.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<|im_end|>"]})
    made.chat_template = template
    return made


def segments(tokenizer: Any, ids: list[int], mask: list[int]) -> list[list[Any]]:
    """[is trained on, text], one after the other."""
    found: list[list[Any]] = []
    for token, is_trained in zip(ids, mask, strict=True):
        if not found or found[-1][0] != is_trained:
            found.append([is_trained, []])
        found[-1][1].append(token)
    return [[is_trained, tokenizer.decode(some)] for is_trained, some in found]


def _of_trl(name: str, template: str, chat: dict[str, Any]) -> list[list[Any]] | None:
    """None where TRL refuses the chat, or leaves out what is in it."""
    from trl.chat_template_utils import get_training_chat_template
    from trl.data_utils import prepare_multimodal_messages

    tokenizer = tokenizer_of(template)
    training = get_training_chat_template(tokenizer)
    messages = prepare_multimodal_messages(chat["messages"]) if name in PARTS else chat["messages"]
    try:
        made = tokenizer.apply_chat_template(
            messages, tools=chat.get("tools"), chat_template=training, return_dict=True, tokenize=True,
            return_assistant_tokens_mask=True,
        )  # fmt: skip
    except Exception:  # noqa: BLE001 (templates raise what they like)
        return None
    found = segments(
        tokenizer, made["input_ids"], [0, *made["assistant_masks"][1:]]
    )  # nothing predicts the first token
    is_called = any(is_trained and "weather" in text for is_trained, text in found)
    return found if is_called or "tools" not in chat else None


def main() -> int:
    sys.path.insert(0, str(TRL))
    found: dict[str, Any] = {}
    for path in sorted((TRL / "trl" / "chat_templates").glob("*_training.jinja")):
        name = path.name.removesuffix("_training.jinja")
        template = path.with_name(f"{name}.jinja").read_text("utf-8")
        chats = {chat: _of_trl(name, template, row) for chat, row in CHATS.items()}
        found[name] = {"template": template, "chats": chats}
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
