"""Reads the header of a safetensors file, under stricter rules than the reference reader's: `RULES`, in docs/format.md.

A file is an 8-byte little-endian length, that many bytes of JSON, and the tensors' bytes without gap or overlap. Only
the header is read, through `read_range(start, stop)`, so a remote file costs two small requests.
"""

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import BinaryIO, NoReturn

from lorahub.adapters.limits import LIMITS
from lorahub.adapters.strict_json import JSON_RULES, JsonValue, parse_json
from lorahub.errors import InvalidSafetensors

ReadRange = Callable[[int, int], bytes]
"""`read_range(start, stop)`: the bytes [start, stop) of a file."""

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits an element, for every dtype of safetensors 0.8."""

RULES = {
    "file-too-short": "at least 8 bytes of length and `{}`",
    "header-too-large": f"a header of at most {LIMITS.header_bytes} bytes",
    "header-beyond-file": "a header that ends inside the file",
    "header-not-json-object": "a header that begins with `{`, without a space before it",
    "header-padding": "nothing but spaces behind the header's `}`",
    "header-too-many-strings": "no more quotation marks than the largest allowed header needs",
    "file-truncated": "as many bytes as the file's size says",
    **{rule: f"in the header: {asks}" for rule, asks in JSON_RULES.items()},
    "no-tensors": "at least one tensor",
    "too-many-tensors": f"at most {LIMITS.tensors} tensors",
    "metadata-not-text": "`__metadata__` maps text to text",
    "too-many-metadata-keys": f"at most {LIMITS.metadata_keys} keys in `__metadata__`",
    "name-empty": "a tensor has a name",
    "name-too-long": f"names of tensors and metadata keys of at most {LIMITS.name_bytes} bytes",
    "name-forbidden-character": "no control, format, private or unassigned character in a name",
    "name-not-normal": "names in Unicode NFC, so that names that look alike are alike",
    "name-path-like": "no name that leaves a folder: no `..` element, no leading `/`, no backslash",
    "tensor-fields": "`dtype`, `shape`, `data_offsets` for each tensor, and nothing else",
    "dtype-unknown": "a dtype of the format",
    "shape-not-integers": "a shape that is a list of integers, none negative",
    "too-many-dimensions": f"at most {LIMITS.dimensions} dimensions",
    "dimension-too-large": f"dimensions of at most {LIMITS.dimension}",
    "tensor-empty": "no tensor without elements, unless the caller allows them",
    "tensor-too-large": "fewer than 2^63 bits a tensor, even where a later dimension is 0",
    "sub-byte-misaligned": "a whole number of bytes for dtypes of 4 and 6 bits",
    "offsets-not-integers": "two integers as `data_offsets`, none negative",
    "offsets-reversed": "begin before end",
    "offsets-beyond-file": "tensors that end inside the file",
    "size-mismatch": "as many bytes as dtype and shape need",
    "overlap": "no byte in two tensors",
    "hole": "no byte between two tensors",
    "trailing-bytes": "no byte behind the last tensor",
}
"""Rule -> what it asks for. The rule is `facts["rule"]` of `InvalidSafetensors`."""

_FIELDS = {"dtype", "shape", "data_offsets"}
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MAX_BITS = 1 << 63
_REWRITE = "write it again with safetensors.torch.save_file"
_SEND_AGAIN = "the copy is incomplete or damaged; make it again and compare its sha256"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor. `start` and `stop` count bytes from the header's `data_start`.

    `shape` is the one it is read with: of a matrix that `is_turned`, the file has the transposed one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    is_turned: bool = False

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def turned(self) -> "TensorEntry":
        return replace(self, shape=self.shape[::-1], is_turned=not self.is_turned)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.is_turned else self.shape


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a file says of itself; `tensors` in the order of their bytes, together covering `data_bytes`."""

    tensors: tuple[TensorEntry, ...]
    metadata: dict[str, str]
    header_bytes: int
    data_bytes: int

    @property
    def data_start(self) -> int:
        """Where the first tensor begins in the file."""
        return 8 + self.header_bytes


def read_header(read_range: ReadRange, *, size: int, allow_empty: bool = False) -> SafetensorsHeader:
    """Reads 8 bytes and, if the length in them is in bounds, the header; nothing else is read or allocated.

    `size` is the whole file's, in bytes. `allow_empty` admits files and tensors without elements.
    Raises `InvalidSafetensors` with `facts["rule"]`, a key of `RULES`, and what `read_range` raises.
    """
    header_bytes = _header_length(_read_exactly(read_range, 0, min(8, size)), size)
    raw = _read_exactly(read_range, 8, 8 + header_bytes)
    return parse_header(raw, data_bytes=size - 8 - header_bytes, allow_empty=allow_empty)


def range_reader(file: BinaryIO) -> ReadRange:
    """`read_range` over an open file, which the caller closes."""

    def read_range(start: int, stop: int) -> bytes:
        file.seek(start)
        return file.read(stop - start)

    return read_range


def parse_header(raw: bytes, *, data_bytes: int, allow_empty: bool = False) -> SafetensorsHeader:
    """`raw` is the JSON without the length before it, `data_bytes` the number of bytes behind it.

    >>> raw = b'{"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}'
    >>> parse_header(raw, data_bytes=12).tensors
    (TensorEntry(name='w', dtype='BF16', shape=(2, 3), start=0, stop=12, is_turned=False),)
    """
    fields = _parse_object(raw)
    metadata = _metadata(fields.pop("__metadata__", {}))
    if len(fields) > LIMITS.tensors:
        _refuse("too-many-tensors", f"the header names {len(fields)} tensors; at most {LIMITS.tensors} are taken")
    if not fields and not allow_empty:
        _refuse("no-tensors", "the file holds no tensor", hint="save the adapter's weights into it")
    entries = [_tensor(name, value, allow_empty=allow_empty) for name, value in fields.items()]
    entries.sort(key=lambda entry: (entry.start, entry.stop, entry.name))
    _check_cover(entries, data_bytes)
    return SafetensorsHeader(tuple(entries), metadata, len(raw), data_bytes)


def _header_length(word: bytes, size: int) -> int:
    if size < 10:
        _refuse("file-too-short", f"the file has {size} bytes, too few for a header", hint=_SEND_AGAIN)
    length = int.from_bytes(word, "little")
    if length > LIMITS.header_bytes:
        _refuse("header-too-large", f"the header claims {length} bytes; at most {LIMITS.header_bytes} are taken")
    if 8 + length > size:
        _refuse(
            "header-beyond-file", f"the header claims {length} bytes, the file has {size - 8} more", hint=_SEND_AGAIN
        )
    return length


def _read_exactly(read_range: ReadRange, start: int, stop: int) -> bytes:
    got = read_range(start, stop)
    if len(got) != stop - start:
        _refuse("file-truncated", f"{len(got)} of the bytes {start} to {stop} are there", hint=_SEND_AGAIN)
    return got


def _parse_object(raw: bytes) -> dict[str, JsonValue]:
    if not raw.startswith(b"{"):
        _refuse("header-not-json-object", f"the header begins with {raw[:1]!r}, not with '{{'")
    if not raw.rstrip(b" ").endswith(b"}"):
        _refuse("header-padding", f"the header ends in {raw[-1:]!r}, not in '}}' and spaces")
    # Ten quotation marks a tensor, four a metadata key: the parser would build millions of strings before any count
    quotes = raw.count(b'"') - raw.count(b'\\"')
    if quotes > 10 * LIMITS.tensors + 4 * LIMITS.metadata_keys + 2:
        _refuse("header-too-many-strings", f"the header has {quotes} quotation marks, more than its limits allow")
    value = parse_json(raw, error=InvalidSafetensors, hint=_REWRITE)
    assert isinstance(value, dict)  # it begins with `{`
    return value


def _metadata(value: JsonValue) -> dict[str, str]:
    if not isinstance(value, dict):
        _refuse("metadata-not-text", f"`__metadata__` is {_kind(value)}, not an object")
    if len(value) > LIMITS.metadata_keys:
        _refuse("too-many-metadata-keys", f"`__metadata__` has {len(value)} keys; at most {LIMITS.metadata_keys}")
    found: dict[str, str] = {}
    for key, text in value.items():
        if not isinstance(text, str):
            _refuse("metadata-not-text", f"`__metadata__` has {_kind(text)} under {key[:100]!a}, not text")
        if len(key.encode()) > LIMITS.name_bytes:
            _refuse("name-too-long", f"the metadata key {key[:60]!a}… has more than {LIMITS.name_bytes} bytes")
        found[key] = text
    return found


def _tensor(name: str, value: JsonValue, *, allow_empty: bool) -> TensorEntry:
    _check_name(name)
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        found = ", ".join(sorted(value))[:200] if isinstance(value, dict) else _kind(value)
        _refuse("tensor-fields", f"tensor {name!a} has {found or 'no field'}; expected dtype, shape, data_offsets")
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _refuse("dtype-unknown", f"tensor {name!a} has the dtype {str(dtype)[:40]!a}, which the format doesn't know")
    shape = _shape(name, value["shape"])
    start, stop = _offsets(name, value["data_offsets"])
    entry = TensorEntry(name, dtype, shape, start, stop)
    _check_size(entry, allow_empty=allow_empty)
    return entry


def _check_name(name: str) -> None:
    if not name:
        _refuse("name-empty", "a tensor has an empty name")
    if len(name.encode()) > LIMITS.name_bytes:
        _refuse("name-too-long", f"the tensor name {name[:60]!a}… has more than {LIMITS.name_bytes} bytes")
    if name.isascii() and name.isprintable() and not {"\\", "/"} & set(name) and name != "..":
        return  # nearly all of them
    if any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in name):
        _refuse("name-forbidden-character", f"the tensor name {name!a} has a control or format character")
    if unicodedata.normalize("NFC", name) != name:
        _refuse("name-not-normal", f"the tensor name {name!a} is not in Unicode NFC")
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        _refuse("name-path-like", f"the tensor name {name!a} reads as a path out of a folder")


def _shape(name: str, value: JsonValue) -> tuple[int, ...]:
    if not isinstance(value, list):
        _refuse("shape-not-integers", f"tensor {name!a} has {_kind(value)} as its shape, not a list of integers")
    if len(value) > LIMITS.dimensions:
        _refuse("too-many-dimensions", f"tensor {name!a} has {len(value)} dimensions; at most {LIMITS.dimensions}")
    shape = _naturals(value)
    if shape is None:
        _refuse(
            "shape-not-integers", f"tensor {name!a} has a dimension that is no integer from 0 up: {str(value)[:80]}"
        )
    if any(dimension > LIMITS.dimension for dimension in shape):
        _refuse(
            "dimension-too-large",
            f"tensor {name!a} has the shape {list(shape)}; a dimension ends at {LIMITS.dimension}",
        )
    return shape


def _offsets(name: str, value: JsonValue) -> tuple[int, int]:
    pair = _naturals(value) if isinstance(value, list) else None
    if pair is None or len(pair) != 2:
        _refuse(
            "offsets-not-integers", f"tensor {name!a} needs two integers from 0 up as data_offsets: {str(value)[:80]}"
        )
    start, stop = pair
    if start > stop:
        _refuse("offsets-reversed", f"tensor {name!a} begins at byte {start}, behind its end {stop}")
    return start, stop


def _naturals(values: Iterable[JsonValue]) -> tuple[int, ...] | None:
    """The values as integers from 0 up; None if one of them is anything else (True is an int to Python)."""
    numbers = tuple(value for value in values if type(value) is int and value >= 0)
    return numbers if len(numbers) == len(tuple(values)) else None


def _check_size(entry: TensorEntry, *, allow_empty: bool) -> None:
    bits = DTYPE_BITS[entry.dtype]
    for dimension in entry.shape:
        bits *= dimension
        if bits >= _MAX_BITS:
            _refuse("tensor-too-large", f"tensor {entry.name!a} of shape {list(entry.shape)} has 2^63 bits or more")
    if bits == 0 and not allow_empty:
        _refuse("tensor-empty", f"tensor {entry.name!a} of shape {list(entry.shape)} has no elements")
    if bits % 8:
        _refuse("sub-byte-misaligned", f"tensor {entry.name!a} ends inside a byte: {bits} bits of {entry.dtype}")
    if bits // 8 != entry.stop - entry.start:
        _refuse(
            "size-mismatch",
            f"tensor {entry.name!a}, {entry.dtype} of shape {list(entry.shape)}, needs {bits // 8} bytes; "
            f"its offsets give it {entry.stop - entry.start}",
        )


def _check_cover(entries: list[TensorEntry], data_bytes: int) -> None:
    end = 0
    for entry in entries:
        if entry.start != end:
            rule, what = ("hole", "leaves a hole") if entry.start > end else ("overlap", "overlaps another tensor")
            _refuse(rule, f"tensor {entry.name!a} begins at byte {entry.start} and {what}; expected byte {end}")
        end = entry.stop
        if end > data_bytes:
            _refuse(
                "offsets-beyond-file",
                f"tensor {entry.name!a} ends at byte {end} of {data_bytes} bytes of data",
                hint=_SEND_AGAIN,
            )
    if end < data_bytes:
        _refuse("trailing-bytes", f"{data_bytes - end} bytes behind the last tensor belong to none")


def _kind(value: JsonValue) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _refuse(rule: str, message: str, *, hint: str = _REWRITE) -> NoReturn:
    raise InvalidSafetensors(message, hint=hint, rule=rule)
