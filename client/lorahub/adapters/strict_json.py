"""JSON as one value and nothing else: it can be stored in SQL, sent as JSON and read alike by every parser.

Python's own parser takes NaN, 1e999, lone surrogates, UTF-16 and duplicate keys (the last one wins), and stops with
RecursionError or ValueError on deep nesting and long integers. Each of these is a named refusal here.
"""

import json
import math
from typing import TypeAlias

from lorahub.adapters.limits import LIMITS
from lorahub.errors import LorahubError

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"

JSON_RULES = {
    "json-too-large": "more bytes than this place takes",
    "json-not-utf8": "UTF-8 without a byte order mark; no other encoding",
    "json-syntax": "one JSON value as RFC 8259 has it",
    "json-too-deep": f"at most {LIMITS.json_depth} levels of lists and objects",
    "json-duplicate-key": "no key twice in one object, however its characters are written",
    "json-not-finite": "no NaN, no Infinity, no number that overflows to it",
    "json-number-too-large": f"integers of {LIMITS.integer_bits} signed bits, numbers of at most "
    f"{LIMITS.number_characters} characters",
    "json-forbidden-character": "no NUL and no lone surrogate in a string",
}
"""Rule -> what it asks for. The rule is `facts["rule"]` of the error."""

_INTEGER_BOUND = 1 << (LIMITS.integer_bits - 1)


class _Refused(Exception):
    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def parse_json(
    raw: bytes,
    *,
    error: type[LorahubError],
    max_bytes: int | None = None,
    max_depth: int = LIMITS.json_depth,
    hint: str | None = None,
) -> JsonValue:
    r"""The value. Raises `error` with `facts["rule"]`, a key of `JSON_RULES`.

    `-0` is the float -0.0, as in every parser that knows the sign of zero.

    >>> from lorahub.errors import MalformedBody
    >>> parse_json(b'{"r": 8}', error=MalformedBody)
    {'r': 8}
    >>> parse_json(b'{"r": 8, "\\u0072": 9}', error=MalformedBody)
    Traceback (most recent call last):
    lorahub.errors.MalformedBody: the key 'r' occurs twice in one object
    """
    try:
        _check_length(raw, max_bytes)
        value = _parse(_decode(raw))
        _check_depth(raw, value, max_depth)
        _check_characters(raw, value)
    except _Refused as refused:
        raise error(str(refused), hint=hint, rule=refused.rule) from None
    return value


def _check_length(raw: bytes, max_bytes: int | None) -> None:
    if max_bytes is not None and len(raw) > max_bytes:
        raise _Refused("json-too-large", f"the JSON has {len(raw)} bytes; at most {max_bytes} are taken")


def _decode(raw: bytes) -> str:
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _Refused("json-not-utf8", "the JSON begins with a byte order mark; write it as UTF-8 without one")
    try:
        return raw.decode()
    except UnicodeDecodeError as fault:
        raise _Refused(
            "json-not-utf8", f"the JSON is not UTF-8: byte {fault.start} is {raw[fault.start]:#04x}"
        ) from None


def _parse(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as fault:
        where = f"line {fault.lineno} column {fault.colno}"
        raise _Refused("json-syntax", f"not JSON: {fault.msg} at {where}") from None
    except RecursionError:
        raise _Refused("json-too-deep", "the JSON is nested too deeply") from None
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add() is None
        raise _Refused("json-duplicate-key", f"the key {twice[:100]!a} occurs twice in one object")
    return found


def _integer(text: str) -> int | float:
    if len(text) > LIMITS.number_characters or not -_INTEGER_BOUND <= int(text) < _INTEGER_BOUND:
        raise _Refused("json-number-too-large", f"the integer {text[:30]}… has more than {LIMITS.integer_bits} bits")
    return -0.0 if text == "-0" else int(text)


def _float(text: str) -> float:
    if len(text) > LIMITS.number_characters:
        raise _Refused("json-number-too-large", f"the number {text[:30]}… has {len(text)} characters")
    value = float(text)
    if not math.isfinite(value):
        raise _Refused("json-not-finite", f"the number {text} is too large for a double")
    return value


def _constant(text: str) -> float:
    raise _Refused("json-not-finite", f"{text} is not JSON")


def _check_depth(raw: bytes, value: JsonValue, max_depth: int) -> None:
    if raw.count(b"[") + raw.count(b"{") <= max_depth:
        return  # the usual case, without a walk
    level: list[JsonValue] = [value]
    for _ in range(max_depth + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise _Refused("json-too-deep", f"the JSON has more than {max_depth} levels of lists and objects")


def _check_characters(raw: bytes, value: JsonValue) -> None:
    # UTF-8 has no surrogates and JSON no raw NUL: both come in as \uXXXX only
    if b"\\u" not in raw:
        return
    stack = [value]
    while stack:
        item = stack.pop()
        texts = [item] if isinstance(item, str) else list(item) if isinstance(item, dict) else []
        for text in texts:
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise _Refused("json-forbidden-character", f"NUL or half a surrogate pair in the string {text[:60]!a}")
        stack.extend(_children(item))


def _children(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
