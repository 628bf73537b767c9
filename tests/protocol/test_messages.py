"""Messages: what the registry writes, the SDK reads, and nothing else."""

import importlib
import json
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta, timezone
from inspect import getmembers, isclass, isfunction
from typing import Any

import pytest
from lorahub.errors import RegistryFailed
from lorahub.hub.hub import Hub
from lorahub.hub.merges import Merges
from lorahub.hub.mirrors import Mirrors
from lorahub.hub.organisations import Organisations
from lorahub.hub.publishers import Publishers
from lorahub.hub.registered_bases import RegisteredBases
from lorahub.protocol import messages
from lorahub.protocol.messages.message import Message, Time, UnderscoredMessage, as_json, parse
from pydantic import TypeAdapter

NOON = datetime(2026, 11, 29, 12, 0, 0, 7_999, UTC)


def _kinds() -> Iterator[type[Message]]:
    for module in pkgutil.iter_modules(messages.__path__, f"{messages.__name__}."):
        for _, kind in getmembers(importlib.import_module(module.name), isclass):
            if is_dataclass(kind) and issubclass(kind, Message) and kind.__module__ == module.name:
                yield kind


KINDS = list(_kinds())


def _made(shape: Any) -> Any:
    """Something that `shape` can be, with every part of it there."""
    origin, inner = typing.get_origin(shape), typing.get_args(shape)
    if is_dataclass(shape):
        hints = typing.get_type_hints(shape)
        return shape(**{field.name: _made(hints[field.name]) for field in fields(shape)})
    if origin is tuple:
        return (_made(inner[0]),)
    if origin is list:
        return [_made(inner[0])]
    if origin is dict:
        return {"key": _made(inner[1])}
    if origin is not None:
        return _made(inner[0])
    return {str: "text", int: 7, float: 0.5, bool: True, datetime: NOON, Any: "anything"}[shape]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_registry_writes_what_the_sdk_reads(kind: type[Message]) -> None:
    message = _made(kind)
    written = TypeAdapter(kind).dump_json(message, by_alias=True, warnings="error")
    assert json.loads(written) == as_json(message)
    read = parse(kind, json.loads(written), "a message")
    assert as_json(read) == as_json(message)
    assert type(read) is kind


def test_a_name_of_a_message_means_one_thing() -> None:
    names = [kind.__name__ for kind in KINDS]
    assert sorted(set(names)) == sorted(names)


@dataclass(frozen=True, slots=True)
class Part(Message):
    at: Time | None
    from_: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Whole(UnderscoredMessage):
    the_part: Part
    by_name: dict[str, float]
    is_new: bool = False


SAID: dict[str, Any] = {"the_part": {"at": "2026-11-29T12:00:00.007Z", "from": [1, 2]}, "by_name": {"a": 1}}


def test_times_are_times_with_a_zone_and_milliseconds_on_the_wire() -> None:
    read = parse(Whole, SAID, "a whole")
    assert read == Whole(Part(datetime(2026, 11, 29, 12, 0, 0, 7_000, UTC), (1, 2)), {"a": 1.0})
    assert as_json(read) == SAID
    elsewhere = Part(NOON.astimezone(timezone(timedelta(hours=5))), ())
    assert as_json(elsewhere) == {"at": "2026-11-29T12:00:00.007Z", "from": []}
    assert json.loads(TypeAdapter(Part).dump_json(elsewhere, by_alias=True)) == as_json(elsewhere)


def test_what_a_newer_registry_says_beside_is_left_out_and_what_it_need_not_say_may_be_missing() -> None:
    newer = {**SAID, "new": {}, "the_part": {"from": [], "newer": 1}}
    assert parse(Whole, newer, "a whole") == Whole(Part(None, ()), {"a": 1.0})


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({**SAID, "by_name": None}, ".by_name is no object"),
        ({"by_name": {}}, ".the_part is missing"),
        ({**SAID, "the_part": {"from": [1, True]}}, ".the_part.from[1] is no whole number"),
        ({**SAID, "the_part": {"from": (), "at": None}}, ".the_part.from is no list"),
        ({**SAID, "by_name": {"a": "1"}}, ".by_name.a is no number"),
        ({**SAID, "is_new": None}, ".is_new is no true or false"),
        ([SAID], "it is no object"),
        *(
            ({**SAID, "the_part": {"from": [], "at": time}}, ".the_part.at is no t")
            for time in (
                7,
                "",
                "yesterday",
                "2026-11-29",
                "2026-W48-7",
                "2026-11-29T12:00:00",
                "2026-13-29T12:00:00Z",
                "0001-01-01T00:00:00+23:59",
                "2026-11-29T12:00:00Z\n",
                "\N{ARABIC-INDIC DIGIT TWO}026-11-29T12:00:00Z",
            )
        ),
    ],
)
def test_what_a_registry_sends_is_what_it_should_be_or_one_clear_error(said: Any, fault: str) -> None:
    with pytest.raises(RegistryFailed) as refused:
        parse(Whole, said, "a whole")
    assert fault in refused.value.message
    assert "the registry sent a whole that can't be right" in refused.value.message


@pytest.mark.parametrize("part", [Hub, Merges, Mirrors, Organisations, Publishers, RegisteredBases])
def test_no_method_of_the_sdk_answers_with_something_untyped(part: type) -> None:
    namespace = {"Manifest": object, "Recipe": object}
    for name, method in getmembers(part, isfunction):
        if not name.startswith("_"):
            answer = typing.get_type_hints(method, localns=namespace).get("return")
            assert not _is_untyped(answer), f"{part.__name__}.{name} answers {answer}"


def _is_untyped(shape: Any) -> bool:
    return shape in (Any, dict, Mapping) or any(_is_untyped(inner) for inner in typing.get_args(shape))
