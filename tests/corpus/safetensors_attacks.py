"""Malformed safetensors files, each named after what it tries, with the rule that refuses it."""

import json
import struct
from collections.abc import Iterator
from typing import Any

Attack = tuple[str, bytes, str]
"""Name, file, rule."""

GOOD = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
DATA = bytes(16)


def raw(header: bytes, data: bytes = DATA, *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def made(header: Any, data: bytes = DATA) -> bytes:
    return raw(json.dumps(header).encode(), data)


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {**GOOD["a"], **changes}}


def text(body: str, data: bytes = DATA) -> bytes:
    return raw(body.encode(), data)


GOOD_ENTRY = '{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}'


def lengths() -> Iterator[Attack]:
    header = json.dumps(GOOD).encode()
    for size in range(10):
        yield f"only {size} bytes", raw(header)[:size], "file-too-short" if size < 10 else ""
    for name, length in (
        ("length 2^63", 1 << 63),
        ("length 2^64-1", (1 << 64) - 1),
        ("length 100 MB", 100_000_000),
        ("length one over the cap", (8 << 20) + 1),
    ):
        yield name, raw(header, length=length), "header-too-large"
    for name, length in (("length one beyond the file", len(header) + 17), ("length 1 MB in a small file", 1 << 20)):
        yield name, raw(header, length=length), "header-beyond-file"
    yield "header swallows the data", raw(header, length=len(header) + 16), "header-padding"
    yield "length 0", raw(b"", length=0), "header-not-json-object"
    yield "length cuts the header", raw(header, length=len(header) - 1), "json-syntax"


def starts() -> Iterator[Attack]:
    header = json.dumps(GOOD).encode()
    for name, prefix in (
        ("a space first", b" "),
        ("a line feed first", b"\n"),
        ("a tab first", b"\t"),
        ("a byte order mark first", b"\xef\xbb\xbf"),
        ("a NUL first", b"\0"),
        ("a list", b"["),
        ("a ZIP archive", b"PK\x03\x04"),
        ("an HTML page", b"<!DOCTYPE html>"),
        ("a shebang", b"#!/bin/sh\n"),
        ("a pickle", b"\x80\x04"),
        ("a GGUF file", b"GGUF"),
    ):
        yield f"header begins with {name}", raw(prefix + header), "header-not-json-object"
    for name, body in (
        ("null", b"null"),
        ("a number", b"1"),
        ("a string", b'"x"'),
        ("a list", b"[]"),
        ("true", b"true"),
        ("UTF-16", json.dumps(GOOD).encode("utf-16")),
        ("UTF-32", json.dumps(GOOD).encode("utf-32-le")),
    ):
        rule = "header-not-json-object"
        if name == "UTF-32":
            rule = ""
        yield f"header is {name}", raw(body), rule
    for name, suffix in (
        ("NUL padding", b"\0\0"),
        ("a line feed", b"\n"),
        ("letters", b"abc"),
        ("an archive", b"PK\x05\x06"),
    ):
        yield f"header ends in {name}", raw(header + suffix), "header-padding"
    yield "two objects", raw(header + header), ""


def syntax() -> Iterator[Attack]:
    for name, body in (
        ("single quotes", "{'a':" + GOOD_ENTRY + "}"),
        ("a trailing comma", '{"a":' + GOOD_ENTRY + ",}"),
        ("a comment", '{"a":' + GOOD_ENTRY + "/* */}"),
        ("an unquoted key", "{a:" + GOOD_ENTRY + "}"),
        ("a control character in a name", '{"a\x01":' + GOOD_ENTRY + "}"),
        ("a missing colon", '{"a"' + GOOD_ENTRY + "}"),
        ("half an object", '{"a":{"dtype":"F32"}'),
    ):
        yield f"syntax: {name}", text(body), "" if name == "half an object" else "json-syntax"
    yield "not UTF-8", raw(b'{"\xff":' + GOOD_ENTRY.encode() + b"}"), "json-not-utf8"
    yield "overlong UTF-8", raw(b'{"\xc0\xaf":' + GOOD_ENTRY.encode() + b"}"), "json-not-utf8"
    yield "a surrogate in UTF-8", raw(b'{"\xed\xa0\x80":' + GOOD_ENTRY.encode() + b"}"), "json-not-utf8"
    for name, value in (("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("1e999", "1e999")):
        yield (
            f"metadata of {name}",
            text('{"__metadata__":{"x":' + value + '},"a":' + GOOD_ENTRY + "}"),
            "json-not-finite",
        )
    for depth in (70, 1000, 50_000):
        body = '{"__metadata__":' + "[" * depth + "]" * depth + ',"a":' + GOOD_ENTRY + "}"
        yield f"nested {depth} deep", text(body), "json-too-deep"
    for digits in (30, 5000):
        body = '{"a":{"dtype":"F32","shape":[' + "1" * digits + '],"data_offsets":[0,16]}}'
        yield f"a dimension of {digits} digits", text(body), "json-number-too-large"


def duplicates() -> Iterator[Attack]:
    other = GOOD_ENTRY.replace("F32", "I32")
    for name, body in (
        ("a tensor twice", '{"a":' + GOOD_ENTRY + ',"a":' + other + "}"),
        ("a tensor twice, once escaped", '{"a":' + GOOD_ENTRY + ',"\\u0061":' + other + "}"),
        ("metadata twice", '{"__metadata__":{"x":"1"},"__metadata__":{"x":"2"},"a":' + GOOD_ENTRY + "}"),
        ("a metadata key twice", '{"__metadata__":{"x":"1","x":"2"},"a":' + GOOD_ENTRY + "}"),
        ("a metadata key twice, escaped", '{"__metadata__":{"x":"1","\\u0078":"2"},"a":' + GOOD_ENTRY + "}"),
        ("dtype twice", '{"a":{"dtype":"F32","dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}'),
        ("shape twice", '{"a":{"dtype":"F32","shape":[2,2],"shape":[4],"data_offsets":[0,16]}}'),
        ("offsets twice", '{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16],"data_offsets":[0,16]}}'),
    ):
        yield f"duplicate: {name}", text(body), "json-duplicate-key"


def names() -> Iterator[Attack]:
    for name, tensor in (
        ("right-to-left override", "a\u202eb"),
        ("zero-width space", "a\u200bb"),
        ("zero-width joiner", "a\u200db"),
        ("byte order mark inside", "a\ufeffb"),
        ("soft hyphen", "a\u00adb"),
        ("line separator", "a\u2028b"),
        ("paragraph separator", "a\u2029b"),
        ("bell", "a\x07b"),
        ("delete", "a\x7fb"),
        ("next line", "a\x85b"),
        ("private use", "a\ue000b"),
        ("unassigned", "a\U000e0fffb"),
        ("escape sequence", "a\x1b[31mb"),
        ("line feed", "a\nb"),
    ):
        yield f"name with {name}", made({tensor: GOOD["a"]}), "name-forbidden-character"
    yield "name with NUL", made({"a\0b": GOOD["a"]}), "json-forbidden-character"
    yield "name with a lone surrogate", text('{"a\\ud800":' + GOOD_ENTRY + "}"), "json-forbidden-character"
    yield "empty name", made({"": GOOD["a"]}), "name-empty"
    yield "name of 513 bytes", made({"a" * 513: GOOD["a"]}), "name-too-long"
    yield "name of 300 two-byte letters", made({"é" * 300: GOOD["a"]}), "name-too-long"
    yield "name not in NFC", made({"e\u0301": GOOD["a"]}), "name-not-normal"
    for tensor in ("../../etc/passwd", "/etc/passwd", "a/../b", "..", "a\\b", "..\\..\\x"):
        yield f"name like the path {tensor}", made({tensor: GOOD["a"]}), "name-path-like"


def fields() -> Iterator[Attack]:
    for missing in ("dtype", "shape", "data_offsets"):
        cut = {"a": {key: value for key, value in GOOD["a"].items() if key != missing}}
        yield f"entry without {missing}", made(cut), "tensor-fields"
    for extra in ("offset", "strides", "__class__", "requires_grad", ""):
        yield f"entry with {extra!r} too", made(entry(**{extra: 1})), "tensor-fields"
    for name, value in (("null", None), ("a list", []), ("a text", "x"), ("a number", 1), ("true", True)):
        yield f"entry is {name}", made({"a": value}), "tensor-fields"
    for dtype in ("F33", "f32", "", "FLOAT32", "F32 ", "object", "U128", "BFLOAT16", "F8"):
        yield f"dtype {dtype!r}", made(entry(dtype=dtype)), "dtype-unknown"
    for name, dtype in (("null", None), ("a number", 32), ("a list", ["F32"])):
        yield f"dtype is {name}", made(entry(dtype=dtype)), ""


def shapes() -> Iterator[Attack]:
    for name, shape in (
        ("a negative dimension", [-2, -2]),
        ("a float dimension", [2.0, 2]),
        ("a text dimension", ["2", 2]),
        ("a null dimension", [None, 2]),
        ("a true dimension", [True, 4]),
        ("a list dimension", [[2], 2]),
    ):
        yield f"shape with {name}", made(entry(shape=shape)), "shape-not-integers"
    for name, shape in (("null", None), ("a number", 4), ("a text", "2,2"), ("an object", {"0": 2})):
        yield f"shape is {name}", made(entry(shape=shape)), "shape-not-integers"
    yield "nine dimensions", made(entry(shape=[1] * 7 + [2, 2])), "too-many-dimensions"
    yield "100,000 dimensions", made(entry(shape=[1] * 100_000)), "too-many-dimensions"
    for power in (32, 40, 62):
        yield f"a dimension of 2^{power}", made(entry(shape=[1 << power])), "dimension-too-large"
    for shape in ([0], [0, 4], [4, 0, 2]):
        yield (
            f"no elements: {shape}",
            made({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}, b""),
            "tensor-empty",
        )
    yield "zero times 2^60", made({"a": {"dtype": "F32", "shape": [0, 1 << 60, 8], "data_offsets": [0, 0]}}, b""), ""
    yield "2^31 × 2^31 × 2^31", made(entry(shape=[1 << 31] * 3)), "tensor-too-large"
    yield "0 × 2^31 × 2^31 × 2^31", made(entry(shape=[0, 1 << 31, 1 << 31, 1 << 31])), ""
    for shape in ([2, 3], [4, 2], [1], [2, 2, 2], [3]):
        yield f"shape {shape} for 16 bytes", made(entry(shape=shape)), "size-mismatch"
    for dtype in ("F64", "F16", "U8", "I64", "BOOL", "C64"):
        yield f"dtype {dtype} for 16 bytes of [2, 2]", made(entry(dtype=dtype)), "size-mismatch"
    for dtype in ("F4", "F6_E2M3", "F6_E3M2"):
        yield f"3 elements of {dtype}", made({"a": {"dtype": dtype, "shape": [3], "data_offsets": [0, 16]}}), ""


def offsets() -> Iterator[Attack]:
    for name, value in (
        ("null", None), ("a number", 16), ("empty", []), ("one", [16]), ("three", [0, 8, 16]), ("a text", "0,16"),
        ("floats", [0.0, 16.0]), ("texts", ["0", "16"]), ("negative", [-16, 0]), ("booleans", [False, True]),
        ("an object", {"begin": 0, "end": 16}),
    ):  # fmt: skip
        yield f"offsets are {name}", made(entry(data_offsets=value)), "offsets-not-integers"
    yield "offsets reversed", made(entry(data_offsets=[16, 0])), "offsets-reversed"
    for stop in (17, 1 << 20, 1 << 60):
        start = stop - 16
        yield f"offsets end at {stop}", made(entry(data_offsets=[start, stop])), "hole"
    for length in (0, 1, 8, 15):
        yield f"{length} bytes of data for 16", made(GOOD, bytes(length)), "offsets-beyond-file"
    for length in (17, 32, 4096):
        yield f"{length} bytes of data for 16", made(GOOD, bytes(length)), "trailing-bytes"
    yield "a ZIP archive behind the data", made(GOOD, DATA + b"PK\x05\x06" + bytes(18)), "trailing-bytes"
    yield "a PDF behind the data", made(GOOD, DATA + b"%PDF-1.7"), "trailing-bytes"

    def two(first: list[int], second: list[int], size: int) -> bytes:
        def one(span: list[int]) -> dict[str, Any]:
            return {"dtype": "U8", "shape": [span[1] - span[0]], "data_offsets": span}

        return made({"a": one(first), "b": one(second)}, bytes(size))

    for name, first, second in (
        ("the same bytes", [0, 8], [0, 8]),
        ("half of each other", [0, 8], [4, 12]),
        ("one inside the other", [0, 16], [4, 8]),
        ("one byte", [0, 8], [7, 15]),
    ):
        yield f"two tensors share {name}", two(first, second, 16), "overlap"
    for name, first, second in (("one byte", [0, 8], [9, 16]), ("half of the file", [0, 4], [12, 16])):
        yield f"a hole of {name}", two(first, second, 16), "hole"
    yield "a hole at the start", made({"a": {"dtype": "U8", "shape": [8], "data_offsets": [8, 16]}}), "hole"


def metadata() -> Iterator[Attack]:
    for name, value in (
        ("null", None), ("a list", []), ("a text", "x"), ("a number", 1), ("numbers", {"x": 1}), ("nested", {"x": {}}),
        ("lists", {"x": ["y"]}), ("true", {"x": True}), ("null inside", {"x": None}),
    ):  # fmt: skip
        yield f"metadata is {name}", made({"__metadata__": value, **GOOD}), "metadata-not-text"
    many = {f"k{number}": "v" for number in range(4097)}
    yield "4,097 metadata keys", made({"__metadata__": many, **GOOD}), "too-many-metadata-keys"
    yield (
        "metadata with NUL",
        text('{"__metadata__":{"x":"\\u0000"},"a":' + GOOD_ENTRY + "}"),
        "json-forbidden-character",
    )
    yield (
        "metadata with half a pair",
        text('{"__metadata__":{"x":"\\udfff"},"a":' + GOOD_ENTRY + "}"),
        "json-forbidden-character",
    )
    yield "only metadata", made({"__metadata__": {"x": "y"}}, b""), "no-tensors"
    yield "no tensors", made({}, b""), "no-tensors"
    yield "no tensors but data", made({}), ""


def bombs() -> Iterator[Attack]:
    tensors = {f"t{n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(65_537)}
    yield "65,537 tensors", made(tensors, bytes(65_537)), "too-many-tensors"
    empty = ",".join(f'"{n}":0' for n in range(700_000))
    yield "700,000 tiny entries", text("{" + empty + "}"), ""
    yield "8 MB of quotation marks", text('{"' + '","' * 2_700_000 + '":0}'), ""


FAMILIES = (lengths, starts, syntax, duplicates, names, fields, shapes, offsets, metadata, bombs)


def attacks() -> list[Attack]:
    """All of them. A rule that is "" says only that the file is refused, by whichever rule is first."""
    return [attack for family in FAMILIES for attack in family()]
