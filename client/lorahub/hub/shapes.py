"""What was sent is what its type says, or it is refused: JSON read into types, once and strictly."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

from lorahub.errors import RegistryFailed

T = TypeVar("T")


class _Unlike(Exception):
    """`at` is where, as a path of keys."""

    at = ""


def read(shape: type[T], value: Any, what: str) -> T:
    """`value`, as parsed from JSON, as a `shape`. Raises `RegistryFailed`, which calls it `what`.

    A dataclass has its fields under camelCase keys, a `TypedDict` under its own; what may be None may be missing. Keys
    that it doesn't know are a newer registry's: a dataclass leaves them out, a `TypedDict` keeps them.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Alias:
    ...     name: str
    ...     leads_to: str | None
    >>> read(Alias, {"name": "latest", "leadsTo": "v1", "new": 1}, "an alias")
    Alias(name='latest', leads_to='v1')
    >>> read(Alias, {"name": 7, "leadsTo": "v1"}, "an alias")
    Traceback (most recent call last):
    lorahub.errors.RegistryFailed: the registry sent an alias that can't be right: .name is no text
    """
    try:
        found: T = _read(shape, value)
    except _Unlike as unlike:
        raise RegistryFailed(
            f"the registry sent {what} that can't be right: {unlike.at or 'it'} is {unlike}",
            hint="is it a lorahub registry, and as new as this lorahub?",
        ) from None
    return found


def _read(shape: Any, value: Any) -> Any:
    origin, inner = get_origin(shape), get_args(shape)
    if shape is Any or (origin is UnionType and value is None and NoneType in inner):
        return value
    if origin is UnionType:
        return _read(inner[0], value)
    if origin in (list, tuple):
        return origin(_within(f"[{number}]", inner[0], item) for number, item in enumerate(_of(list, value)))
    if origin is Mapping:
        return {key: _within(f".{key:.40}", inner[1], item) for key, item in _of(dict, value).items()}
    if is_dataclass(shape) or is_typeddict(shape):
        return _object(shape, _of(dict, value))
    return _of(shape, value)


def _object(shape: Any, value: dict[str, Any]) -> Any:
    known: dict[str, Any] = {}
    for name, (key, kind) in _keys(shape).items():
        if key not in value and NoneType not in get_args(kind):
            raise _unlike("missing", f".{key}")
        known[name] = _within(f".{key}", kind, value.get(key))
    return {**value, **known} if is_typeddict(shape) else shape(**known)


@cache
def _keys(shape: Any) -> dict[str, tuple[str, Any]]:
    """Of each field: its key and its type."""
    hints = get_type_hints(shape)
    if is_typeddict(shape):
        return {name: (name, kind) for name, kind in hints.items()}
    return {field.name: (_camel(field.name), hints[field.name]) for field in fields(shape)}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _within(key: str, shape: Any, value: Any) -> Any:
    try:
        return _read(shape, value)
    except _Unlike as unlike:
        unlike.at = key + unlike.at
        raise


def _of(kind: type[T], value: Any) -> T:
    """`True` is no number, and no number is a text."""
    if type(value) is not kind:
        raise _unlike(f"no {_NAMES[kind]}")
    return value


def _unlike(what: str, at: str = "") -> _Unlike:
    unlike = _Unlike(what)
    unlike.at = at
    return unlike


_NAMES: Mapping[type, str] = {str: "text", int: "whole number", bool: "true or false", list: "list", dict: "object"}
