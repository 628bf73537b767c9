"""What people call the parts of a row, and what it is: a chat, a prompt with its completion, or a text.

A row comes out in one of three forms, and is refused by the name of what it is where it is none of them.

chat         messages, perhaps with tools
completion   a prompt and a completion, texts or lists of messages
text         a text
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidTrainingData
from lorahub.training.config import Format

RowFormat = Literal["chat", "completion", "text"]
Row = Mapping[str, Any]

_CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "contents")
_QUESTIONS = ("instruction", "question", "query", "prompt", "problem", "input", "inputs", "user", "human")
_ANSWERS = ("completion", "response", "output", "answer", "solution", "target", "targets", "assistant", "bot")
_CONTEXTS = ("input", "context")
_SYSTEMS = ("system", "system_prompt", "system_message", "systemInstruction", "system_instruction")
_BESIDE = ("tools", "functions", "chat_template_kwargs")
"""What stands beside the messages of a chat and is read."""
_PARALLEL = "parallel_tool_calls"  # a setting of OpenAI's that no template has a use for

_ROLES: Mapping[str, str] = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "ai", "bing", "bard", "output"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
}
_SAID = ("content", "value", "text", "parts")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_COUNTS = ("weight", "train", "training", "loss")
"""Whether an answer is trained on: OpenAI's weight, and what others call it."""
_READ = frozenset(
    {"role", "from", *_SAID, *_REASONING, *_COUNTS, "name", "tool_calls", "tool_call_id", "function_call", "refusal"}
)

_LABELS = ("label", "kto_tag")
"""True for a good answer. A label that is a number or a text is a class, which isn't read."""
_PREFERENCES = (
    ("chosen", "rejected"),
    ("score_chosen", "score_rejected"),
    ("preferred", "dispreferred"),
    ("preferred_output", "non_preferred_output"),
    ("response_a", "response_b"),
    ("response_1", "response_2"),
    ("response_j", "response_k"),
    ("completion_a", "completion_b"),
    ("answer_0", "answer_1"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
    ("human_ref_A", "human_ref_B"),
)
"""What TRL, UltraFeedback, OpenAI, HelpSteer, StackExchange, WebGPT, AlpacaFarm, Chatbot Arena and SHP call two
answers."""
_SEVERAL = ("completions", "responses")
_BETTER = "keep the better answer"
_OTHERS: Mapping[tuple[str, ...], str] = {
    ("anchor", "positive"): "pairs of texts that mean the same, for a model of embeddings",
    ("sentence1", "sentence2"): "pairs of texts and how alike they are, for a model of embeddings",
    ("query", "pos"): "a query and texts that answer it, for a model of embeddings",
    ("premise", "hypothesis"): "two texts and how they relate, for a classifier",
    ("input_ids",): "tokens already, of a tokenizer that isn't known: name the rows that they were made of",
}
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "missing"}


@dataclass(frozen=True, slots=True)
class Recognised:
    """`content` has exactly the keys of its format; `read` are the row's keys that it was made of. `plain` is a prompt
    and a completion as texts, for a base without a chat template; None where the row is a chat and nothing else.
    """

    format: RowFormat
    content: dict[str, Any]
    read: frozenset[str]
    plain: tuple[str, str] | None = None


def recognise(row: Row, wanted: Format = "auto", columns: Sequence[str] = ()) -> Recognised:
    """What a row is. `wanted` is the format that somebody named, `columns` what the settings say of keys.

    Raises `InvalidTrainingData`, without a line, for what can't be trained on.
    """
    named, used = _named(row, columns)
    _refuse_preference(named, is_told=wanted != "auto")
    chat = next((key for key in _CHATS if _is_chat(named, key)), None)
    if wanted in ("auto", "chat") and chat is not None:
        found = _chat(named, chat)
    elif wanted != "text" and {"prompt", "completion"} <= named.keys():
        found = _completion(named)
    elif wanted == "auto" and (pair := _question_and_answer(named)) is not None:
        found = _pair(named, *pair)
    elif wanted in ("auto", "text") and "text" in named:
        found = Recognised("text", {"text": _text("text", named["text"])}, frozenset({"text"}))
    else:
        raise _unknown(named, wanted)
    return replace(found, read=found.read | used)


# --- what keys mean ---------------------------------------------------------------------------------------------------

_PLACE = re.compile(r"\{([^{}]+)\}")


def _named(row: Row, columns: Sequence[str]) -> tuple[dict[str, Any], frozenset[str]]:
    """The row with what `ours=theirs` asks for, and the keys that went into it. `theirs` is a key, with dots for a key
    of a key, or a text with such keys in braces.
    """
    named, used = {key: value for key, value in row.items() if value is not None}, frozenset[str]()
    for column in columns:
        ours, _, theirs = column.partition("=")
        places = _PLACE.findall(theirs)
        used |= {place.partition(".")[0] for place in places or [theirs]}
        if places:
            named[ours] = _PLACE.sub(lambda found: _as_text(_at(row, found[1])), theirs)
        else:
            named[ours] = _at(row, theirs)
            if theirs in named and theirs != ours:
                del named[theirs]
    return named, used


def _at(row: Row, path: str) -> Any:
    value: Any = row
    for step in [path] if path in row else path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise InvalidTrainingData(f"has no {path}, which --column asks for; it has {_keys(row)}")
    return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _unpacked(value: Any) -> Any:
    """Lists and objects that tables hold as texts of JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return parse_json(value.encode(), error=InvalidTrainingData)
        except (InvalidTrainingData, UnicodeEncodeError):
            return value
    return value


def _is_chat(row: Row, key: str) -> bool:
    value = _unpacked(row.get(key))
    if isinstance(value, str) or (key not in ("messages", "conversations") and not isinstance(value, list)):
        return False
    return key in row


def _question_and_answer(row: Row) -> tuple[str, str] | None:
    answers = [key for key in _ANSWERS if isinstance(row.get(key), str)]
    question = next((key for key in _QUESTIONS if isinstance(row.get(key), str | list)), None)
    if question is None or not answers:
        return None
    if len(answers) > 1:
        raise InvalidTrainingData(
            f"has {' and '.join(answers)}: which one is the answer isn't clear",
            hint=f"name it: --column prompt={question} --column completion={answers[0]}",
        )
    return question, answers[0]


# --- what is no row ---------------------------------------------------------------------------------------------------


def _unknown(row: Row, wanted: Format) -> InvalidTrainingData:
    has = f"has {_keys(row)}"
    for keys, what in _OTHERS.items():
        if row.keys() >= set(keys):
            return InvalidTrainingData(f"{has}: these are {what}")
    questions = [key for key in (*_QUESTIONS, *_CHATS) if key in row]
    if wanted != "auto":
        asked = {"chat": "messages", "completion": "prompt and completion", "text": "text"}[wanted]
        return InvalidTrainingData(f"{has}; {wanted} rows have {asked}")
    if questions and not any(key in row for key in _ANSWERS):
        return InvalidTrainingData(
            f"{has}: a prompt without an answer, as for GRPO or PPO",
            hint="name the key of the answer: --column completion=KEY",
        )
    return InvalidTrainingData(
        f"{has}: no format has these keys", hint="name them: --column prompt=KEY --column completion=KEY, or text=KEY"
    )


def _keys(row: Row) -> str:
    return " and ".join(sorted(str(key)[:40] for key in row)[:12]) or "no key"


def _refuse_preference(row: Row, *, is_told: bool) -> None:
    """Raises `InvalidTrainingData`. Where somebody told the format, what stands beside its keys isn't read."""
    if row.keys() & {*_ANSWERS, *_CHATS} and any(isinstance(row.get(key), bool) for key in _LABELS):
        raise _preference("an answer that is labelled good or bad, as for KTO", "keep the good answers, unlabelled,")
    if is_told:
        return
    whole = "chat" if "messages" in row else "completion" if {"prompt", "completion"} <= row.keys() else None
    for pair in _PREFERENCES:
        if row.keys() >= set(pair):
            raise _preference(
                f"{' and '.join(pair)}, as for DPO, ORPO or a reward model",
                f"take --data-format {whole} to leave them out, or keep the better answer" if whole else _BETTER,
            )
    for key in _SEVERAL:
        if whole is None and isinstance(row.get(key), list) and len(row[key]) > 1:
            raise _preference(f"{key}, some better than others, as for a reward model", _BETTER)


def _preference(what: str, cure: str) -> InvalidTrainingData:
    return InvalidTrainingData(
        f"is preference data: {what}",
        hint=f'answers are learnt here, not preferences: {cure} as {{"prompt": …, "completion": …}}, '
        "or train with TRL and push what it leaves",
    )


def _refuse_media(row: Row) -> None:
    for key in _MEDIA:
        if row.get(key):
            raise InvalidTrainingData(f"has {key}: only texts are trained on", hint="leave out rows with pictures")


# --- the three forms --------------------------------------------------------------------------------------------------


def _chat(row: Row, key: str) -> Recognised:
    _refuse_media(row)
    messages, system = _messages(key, _unpacked(row[key])), _system(row)
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Recognised("chat", {"messages": messages, **_beside(row)}, frozenset({key, *_SYSTEMS, *_BESIDE, _PARALLEL}))


def _completion(row: Row) -> Recognised:
    prompt, completion = _unpacked(row["prompt"]), row["completion"]
    read = frozenset({"prompt", "completion"})
    if isinstance(prompt, list):
        _refuse_media(row)
        answer = _unpacked(completion)
        if isinstance(answer, str):
            answer = [{"role": "assistant", "content": answer}]
        elif isinstance(answer, dict):
            answer = [answer]
        asked, said = _messages("prompt", prompt), _messages("completion", answer)
        content = {"prompt": asked, "completion": said, **_beside(row)}
        return Recognised("completion", content, read.union(_BESIDE))
    asked_text, said_text = _text("prompt", row["prompt"]), _text("completion", completion)
    return Recognised("completion", {"prompt": asked_text, "completion": said_text}, read)


def _pair(row: Row, question: str, answer: str) -> Recognised:
    """A question and its answer become a chat; without a template, the layout of Alpaca."""
    _refuse_media(row)
    context = next((key for key in _CONTEXTS if key != question and isinstance(row.get(key), str)), None)
    history = _unpacked(row.get("history"))
    read = frozenset({question, answer, *_SYSTEMS, *_BESIDE, "history", *([context] if context else [])})
    system = _system(row)
    before: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    before += _turns(history) if isinstance(history, list) else []
    told = _unpacked(row[question])
    said = [{"role": "assistant", "content": row[answer]}]
    if isinstance(told, list):
        asked = [*before, *_messages(question, told)]
        return Recognised("completion", {"prompt": asked, "completion": said, **_beside(row)}, read)
    given = row[context].strip() if context else ""
    text = f"{told}\n\n{given}" if given else told
    content = {"prompt": [*before, {"role": "user", "content": text}], "completion": said, **_beside(row)}
    layout = [f"{system}\n" if system else "", f"### Instruction:\n{told}\n"]
    layout += [f"### Input:\n{given}\n" if given else "", "### Response:\n"]
    plain = None if len(before) > bool(system) else ("\n".join(part for part in layout if part), row[answer])
    return Recognised("completion", content, read, plain)


def _turns(history: list[Any]) -> Iterator[dict[str, Any]]:
    for number, turn in enumerate(history, start=1):
        if not isinstance(turn, list) or len(turn) != 2:
            raise InvalidTrainingData(f"turn {number} of history is no pair of texts")
        for role, said in zip(("user", "assistant"), turn, strict=True):
            yield {"role": role, "content": _text(f"turn {number} of history", said)}


def _system(row: Row) -> str:
    value = next((row[name] for name in _SYSTEMS if row.get(name)), "")
    if isinstance(value, dict):
        return _joined("system", value.get("parts", value.get("content")))[0]
    return _joined("system", value)[0] if isinstance(value, list) else _text("system", value)


def _beside(row: Row) -> dict[str, Any]:
    tools = _unpacked(row.get("tools") or None)
    functions = _unpacked(row.get("functions") or None)
    if tools is None and functions is not None:
        tools = functions
    made: dict[str, Any] = {}
    if tools:
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise InvalidTrainingData(f"tools is {_kind(tools)}, not a list of objects")
        made["tools"] = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    settings = _unpacked(row.get("chat_template_kwargs") or None)
    if isinstance(settings, dict):
        made["chat_template_kwargs"] = {key: value for key, value in settings.items() if value is not None}
    return made


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidTrainingData(f"{key} is {_kind(value)}, not text")
    return value


# --- messages ---------------------------------------------------------------------------------------------------------


def _messages(key: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InvalidTrainingData(f"{key} is {_kind(value)}, not a list of messages")
    if all(isinstance(item, str) for item in value) and len(value) > 1:  # turns that alternate, the user's first
        return [{"role": ("user", "assistant")[number % 2], "content": item} for number, item in enumerate(value)]
    return [made for number, one in enumerate(value, start=1) for made in _message(f"message {number} of {key}", one)]


def _message(place: str, given: Any) -> Iterator[dict[str, Any]]:
    """As templates read it. One message with results of several tools becomes as many."""
    told = given.get("role", given.get("from")) if isinstance(given, dict) else None
    if not isinstance(told, str) or told.lower() not in _ROLES:
        raise InvalidTrainingData(f"{place} has the role {str(told)[:40]!r}; one of {', '.join(sorted(_ROLES))}")
    role = _ROLES[told.lower()]
    said = next((given[key] for key in _SAID if given.get(key) is not None), None)
    if told in ("function_call", "tool_call"):
        yield {"role": role, "content": "", "tool_calls": _calls(place, _as_calls(_unpacked(said)))}
        return
    calls = _calls(place, _all_calls(given))
    text, parts = _joined(place, said)
    text = text or (_text(place, given["refusal"]) if given.get("refusal") else "")
    if parts.results and not (text or calls):
        yield from parts.results
        return
    calls += parts.calls
    if said is None and not calls and not given.get("refusal"):
        raise InvalidTrainingData(f"the content of {place} is missing, not text")
    made: dict[str, Any] = {"role": role, "content": text}
    reasoning = parts.reasoning or next((given[key] for key in _REASONING if given.get(key)), "")
    if reasoning:
        made["reasoning_content"] = _text(f"the reasoning of {place}", reasoning)
    if calls:
        made["tool_calls"] = calls
    made |= {key: given[key] for key in ("name", "tool_call_id") if isinstance(given.get(key), str)}
    if not _counts(place, given):
        made["weight"] = 0
    yield from parts.results
    yield made


def unread(content: Mapping[str, Any], row: Row) -> Iterator[str]:
    """Keys of messages that nothing here reads, with a value in them."""
    for key in _CHATS:
        messages = row.get(key)
        for message in messages if isinstance(messages, list) and "messages" in content else ():
            if isinstance(message, dict):
                yield from (f"{key}[].{name}" for name in message.keys() - _READ if message[name] not in (None, [], {}))


@dataclass(slots=True)
class _Parts:
    """What a list of parts holds beside text."""

    calls: list[dict[str, Any]]
    results: list[dict[str, Any]]
    reasoning: str = ""


def _joined(place: str, said: Any) -> tuple[str, _Parts]:
    """The text of a content, whatever form it has."""
    found = _Parts([], [])
    if said is None or isinstance(said, str):
        return said or "", found
    if not isinstance(said, list):
        raise InvalidTrainingData(f"the content of {place} is {_kind(said)}, not text")
    texts = []
    for part in said:
        kind = part.get("type", "text") if isinstance(part, dict) else "text" if isinstance(part, str) else None
        if kind in ("text", "input_text", "output_text"):
            texts.append(part if isinstance(part, str) else _text(f"a part of {place}", part.get("text")))
        elif kind == "refusal":
            texts.append(_text(f"a refusal of {place}", part.get("refusal")))
        elif kind in ("thinking", "reasoning"):
            found.reasoning += _text(f"the reasoning of {place}", part.get(kind, part.get("text")))
        elif kind == "tool_use":
            found.calls += _calls(place, [{**part, "arguments": part.get("input", {})}])
        elif kind == "tool_result":
            text, _ = _joined(place, part.get("content"))
            result = {"role": "tool", "content": text, "tool_call_id": part.get("tool_use_id")}
            found.results.append({key: value for key, value in result.items() if value is not None})
        else:
            raise InvalidTrainingData(
                f"{place} has a part of the type {str(kind)[:40]!r}: only texts are trained on",
                hint="leave out rows with pictures, sounds and files",
            )
    return "".join(texts), found


def _all_calls(message: Mapping[str, Any]) -> list[Any]:
    calls = _unpacked(message.get("tool_calls") or [])
    if old := message.get("function_call"):
        return [*_as_calls(calls), *_as_calls(_unpacked(old))]
    return _as_calls(calls)


def _as_calls(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _calls(place: str, calls: list[Any]) -> list[dict[str, Any]]:
    """Arguments as objects, which templates write as JSON themselves; a text of JSON would be quoted twice."""
    made = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidTrainingData(f"a tool call of {place} names no function")
        arguments = _unpacked(function.get("arguments", function.get("parameters")) or {})
        one: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
        if isinstance(call.get("id"), str):
            one["id"] = call["id"]
        made.append(one)
    return made


def _counts(place: str, message: Mapping[str, Any]) -> bool:
    given = [message[key] for key in _COUNTS if message.get(key) is not None]
    for value in given:
        if value not in (0, 1):
            raise InvalidTrainingData(f"the weight of {place} is {str(value)[:40]}; an answer counts, 1, or doesn't, 0")
    return all(given)


def _kind(value: Any) -> str:
    return "an empty list" if value == [] else _KINDS.get(type(value), "a number")
