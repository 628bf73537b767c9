"""A message is a frozen dataclass: what a registry answers, or a part of it.

Fields have Python's names and types; on the wire they are JSON under camelCase keys, and times are text. `parse` reads
what was received, strictly, because a registry may be hostile; `as_json` is the other way. The registry's web framework
describes and writes messages too, by the two attributes below that it looks for.

A field that a message gets later may be None, so that a client goes on reading what an older registry answers.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from lorahub.errors import RegistryFailed

T = TypeVar("T")

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def wire_time(time: datetime) -> str:
    """The one form that every client of the Hub parses: `2026-11-23T23:37:12.123Z`.

    >>> wire_time(datetime(2026, 11, 23, 23, 37, 12, 123456, UTC))
    '2026-11-23T23:37:12.123Z'
    """
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def camel_case(name: str) -> str:
    """The key of a field; `from_` is `from`.

    >>> camel_case("created_at")
    'createdAt'
    """
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(word.capitalize() for word in rest)


class Message:
    """A field with a default is left out where it has that value."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"alias_generator": camel_case}


class UnderscoredMessage(Message):
    """One whose keys are written like its fields: bases, checks and merges."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Done(Message):
    """`{}`: it is done, and there is nothing to say about it."""


class _AsText:
    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(source), "serialization": {"type": "function-plain", "function": wire_time}}


Time = Annotated[datetime, _AsText]
"""Of a message: in UTC here, as `wire_time` has it on the wire."""


# --- writing ----------------------------------------------------------------------------------------------------------


def as_json(value: Any) -> Any:
    """A message, or what is made of messages, as JSON has it."""
    if isinstance(value, Message):
        kind: Any = type(value)
        said = ((key, getattr(value, name), default) for name, key, default in _written(kind))
        return {key: as_json(item) for key, item, default in said if item != default}
    if isinstance(value, datetime):
        return wire_time(value)
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


@cache
def _written(kind: Any) -> list[tuple[str, str, Any]]:
    """Of each field: its name, its key, and at which value it is left out."""
    return [(field.name, _key(kind, field.name), field.default) for field in fields(kind)]


def _key(kind: type[Message], name: str) -> str:
    generator: Callable[[str], str] = kind.__pydantic_config__.get("alias_generator", str)
    return generator(name)


# --- reading ----------------------------------------------------------------------------------------------------------


class _Unlike(Exception):
    """`at` is where, as a path of keys."""

    at = ""


def parse(shape: type[T], value: Any, what: str) -> T:
    """`value`, as read from JSON, as a `shape`: a message, or a list of them. Raises `RegistryFailed`, which calls it
    `what`.

    What may be None may be missing, and so may a field with a default. Keys that the message doesn't have are a newer
    registry's, and are left out.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, slots=True)
    ... class Alias(Message):
    ...     name: str
    ...     leads_to: str | None
    >>> parse(Alias, {"name": "latest", "leadsTo": "v1", "new": 1}, "an alias")
    Alias(name='latest', leads_to='v1')
    >>> parse(Alias, {"name": 7, "leadsTo": "v1"}, "an alias")
    Traceback (most recent call last):
    lorahub.errors.RegistryFailed: the registry sent an alias that can't be right: .name is no text
    """
    try:
        read: T = _read(shape, value)
    except _Unlike as unlike:
        raise RegistryFailed(
            f"the registry sent {what} that can't be right: {unlike.at or 'it'} is {unlike}",
            hint="is it a lorahub registry, and as new as this lorahub?",
        ) from None
    return read


def _read(shape: Any, value: Any) -> Any:
    origin, inner = get_origin(shape), get_args(shape)
    if shape is Any or (value is None and NoneType in inner):
        return value
    if origin in (Union, UnionType):
        return _read(inner[0], value)
    if origin is not None:
        return _made_of(origin, inner, value)
    if is_dataclass(shape):
        return _message(shape, _of(dict, value))
    return _time(value) if shape is datetime else _of(shape, value)


def _made_of(origin: Any, inner: tuple[Any, ...], value: Any) -> Any:
    if origin is dict:
        return {key: _within(f".{key:.40}", inner[1], item) for key, item in _of(dict, value).items()}
    return origin(_within(f"[{number}]", inner[0], item) for number, item in enumerate(_of(list, value)))


def _message(shape: Any, value: dict[str, Any]) -> Any:
    known: dict[str, Any] = {}
    for name, key, kind, may_be_missing in _expected(shape):
        if key in value or NoneType in get_args(kind):
            known[name] = _within(f".{key}", kind, value.get(key))
        elif not may_be_missing:
            raise _unlike("missing", f".{key}")
    return shape(**known)


@cache
def _expected(shape: Any) -> list[tuple[str, str, Any, bool]]:
    """Of each field: its name, its key, its type, and whether it may be missing."""
    hints = get_type_hints(shape)
    return [
        (field.name, _key(shape, field.name), hints[field.name], field.default is not MISSING)
        for field in fields(shape)
    ]


def _within(key: str, shape: Any, value: Any) -> Any:
    try:
        return _read(shape, value)
    except _Unlike as unlike:
        unlike.at = key + unlike.at
        raise


def _of(kind: type[T], value: Any) -> T:
    """`True` is no number, and no number is a text; a whole number is a number."""
    if type(value) is int and kind is float:
        return float(value)  # type: ignore[return-value]  # kind is float
    if type(value) is not kind:
        raise _unlike(f"no {_NAMES[kind]}")
    return value


def _time(value: Any) -> datetime:
    if _TIME.fullmatch(_of(str, value)) is None:
        raise _unlike("no time")
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (OverflowError, ValueError):
        raise _unlike("no time") from None


def _unlike(what: str, at: str = "") -> _Unlike:
    unlike = _Unlike(what)
    unlike.at = at
    return unlike


_NAMES: Mapping[type, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    list: "list",
    dict: "object",
}
