"""Reads the header of a GGUF file (llama.cpp's adapters and models), strictly and without its data, and writes GGUF 3.

A file is `GGUF`, a version, two counts, that many typed key-value pairs and tensor descriptions, and the tensors' bytes,
each at a multiple of the alignment; all little-endian. Source of the format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; what it leaves open is taken as llama.cpp's reader takes it:
https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/gguf.cpp.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from lorahub.adapters.limits import LIMITS
from lorahub.adapters.safetensors_header import ReadRange

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]
    TensorToWrite: TypeAlias = tuple[str, Array] | tuple[str, Array, str]

GGML_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Number in the file -> name, elements a block, bytes a block; as in gguf-py 0.19, which a test compares."""

RULES = {
    "magic": "a file that begins with `GGUF`",
    "big-endian": "numbers in little-endian order",
    "version-unsupported": "version 2 or 3 of the format",
    "file-truncated": "as many bytes as the file's size says",
    "header-too-large": "a header of at most the bytes that the caller takes, 64 MiB unless it says otherwise",
    "header-beyond-file": "a header, its strings and arrays included, that ends inside the file",
    "too-many-metadata-keys": f"at most {LIMITS.metadata_keys} keys in the metadata",
    "no-tensors": "at least one tensor",
    "too-many-tensors": f"at most {LIMITS.tensors} tensors",
    "name-empty": "tensors and metadata keys have names",
    "name-too-long": f"names of tensors and metadata keys of at most {LIMITS.name_bytes} bytes",
    "name-forbidden-character": "no control, format, private or unassigned character in a name",
    "name-not-normal": "names in Unicode NFC, so that names that look alike are alike",
    "name-path-like": "no tensor name that leaves a folder: no `..` element, no leading `/`, no backslash",
    "text-not-utf8": "texts in UTF-8",
    "duplicate-key": "each metadata key once",
    "duplicate-tensor": "each tensor name once",
    "value-type-unknown": "one of the 13 value types of the format",
    "array-nested": "no arrays of arrays",
    "bool-not-0-or-1": "booleans that are 0 or 1",
    "alignment-invalid": "`general.alignment` is a UINT32 and a power of two",
    "type-unknown": "a ggml type that is in use",
    "too-many-dimensions": f"at most {LIMITS.dimensions} dimensions",
    "dimension-too-large": f"dimensions of at most {LIMITS.dimension}",
    "tensor-empty": "no tensor without elements",
    "block-misaligned": "rows of whole blocks of the type",
    "offset-misaligned": "tensors that begin at a multiple of the alignment",
    "offsets-beyond-file": "tensors that end inside the file",
    "overlap": "no byte in two tensors",
    "hole": "nothing but the padding between two tensors",
    "trailing-bytes": "nothing but the padding behind the last tensor",
    "value-not-writable": "to be written: text, booleans, integers of 32 bits, floats, lists of such integers or texts",
    "array-not-writable": "to be written: arrays of float32 or float16, or of uint16 named BF16",
}
"""Rule -> what it asks for. The rule is `facts["rule"]` of `InvalidGguf`."""

GgufValue: TypeAlias = str | bool | int | float | list[int] | list[str]
"""What can be written: STRING, BOOL, UINT32, FLOAT32, and arrays of UINT32 and STRING."""

KEPT_ITEMS = 1024
"""Items an array of the metadata may have to be kept; one longer is a vocabulary's."""

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_SCALARS = {
    0: ("UINT8", "B"),
    1: ("INT8", "b"),
    2: ("UINT16", "H"),
    3: ("INT16", "h"),
    _UINT32: ("UINT32", "I"),
    5: ("INT32", "i"),
    _FLOAT32: ("FLOAT32", "f"),
    _BOOL: ("BOOL", "B"),
    10: ("UINT64", "Q"),
    11: ("INT64", "q"),
    12: ("FLOAT64", "d"),
}
"""Value type in the file -> its name and its format character of `struct`."""

_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_NUMBER_OF_TYPE = {name: number for number, (name, _, _) in GGML_TYPES.items()}
_WRITABLE = {("float32", "F32"): "<f4", ("float16", "F16"): "<f2", ("uint16", "BF16"): "<u2"}
"""Kind of array, ggml type -> the words in the file."""

_FIRST_CHUNK = 64 << 10  # holds an adapter's header whole
_LARGEST_CHUNK = 8 << 20  # bounds the memory; a vocabulary takes about nine requests
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_REWRITE = "write it again with llama.cpp's convert_lora_to_gguf.py"
_SEND_AGAIN = "the copy is incomplete or damaged; make it again and compare its sha256"


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """Stands for an array of more than `KEPT_ITEMS` items; `type` is theirs, such as STRING."""

    type: str
    length: int


MetadataValue: TypeAlias = str | bool | int | float | list[Any] | SkippedArray
"""What is read: all 13 types. A float may be NaN or infinite."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor. `shape` is row-major, the reverse of the file's; `start` and `stop` count bytes from `data_start`."""

    name: str
    ggml_type: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says of itself; `tensors` in the order of their bytes. `alignment` and `data_start` are in bytes."""

    version: int
    metadata: dict[str, MetadataValue]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    data_start: int


def read_gguf(read_range: ReadRange, *, size: int, max_header_bytes: int = 64 << 20) -> GgufHeader:
    """Reads the header in chunks of 64 KiB, then twice that and so on to 8 MiB; one chunk is held at a time.

    `size` is the whole file's, in bytes. Long arrays of numbers are jumped over, long arrays of text read and dropped.
    Raises `InvalidGguf` with `facts["rule"]`, a key of `RULES`, and what `read_range` raises.
    """
    cursor = _Cursor(read_range, size=size, bound=max_header_bytes)
    version = _version(cursor)
    tensor_count, key_count = cursor.u64(), cursor.u64()
    _check_counts(tensor_count, key_count)
    metadata = _metadata(cursor, key_count)
    alignment = _alignment(metadata)
    tensors = _tensors(cursor, tensor_count)
    data_start = _padded(cursor.at, alignment)
    _check_cover(tensors, alignment, size - data_start)
    return GgufHeader(version, metadata, tuple(tensors), alignment, data_start)


def write_gguf(file: BinaryIO, metadata: Mapping[str, GgufValue], tensors: Iterable["TensorToWrite"]) -> GgufHeader:
    """Writes GGUF 3 and returns its header as `read_gguf` will. Same arguments, same bytes: the order given is kept.

    A tensor is a name and an array of float32 or float16, or a name, the uint16 words of bfloat16 and "BF16". `bool`
    becomes BOOL, `int` UINT32, `float` FLOAT32. `general.alignment`, in bytes, is obeyed. All arrays are held at once.
    Raises `InvalidGguf` before anything is written, and what `file.write` raises.
    """
    arrays = [_writable(*entry) for entry in tensors]
    alignment = _alignment(metadata)
    head = b"".join(_encoded_header(metadata, arrays, alignment))
    head += bytes(-len(head) % alignment)
    end = max(
        (start + array.nbytes for (_, array, _), start in zip(arrays, _starts(arrays, alignment), strict=True)),
        default=0,
    )
    header = read_gguf(lambda start, stop: head[start:stop], size=len(head) + end)
    file.write(head)
    for _, array, _ in arrays:
        file.write(array.tobytes())
        file.write(bytes(-array.nbytes % alignment))
    return header


class _Cursor:
    """Walks a file forwards through a window that is refilled in growing chunks."""

    __slots__ = ("_base", "_bound", "_chunk", "_offset", "_read_range", "_size", "_window")

    def __init__(self, read_range: ReadRange, *, size: int, bound: int) -> None:
        self._read_range = read_range
        self._size = size
        self._bound = bound
        self._chunk = _FIRST_CHUNK
        self._window = b""
        self._base = 0  # of the window in the file
        self._offset = 0  # in the window; behind its end after a skip

    @property
    def at(self) -> int:
        """The next byte's place in the file."""
        return self._base + self._offset

    def u32(self) -> int:
        return int(_U32.unpack_from(self._window, self._advance(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self._window, self._advance(8))[0])

    def take(self, count: int) -> bytes:
        offset = self._advance(count)
        return self._window[offset : offset + count]

    def text(self, what: str) -> str:
        raw = self.take(self.u64())
        try:
            return raw.decode()
        except UnicodeDecodeError:
            _refuse("text-not-utf8", f"{what} is not UTF-8: {raw[:60]!r}")

    def skip(self, count: int) -> None:
        """Passes over bytes without reading those outside the window."""
        self._check_room(count)
        self._offset += count

    def skip_texts(self, count: int) -> None:
        """Passes over length-prefixed texts; a hostile header has millions of them, hence the short loop."""
        self._check_room(8 * count)
        unpack_from = _U64.unpack_from
        while count:
            offset, last = self._advance(8) + 0, len(self._window) - 8
            while count and offset <= last:
                offset += 8 + unpack_from(self._window, offset)[0]
                count -= 1
            self._offset = offset
            self._check_room(0)

    def _advance(self, count: int) -> int:
        """Makes sure that the window holds the next `count` bytes, passes them, and returns where they begin in it."""
        if self._offset + count > len(self._window):
            self._check_room(count)
            self._refill(count)
        offset = self._offset
        self._offset += count
        return offset

    def _check_room(self, count: int) -> None:
        stop = self.at + count
        if stop > self._size:
            _refuse(
                "header-beyond-file",
                f"the header goes on to byte {stop} or further; the file has {self._size}",
                hint=_SEND_AGAIN,
            )
        if stop > self._bound:
            _refuse("header-too-large", f"the header has {stop} bytes or more; at most {self._bound} are taken")

    def _refill(self, count: int) -> None:
        kept = self._window[self._offset :]
        start = self.at + len(kept)
        stop = min(max(self.at + count, start + self._chunk), self._size, self._bound)
        got = self._read_range(start, stop)
        if len(got) != stop - start:
            _refuse("file-truncated", f"{len(got)} of the bytes {start} to {stop} are there", hint=_SEND_AGAIN)
        self._base, self._offset, self._window = self.at, 0, kept + got
        self._chunk = min(2 * self._chunk, _LARGEST_CHUNK)
