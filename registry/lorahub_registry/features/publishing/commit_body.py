"""The body of a commit: NDJSON, one line at a time, each parsed strictly into its type.

{"key": "header",        "value": {"summary", "description", "parentCommit"?}}
{"key": "file",          "value": {"content": base64, "path", "encoding": "base64"}}
{"key": "file",          "value": {"path", "oid", "size"?}}        lorahub's own: its content came before
{"key": "lfsFile",       "value": {"path", "algo": "sha256", "oid", "size"?}}
{"key": "deletedFile",   "value": {"path"}}
{"key": "deletedFolder", "value": {"path"}}
{"key": "version",       "value": {"name"?, "aliases"?}}           lorahub's own
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import MalformedBody, PayloadTooLarge
from lorahub.protocol.digests import Sha256, parse_sha256
from lorahub.protocol.names import parse_alias, parse_version
from lorahub.protocol.paths import FilePath, parse_path

_PARENT = re.compile(r"[0-9a-f]{7,40}")
_MAX_TEXT = 100_000
_MAX_ALIASES = 32


@dataclass(frozen=True, slots=True)
class Header:
    title: str
    message: str
    parent: str | None
    """7 to 40 hex digits."""


@dataclass(frozen=True, slots=True)
class InlineFile:
    path: FilePath
    content: bytes
    start: int
    """Where its line begins in the body."""


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """Its bytes came before."""

    path: FilePath
    sha256: Sha256
    size: int | None
    """None in a copy of a file that is there already."""
    is_lfs: bool


@dataclass(frozen=True, slots=True)
class DeletedFile:
    path: FilePath


@dataclass(frozen=True, slots=True)
class DeletedFolder:
    path: FilePath | None
    """None: everything."""


@dataclass(frozen=True, slots=True)
class VersionWish:
    number: int | None
    """None: the next one."""
    aliases: tuple[str, ...]
    is_implied: bool = False
    """Nobody wrote it: see `publishing.versions.implied_version`."""


Line = Header | InlineFile | UploadedFile | DeletedFile | DeletedFolder | VersionWish


def read_lines(body: BinaryIO, *, max_line_bytes: int) -> Iterator[Line]:
    """The header first, then the operations.

    Raises `MalformedBody`, `PayloadTooLarge`, `InvalidPath`, `InvalidDigest`, `InvalidName`.
    """
    count, end = 0, 0
    while raw := body.readline(max_line_bytes + 1):
        start, end = end, end + len(raw)
        if len(raw) > max_line_bytes:
            raise PayloadTooLarge(
                f"a line of the commit is longer than {max_line_bytes} bytes",
                hint="upload large files through LFS",
            )
        if not raw.strip():
            continue
        count += 1
        line = _parse(raw, count, start)
        if (count == 1) != isinstance(line, Header):
            raise MalformedBody("the first line of a commit, and only the first, is its header")
        yield line
    if count == 0:
        raise MalformedBody("the commit is empty; its first line is the header")


def read_inline(body: BinaryIO, start: int) -> bytes:
    """The content of the inline file whose line, which was read before, begins at `start`."""
    body.seek(start)
    line = _parse(body.readline(), 0, start)
    assert isinstance(line, InlineFile)
    return line.content


def _parse(raw: bytes, number: int, start: int) -> Line:
    value = parse_json(raw, error=MalformedBody)
    match value:
        case {"key": "header", "value": dict() as header}:
            return _header(header)
        case {"key": "file", "value": {"path": str() as path, "content": str() as content, **rest}}:
            return InlineFile(parse_path(path), _content(content, rest.get("encoding", "utf-8"), path), start)
        case {"key": "lfsFile" | "file" as key, "value": {"path": str() as path, "oid": oid, **rest}}:
            return UploadedFile(parse_path(path), parse_sha256(oid), _size(rest.get("size")), is_lfs=key == "lfsFile")
        case {"key": "deletedFile", "value": {"path": str() as path}}:
            return DeletedFile(parse_path(path.rstrip("/")))
        case {"key": "deletedFolder", "value": {"path": str() as path}}:
            return DeletedFolder(None if path.strip("./") == "" else parse_path(path.rstrip("/")))
        case {"key": "version", "value": dict() as wish}:
            return _version(wish)
    raise MalformedBody(
        f"line {number} of the commit is none of header, file, lfsFile, deletedFile, deletedFolder, version"
    )


def _header(value: dict[str, Any]) -> Header:
    title, message, parent = value.get("summary"), value.get("description") or "", value.get("parentCommit")
    if not isinstance(title, str) or not isinstance(message, str) or len(title) + len(message) > _MAX_TEXT:
        raise MalformedBody(f"a commit needs a `summary`; with its `description` it has at most {_MAX_TEXT} characters")
    if parent is not None and not (isinstance(parent, str) and _PARENT.fullmatch(parent)):
        raise MalformedBody("`parentCommit` is no commit id: 7 to 40 lower-case hex digits")
    return Header(title, message, parent)


def _content(text: str, encoding: object, path: str) -> bytes:
    if encoding != "base64":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedBody(f"the content of {path[:200]!a} is not base64") from None


def _size(size: object) -> int | None:
    if size is None or (isinstance(size, int) and not isinstance(size, bool) and size >= 0):
        return size
    raise MalformedBody("the `size` of an lfsFile is a number of bytes")


def _version(value: dict[str, Any]) -> VersionWish:
    name, aliases = value.get("name"), value.get("aliases") or []
    if not (name is None or isinstance(name, str)):
        raise MalformedBody("the `name` of a version is text such as v3, or null for the next one")
    if not isinstance(aliases, list) or len(aliases) > _MAX_ALIASES or not all(isinstance(a, str) for a in aliases):
        raise MalformedBody(f"`aliases` is a list of at most {_MAX_ALIASES} names")
    return VersionWish(None if name is None else parse_version(name), tuple(parse_alias(alias) for alias in aliases))
