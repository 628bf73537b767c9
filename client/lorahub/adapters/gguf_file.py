"""GGUF files of llama.cpp: the header read strictly, by ranges; adapters written, the same bytes for the same values.

Layout (ggml-org/ggml docs/gguf.md): magic `GGUF`, version (u32), number of tensors and of key-value pairs (u64), the
pairs, for each tensor name, dimensions (fastest first), type and offset, then the tensors' bytes, aligned.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from lorahub.adapters.limits import LIMITS
from lorahub.adapters.safetensors_header import ReadRange
from lorahub.errors import InvalidGguf

RULES = {
    "not-gguf": "the file begins with `GGUF`",
    "version-unknown": "version 2 or 3, little-endian",
    "file-truncated": "as many bytes as the header announces",
    "header-too-large": "a header within its bound",
    "too-many-tensors": f"at most {LIMITS.tensors} tensors",
    "too-many-keys": f"at most {LIMITS.metadata_keys} keys",
    "string-too-long": "texts within the header",
    "not-text": "names and texts in UTF-8",
    "type-unknown": "value types of the format",
    "array-nested": "no list within a list",
    "key-twice": "no key twice",
    "name-twice": "no tensor name twice",
    "name-too-long": f"printable names of 1 to {LIMITS.name_bytes} bytes",
    "too-many-dimensions": f"at most {LIMITS.dimensions} dimensions",
    "dimension-too-large": f"dimensions from 1 to {LIMITS.dimension}",
    "tensor-type-unknown": "tensor types of ggml",
    "block-misaligned": "rows of whole blocks",
    "alignment-odd": "an alignment that is a power of two, at most 4096",
    "offset-misaligned": "offsets at multiples of the alignment",
    "overlap": "no byte in two tensors",
    "beyond-file": "tensors that end inside the file",
}
"""Rule -> what it asks for. The rule is `facts["rule"]` of `InvalidGguf`."""

BLOCKS = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q8_1": (9, 32, 40), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "Q8_K": (15, 256, 292),
    "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98), "IQ1_S": (19, 256, 50),
    "IQ4_NL": (20, 32, 18), "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82), "IQ4_XS": (23, 256, 136),
    "I8": (24, 1, 1), "I16": (25, 1, 2), "I32": (26, 1, 4), "I64": (27, 1, 8), "F64": (28, 1, 8),
    "IQ1_M": (29, 256, 56), "BF16": (30, 1, 2), "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17), "NVFP4": (40, 64, 36), "Q1_0": (41, 128, 18),
}  # fmt: skip
"""Type -> (number in the file, elements a block, bytes a block): gguf-py 0.19 `GGML_QUANT_SIZES`."""

_TYPES = {number: name for name, (number, _, _) in BLOCKS.items()}
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_WRITTEN = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
_STRING, _ARRAY = 8, 9
_KEPT_ITEMS = 1024
_ALIGNMENT = 32
_FIRST_BYTES = 64 << 10
_TEXT_BYTES = 1 << 20
_CURE = "write the file again with llama.cpp's convert_lora_to_gguf.py, or: lorahub convert"


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """A list too long to be kept, such as a vocabulary."""

    length: int


GgufValue = str | bool | int | float | list[str] | list[int] | list[float] | SkippedArray


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` slowest dimension first, as numpy has it; `start` and `stop` count bytes from `data_start`."""

    name: str
    ggml_type: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says of itself; `tensors` in the file's order."""

    version: int
    metadata: Mapping[str, GgufValue]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    data_start: int


def read_gguf(read_range: ReadRange, *, size: int, max_header_bytes: int = 64 << 20) -> GgufHeader:
    """Reads as much of the file as its header takes. Raises `InvalidGguf` with `facts["rule"]`, a key of `RULES`."""
    cursor = _Cursor(read_range, size, max_header_bytes)
    if cursor.take(4) != b"GGUF":
        _refuse("not-gguf", "the file doesn't begin with GGUF")
    version = int(cursor.number("<I"))
    if version not in (2, 3):
        _refuse("version-unknown", f"version {version}; 2 and 3 are read")
    tensors, keys = int(cursor.number("<Q")), int(cursor.number("<Q"))
    if tensors > LIMITS.tensors:
        _refuse("too-many-tensors", f"{tensors} tensors; at most {LIMITS.tensors} are taken")
    if keys > LIMITS.metadata_keys:
        _refuse("too-many-keys", f"{keys} keys; at most {LIMITS.metadata_keys} are taken")
    metadata = _metadata(cursor, keys)
    alignment = _alignment(metadata)
    entries = [_entry(cursor) for _ in range(tensors)]
    if len({name for name, _, _, _ in entries}) < len(entries):
        _refuse("name-twice", "two tensors have one name")
    data_start = -(-cursor.position // alignment) * alignment
    placed = [_placed(entry, alignment) for entry in entries]
    _check_places(placed, size - data_start)
    return GgufHeader(version, metadata, tuple(placed), alignment, data_start)


class _Cursor:
    """Reads forward, fetching twice as much each time it runs out."""

    def __init__(self, read_range: ReadRange, size: int, bound: int) -> None:
        self._read_range = read_range
        self._size = size
        self._bound = bound
        self._held = b""
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > self._size:
            _refuse("file-truncated", f"the header wants byte {end}, the file has {self._size}")
        if end > self._bound:
            _refuse("header-too-large", f"the header has more than {self._bound} bytes")
        if end > len(self._held):
            stop = min(self._size, self._bound, max(end, 2 * len(self._held), _FIRST_BYTES))
            self._held += self._read_range(len(self._held), stop)
            if end > len(self._held):
                _refuse("file-truncated", f"{len(self._held)} of {end} bytes are there")
        taken = self._held[self.position : end]
        self.position = end
        return taken

    def number(self, code: str) -> int | float | bool:
        value: int | float | bool = struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return value

    def text(self, *, longest: int) -> str:
        length = int(self.number("<Q"))
        if length > longest:
            _refuse("string-too-long", f"a text of {length} bytes; at most {longest} are taken here")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            _refuse("not-text", "a text is not UTF-8")


def _metadata(cursor: _Cursor, count: int) -> dict[str, GgufValue]:
    found: dict[str, GgufValue] = {}
    for _ in range(count):
        key = cursor.text(longest=LIMITS.name_bytes)
        if key in found:
            _refuse("key-twice", f"the key {key[:80]!a} is there twice")
        found[key] = _value(cursor, int(cursor.number("<I")))
    return found


def _value(cursor: _Cursor, kind: int) -> GgufValue:
    if kind == _STRING:
        return cursor.text(longest=_TEXT_BYTES)
    if kind == _ARRAY:
        return _array(cursor)
    return _scalar(cursor, kind)


def _scalar(cursor: _Cursor, kind: int) -> bool | int | float:
    if kind not in _SCALARS:
        _refuse("type-unknown", f"a value of type {kind}")
    return cursor.number(_SCALARS[kind])


def _array(cursor: _Cursor) -> GgufValue:
    kind, length = int(cursor.number("<I")), int(cursor.number("<Q"))
    if kind == _ARRAY:
        _refuse("array-nested", "a list within a list")
    if kind != _STRING and kind not in _SCALARS:
        _refuse("type-unknown", f"a list of type {kind}")
    if kind == _STRING and length > 1 << 22:
        _refuse("header-too-large", f"a list of {length} texts")
    if length <= _KEPT_ITEMS:
        return [_value(cursor, kind) for _ in range(length)]  # type: ignore[return-value]  # one type a list
    if kind == _STRING:
        for _ in range(length):
            cursor.text(longest=_TEXT_BYTES)
    else:
        cursor.take(length * struct.calcsize(_SCALARS[kind]))
    return SkippedArray(length)


def _alignment(metadata: Mapping[str, GgufValue]) -> int:
    value = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096 or value & (value - 1):
        _refuse("alignment-odd", f"general.alignment is {str(value)[:40]}")
    return value


Entry = tuple[str, str, tuple[int, ...], int]
"""(name, type, shape, offset)."""


def _entry(cursor: _Cursor) -> Entry:
    name = cursor.text(longest=1 << 16)
    if not 0 < len(name.encode()) <= LIMITS.name_bytes or not name.isprintable():
        _refuse("name-too-long", f"not a usable tensor name: {name[:80]!a}")
    dimensions = int(cursor.number("<I"))
    if dimensions > LIMITS.dimensions:
        _refuse("too-many-dimensions", f"tensor {name!a} has {dimensions} dimensions")
    sizes = tuple(int(cursor.number("<Q")) for _ in range(dimensions))
    if any(not 1 <= size <= LIMITS.dimension for size in sizes):
        _refuse("dimension-too-large", f"tensor {name!a} has the shape {list(sizes)}")
    kind = int(cursor.number("<I"))
    if kind not in _TYPES:
        _refuse("tensor-type-unknown", f"tensor {name!a} has the type {kind}")
    return name, _TYPES[kind], sizes[::-1], int(cursor.number("<Q"))


def _placed(entry: Entry, alignment: int) -> GgufTensor:
    name, kind, shape, offset = entry
    _, block, block_bytes = BLOCKS[kind]
    elements = 1
    for size in shape:
        elements *= size
    row = shape[-1] if shape else 1
    if row % block:
        _refuse("block-misaligned", f"tensor {name!a}: rows of {row} are no multiple of {kind}'s {block}")
    if offset % alignment:
        _refuse("offset-misaligned", f"tensor {name!a} begins at {offset}, no multiple of {alignment}")
    return GgufTensor(name, kind, shape, offset, offset + elements // block * block_bytes)


def _check_places(tensors: Iterable[GgufTensor], size: int) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        if tensor.start < end:
            _refuse("overlap", f"tensor {tensor.name!a} begins inside the one before it")
        end = tensor.stop
        if end > size:
            _refuse("beyond-file", f"tensor {tensor.name!a} ends at byte {end} of {size} bytes of data")


def _refuse(rule: str, message: str) -> NoReturn:
    raise InvalidGguf(message, hint=_CURE, rule=rule)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_gguf(file: BinaryIO, metadata: Mapping[str, GgufValue], tensors: Iterable[tuple[str, Any]]) -> None:
    """GGUF v3. Arrays of float32, float16, or uint16 words of bfloat16; whole numbers become u32, fractions f32."""
    listed = list(tensors)
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(metadata)))
    for key, value in metadata.items():
        head += _text_bytes(key) + _value_bytes(value)
    alignment, offset = _alignment(metadata), 0
    for name, array in listed:
        number = BLOCKS[_WRITTEN[array.dtype.name]][0]
        head += _text_bytes(name) + struct.pack(f"<I{array.ndim}Q", array.ndim, *array.shape[::-1])
        head += struct.pack("<IQ", number, offset)
        offset += -(-array.nbytes // alignment) * alignment
    file.write(bytes(head) + b"\0" * (-len(head) % alignment))
    for _, array in listed:
        words = array.astype(array.dtype.newbyteorder("<"), copy=False)
        file.write(words.tobytes() + b"\0" * (-array.nbytes % alignment))


def _text_bytes(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value_bytes(value: GgufValue) -> bytes:
    kind, raw = _typed(value)
    return struct.pack("<I", kind) + raw


def _typed(value: GgufValue) -> tuple[int, bytes]:
    """(type in the file, bytes)."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return _STRING, _text_bytes(value)
    if isinstance(value, SkippedArray):
        raise TypeError("a list that was skipped can't be written")
    items = [_typed(item) for item in value]
    kind = items[0][0] if items else 4
    if any(other != kind for other, _ in items):
        raise TypeError("a list of several types can't be written")
    return _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(raw for _, raw in items)
