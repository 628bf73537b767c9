"""Makes broken safetensors files, many and fast, the same ones for the same seed."""

import json
import random
import re
import struct
from collections.abc import Callable, Iterator

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|[{}\[\]:,]|\s+|true|false|null')

_WORDS = [
    b'"F32"',
    b'"F16"',
    b'"BF16"',
    b'"I64"',
    b'"U8"',
    b'"BOOL"',
    b'"F64"',
    b'"F8_E4M3"',
    b'"F4"',
    b'"f32"',
    b'"Q4"',
    b'"C64"',
    b"0",
    b"1",
    b"2",
    b"4",
    b"8",
    b"16",
    b"-1",
    b"-0",
    b"0.0",
    b"1e999",
    b"1e2",
    b"3.0",
    b"00",
    b"0x4",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1" * 80,
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"true",
    b"false",
    b"null",
    b'""',
    b'"a"',
    b'"w"',
    b'"\\u0077"',
    b'"__metadata__"',
    b'"dtype"',
    b'"shape"',
    b'"data_offsets"',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xff"',
    b'"\xe2\x80\xae"',
    b'"e\xcc\x81"',
    b'"../x"',
    b'"/x"',
    b"[]",
    b"{}",
    b"[0]",
    b"[4]",
    b"[2,2]",
    b"[0,4]",
    b"[4,0]",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\n",
    b"\t",
    b"\x00",
    b"//",
    b"'w'",
]

_SEEDS: list[tuple[dict[str, object], int]] = [
    ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, 4),
    (
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]},
            "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
        },
        11,
    ),
    (
        {
            "e": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
            "s": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
        },
        8,
    ),
    (
        {
            "x.y": {"dtype": "BF16", "shape": [1, 1, 2], "data_offsets": [0, 4]},
            "z": {"dtype": "BOOL", "shape": [2], "data_offsets": [4, 6]},
        },
        6,
    ),
]


def fuzzed(seed: int, count: int) -> Iterator[bytes]:
    """`count` files, nearly all of them broken in one to three ways."""
    chance = random.Random(seed)
    starts = [(json.dumps(header, separators=(",", ":")).encode(), size) for header, size in _SEEDS]
    tokens = [_TOKEN.findall(raw) for raw, _ in starts]
    for _ in range(count):
        number = chance.randrange(len(starts))
        raw, size = starts[number]
        mode = chance.random()
        if mode < 0.4:
            header, size = _invented(chance)
            yield _file(chance, json.dumps(header, separators=(",", ":")).encode(), size)
        elif mode < 0.75:
            yield _file(chance, _retold(chance, list(tokens[number])), size)
        else:
            yield _struck(chance, bytearray(_whole(raw, size)))


def _whole(header: bytes, size: int) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(range(1, 1 + size))


def _file(chance: random.Random, header: bytes, size: int) -> bytes:
    """With a length that is right most of the time, and data of about the right size."""
    where = chance.random()
    length = len(header)
    if where < 0.06:
        length = chance.choice(
            [0, 1, max(length - 1, 0), length + 1, 1 << 20, 1 << 27, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
        )
    elif where < 0.1:
        size = chance.choice([0, size - 1, size + 1, size * 2])
    elif where < 0.14:
        header += b" " * chance.randrange(9)
        length = len(header)
    return struct.pack("<Q", length) + header + bytes(max(size, 0))


_WIDTHS = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "U8": 1,
    "BOOL": 1,
    "I64": 8,
    "F8_E4M3": 1,
    "F4": 0.5,
    "F6_E2M3": 0.75,
    "C64": 8,
}
_NAMES = ["w", "a.b", "", "a/../b", "\\x", "e\u0301", "\u202ew", "n" * 513, "__metadata__", "..", "é", "a b"]


def _invented(chance: random.Random) -> tuple[dict[str, object], int]:
    """JSON that is right, and of which one thing is often not: dtype, shape, offsets, a name, a field."""
    header: dict[str, object] = {}
    at = 0
    for number in range(chance.choice((1, 1, 2, 3))):
        dtype = chance.choice(list(_WIDTHS))
        shape = [chance.choice((1, 1, 2, 3, 4, 0)) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
        elements = 1
        for size in shape:
            elements *= size
        stop = at + int(elements * _WIDTHS[dtype])
        entry: dict[str, object] = {"dtype": dtype, "shape": shape, "data_offsets": [at, stop]}
        at = stop
        if chance.random() < 0.3:
            _spoil(chance, entry, at)
        header[chance.choice(_NAMES) if chance.random() < 0.15 else f"t{number}"] = entry
    if chance.random() < 0.2:
        header["__metadata__"] = chance.choice([{"a": "b"}, {"a": 1}, {}, [], None, "x", {"": ""}])
    return header, at


def _spoil(chance: random.Random, entry: dict[str, object], at: int) -> None:
    values: dict[str, list[object]] = {
        "dtype": ["F33", "f32", 1, None, "", "I8"],
        "shape": [[-1], [1.0], "1", [1] * 9, [1 << 31], [(1 << 31) + 1], [1 << 62, 4, 0], None, [True], [[1]]],
        "data_offsets": [[at, at], [at + 1, at], [0, at + 1], [at], [0, 1, 2], [-1, at], [0.0, at], None, [0, 1 << 63]],
        "more": [1],
    }
    field = chance.choice(list(values))
    if chance.random() < 0.15:
        entry.pop(field, None)
    else:
        entry[field] = chance.choice(values[field])


def _retold(chance: random.Random, tokens: list[bytes]) -> bytes:
    """The header with words replaced, repeated, left out, swapped or put in."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.randrange(len(tokens))
        act = chance.randrange(5)
        if act == 0:
            tokens[place] = chance.choice(_WORDS)
        elif act == 1:
            tokens.insert(place, chance.choice(_WORDS))
        elif act == 2 and len(tokens) > 1:
            del tokens[place]
        elif act == 3:
            stop = min(len(tokens), place + chance.randrange(1, 24))
            tokens[place:place] = tokens[place:stop]
        else:
            other = chance.randrange(len(tokens))
            tokens[place], tokens[other] = tokens[other], tokens[place]
    return b"".join(tokens)


def _struck(chance: random.Random, raw: bytearray) -> bytes:
    """The whole file with bytes changed, put in, left out, repeated or cut off."""
    for _ in range(chance.choice((1, 1, 2))):
        _ACTS[chance.randrange(len(_ACTS))](chance, raw, chance.randrange(len(raw) or 1))
    return bytes(raw)


def _set(chance: random.Random, raw: bytearray, place: int) -> None:
    if raw:
        raw[place] = chance.randrange(256)


def _flip(chance: random.Random, raw: bytearray, place: int) -> None:
    if raw:
        raw[place] ^= 1 << chance.randrange(8)


def _insert(chance: random.Random, raw: bytearray, place: int) -> None:
    raw[place:place] = chance.randbytes(chance.randrange(1, 5))


def _delete(chance: random.Random, raw: bytearray, place: int) -> None:
    del raw[place : place + chance.randrange(1, 9)]


def _repeat(chance: random.Random, raw: bytearray, place: int) -> None:
    raw[place:place] = raw[place : place + chance.randrange(1, 30)]


def _cut(_: random.Random, raw: bytearray, place: int) -> None:
    del raw[place:]


_ACTS: list[Callable[[random.Random, bytearray, int], None]] = [_set, _flip, _insert, _delete, _repeat, _cut]
