"""What is inside archives and compressed files, as far as it has to be known: names, and how members begin.

Nothing is unpacked whole. A ZIP archive has to be one that all readers read alike, so that none of them sees other
members than we do.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from lorahub.adapters.content import HEAD_BYTES, Content

_MOST_IN_TAR = 64  # members: each header is behind the member before it
_MOST_DIRECTORY = 16 << 20
_MOST_COMPRESSED = 1 << 20  # bzip2 gives nothing before a block of up to 900 kB is whole
_LZMA_MEMORY = 64 << 20

_ZIP_STARTS = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
_ZIP_END, _ZIP64_END, _ZIP64_LOCATOR, _ZIP_ENTRY = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2"
_ZIP64 = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)  # in place of what is too large for the older record
_MOST_END = 22 + 65_535  # the record, and a comment
_WHOLE, _DEFLATED = 0, 8  # ways to pack a member
_ENCRYPTED = 1


class UnclearArchive(ValueError):
    """A ZIP archive in which one program may find other members than another."""


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """`head()` reads how it begins; None where that can't be: encrypted, or packed in a rare way."""

    name: str
    head: Callable[[], bytes | None]


def is_zip(content: Content) -> bool:
    return content.head.startswith(_ZIP_STARTS)


def is_tar(content: Content) -> bool:
    return _is_tar_header(content.head)


# --- ZIP --------------------------------------------------------------------------------------------------------------


def zip_members(content: Content) -> Iterator[ArchiveMember]:
    """Raises `UnclearArchive`."""
    directory, count = _zip_directory(content)
    at = 0
    for _ in range(count):
        entry = directory[at : at + 46]
        if len(entry) < 46 or not entry.startswith(_ZIP_ENTRY):
            raise UnclearArchive("it lists fewer files than it counts")
        flags, method = struct.unpack_from("<HH", entry, 8)
        packed, _, name_bytes, extra_bytes, comment_bytes = struct.unpack_from("<LLHHH", entry, 20)
        (start,) = struct.unpack_from("<L", entry, 42)
        name = directory[at + 46 : at + 46 + name_bytes].decode("utf-8", "replace")
        at += 46 + name_bytes + extra_bytes + comment_bytes
        yield ArchiveMember(name, partial(_zip_head, content, start, packed, None if flags & _ENCRYPTED else method))
    if at != len(directory):
        raise UnclearArchive("it lists more files than it counts")


def first_name(head: bytes) -> str | None:
    """Of the first member of a ZIP archive, by how the archive begins; None where it is none."""
    if len(head) < 30 or not head.startswith(_ZIP_STARTS[0]):
        return None
    return head[30 : 30 + _number(head, 26, 2)].decode("utf-8", "replace")


def _zip_directory(content: Content) -> tuple[bytes, int]:
    """The list of members, and their number. It ends where the record of the end begins, and that ends the file."""
    tail = content.read(content.size - _MOST_END, content.size)
    ends = [at for at in _places(tail, _ZIP_END) if at + 22 + _number(tail, at + 20, 2) == len(tail)]
    if len(ends) != 1:
        raise UnclearArchive("it is cut off, or has several ends")
    said = count, length, start = struct.unpack_from("<HLL", tail, ends[0] + 10)
    end = content.size - len(tail) + ends[0]
    locator = content.read(end - 20, end)
    if locator.startswith(_ZIP64_LOCATOR):
        end -= 76
        record = content.read(end, end + 56)
        if not record.startswith(_ZIP64_END) or _number(locator, 8, 8) != end:
            raise UnclearArchive("its end isn't where it says")
        count, length, start = struct.unpack_from("<QQQ", record, 32)
        if any(one not in (other, most) for one, other, most in zip(said, (count, length, start), _ZIP64, strict=True)):
            raise UnclearArchive("it says two things of its list of files")
    if length > _MOST_DIRECTORY:
        raise UnclearArchive(f"its list of files has {length} bytes; at most {_MOST_DIRECTORY} are looked through")
    if start + length != end:
        raise UnclearArchive("its list of files isn't where it says")
    return content.read(start, end), count


def _zip_head(content: Content, start: int, packed: int, method: int | None) -> bytes | None:
    header = content.read(start, start + 30)
    if method not in (_WHOLE, _DEFLATED) or len(header) < 30:
        return None
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    first = start + 30 + name_bytes + extra_bytes
    head = content.read(first, first + min(packed, HEAD_BYTES))
    return head if method == _WHOLE else _inflated(head, raw=True)


def _places(text: bytes, wanted: bytes) -> Iterator[int]:
    at = text.find(wanted)
    while at >= 0:
        yield at
        at = text.find(wanted, at + 1)


def _number(field: bytes, at: int, length: int) -> int:
    return int.from_bytes(field[at : at + length], "little")


# --- tar --------------------------------------------------------------------------------------------------------------


def tar_members(content: Content) -> Iterator[ArchiveMember]:
    """The first ones, as far as there are headers of members."""
    at = 0
    for _ in range(_MOST_IN_TAR):
        header = content.read(at, at + 512)
        if not _is_tar_header(header):
            return
        length = _tar_number(header[124:136])
        name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
        yield ArchiveMember(name, partial(content.read, at + 512, at + 512 + min(length, HEAD_BYTES)))
        at += 512 + (length + 511) // 512 * 512


def _is_tar_header(header: bytes) -> bool:
    return len(header) >= 512 and header[257:262] == b"ustar"


def _tar_number(field: bytes) -> int:
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else 0


# --- compressed -------------------------------------------------------------------------------------------------------


def decompressed_head(content: Content) -> bytes | None:
    """How what was compressed begins; None for what isn't compressed, or is damaged."""
    unpack = next((unpack for start, unpack in _COMPRESSED if content.head.startswith(start)), None)
    return None if unpack is None else unpack(content.read(0, _MOST_COMPRESSED))


def _inflated(content: bytes, *, raw: bool = False) -> bytes | None:
    """Deflate as it is, or in gzip's or zlib's wrapping."""
    try:
        return zlib.decompressobj(-15 if raw else 47).decompress(content, HEAD_BYTES)
    except zlib.error:
        return None


def _from_bzip2(content: bytes) -> bytes | None:
    try:
        return bz2.BZ2Decompressor().decompress(content, HEAD_BYTES)
    except OSError:
        return None


def _from_xz(content: bytes) -> bytes | None:
    try:
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(content, HEAD_BYTES)
    except lzma.LZMAError:
        return None


_COMPRESSED: tuple[tuple[bytes, Callable[[bytes], bytes | None]], ...] = (
    (b"\x1f\x8b", _inflated),
    (b"\x78\x01", _inflated),
    (b"\x78\x5e", _inflated),
    (b"\x78\x9c", _inflated),
    (b"\x78\xda", _inflated),
    (b"BZh", _from_bzip2),
    (b"\xfd7zXZ\0", _from_xz),
    (b"\x5d\0\0", _from_xz),
)
