"""Whether bytes are a pickle, whatever the file is called. Its opcodes are read; none is carried out.

Protocols 2 to 5 begin with a mark. Older pickles don't, and are printable: they are known by following what an
unpickler's stack would look like until something imported is called, or to the end. A text fails within a few bytes.
"""

import pickletools
from collections.abc import Iterator
from pickletools import OpcodeInfo

from lorahub.adapters.content import HEAD_BYTES, Content

MOST_OPCODES = 100_000
"""Followed before whatever is still no text is taken for a pickle."""

_MARKS = (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
_MOST_LINE = 1 << 20  # bytes of an argument that ends with its line
_LEAST_OPCODES = 4  # of a pickle of plain values: `N.` is one, and says nothing

_OPCODES = {ord(one.code): one for one in pickletools.opcodes if one.name not in ("PERSID", "BINPERSID")}
"""Without those that an unpickler refuses unless its caller has taught it what they mean."""

_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX"})
_CONTAINERS = frozenset({"mark", "list", "tuple", "dict", "set", "frozenset"})
_ARGUMENTS = frozenset({"tuple", "dict", "any"})  # what a call takes; a bare word or an import isn't one
_IMPORTED = "imported"


class _NotAPickle(Exception):
    pass


def is_pickle(content: Content) -> bool:
    if content.head.startswith(_MARKS) and not _is_safetensors(content):
        return True
    try:
        return _acts(_opcodes(_Reader(content)))
    except _NotAPickle:
        return False


def _is_safetensors(content: Content) -> bool:
    """A header of 640 bytes begins with its length, 80 02 00 …, and 80 02 is the mark of protocol 2 as well."""
    return content.head[8:9] == b"{" and 8 + int.from_bytes(content.head[:8], "little") <= content.size


def holds_objects(npy: bytes) -> bool:
    """Whether a NumPy array, by how its file begins, is one of Python objects: those are pickled behind the header.

    The header is Python's text of a dict. One that numpy wouldn't have written like this counts as well.
    """
    start = 10 if npy[6:7] == b"\1" else 12
    stop = start + int.from_bytes(npy[8:start], "little")
    header = npy[start:stop].decode("latin-1")
    if stop > len(npy) or any(character in header for character in '"\\#'):
        return True
    pieces = header.split("'")
    quoted, between = pieces[1::2], pieces[2:-1:2]
    if len(pieces) % 2 == 0 or not all(map(str.strip, between)):  # texts side by side are one text
        return True
    return any(_is_object(part) for dtype in quoted for part in dtype.split(","))


def _is_object(dtype: str) -> bool:
    return dtype.strip("|<>=()0123456789 ") in ("O", "object", "object_")


def _acts(opcodes: Iterator[OpcodeInfo]) -> bool:
    """Whether they call what they have imported, or come to an end."""
    stack = _Stack()
    has_imports = has_containers = False
    for count, opcode in enumerate(opcodes, 1):
        taken = stack.apply(opcode)
        has_imports |= opcode.name in _IMPORTS
        has_containers |= not _CONTAINERS.isdisjoint(one.name for one in opcode.stack_after)
        is_called = opcode.name in _CALLS and taken[-1] in _ARGUMENTS
        is_made = opcode.name in ("INST", "OBJ") and len(taken) > 1
        if has_imports and (is_called or is_made):
            return True
        if opcode.name == "STOP":
            return has_imports or (has_containers and count >= _LEAST_OPCODES)
        if count >= MOST_OPCODES:
            return True
    return False


class _Stack:
    """An unpickler's, with the kinds of things instead of the things."""

    def __init__(self) -> None:
        self._kinds: list[str] = []
        self._marks: list[int] = []

    def apply(self, opcode: OpcodeInfo) -> list[str]:
        """What the opcode takes off; what it puts there is there. Raises `_NotAPickle` where there is too little."""
        before = [one.name for one in opcode.stack_before]
        end = len(self._kinds)
        if "mark" in before or (opcode.name == "POP" and self._marks[-1:] == [end - 1]):
            if not self._marks:
                raise _NotAPickle
            end = self._marks.pop()
            before = before[: before.index("mark")] if "mark" in before else []
        start = end - len(before)
        if start < (self._marks[-1] + 1 if self._marks else 0):
            raise _NotAPickle
        taken = self._kinds[start:]
        if opcode.stack_before != opcode.stack_after:
            del self._kinds[start:]
            self._put(opcode)
        return taken

    def _put(self, opcode: OpcodeInfo) -> None:
        if opcode.name == "MARK":
            self._marks.append(len(self._kinds))
        self._kinds += [_IMPORTED] if opcode.name in _IMPORTS else [one.name for one in opcode.stack_after]


def _opcodes(reader: "_Reader") -> Iterator[OpcodeInfo]:
    """Each with its argument behind it. Raises `_NotAPickle` at the first byte that is none, or has none it takes."""
    while True:
        opcode = _OPCODES.get(reader.take(1)[0])
        if opcode is None:
            raise _NotAPickle
        argument = opcode.arg
        if argument is None:
            pass
        elif argument.n >= 0:
            reader.skip(argument.n)
        elif argument.n == pickletools.UP_TO_NEWLINE:
            _read_line(opcode, reader)
        else:
            reader.skip(int.from_bytes(reader.take(_LENGTH_BYTES[argument.n]), "little"))
        yield opcode


def _read_line(opcode: OpcodeInfo, reader: "_Reader") -> None:
    line = reader.line()
    match opcode.name:
        case "GLOBAL" | "INST":
            names = (line, reader.line())
            is_one = all(part.isidentifier() for name in names for part in name.decode("utf-8", "replace").split("."))
        case "STRING":
            is_one = len(line.strip()) > 1 and line.strip()[:1] == line.strip()[-1:] and line.strip()[:1] in b"\"'"
        case "FLOAT":
            is_one = _is_float(line)
        case "UNICODE":
            is_one = True
        case _:  # a whole number
            is_one = line.strip().lstrip(b"-").removesuffix(b"L").isdigit()
    if not is_one:
        raise _NotAPickle


def _is_float(line: bytes) -> bool:
    try:
        float(line)
    except ValueError:
        return False
    return True


class _Reader:
    """Goes through a file from its beginning. Raises `_NotAPickle` where it ends too early."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._at = 0
        self._page, self._page_start = b"", 0

    def take(self, count: int) -> bytes:
        """At most a page."""
        if len(self._ahead()) < count:
            self._turn()
        taken = self._ahead()[:count]
        self.skip(count)
        return taken

    def skip(self, count: int) -> None:
        self._at += count
        if self._at > self._content.size:
            raise _NotAPickle

    def line(self) -> bytes:
        """Without its end."""
        line = b""
        while len(line) <= _MOST_LINE:
            found, end, _ = self._ahead().partition(b"\n")
            line += found
            self.skip(len(found) + len(end))
            if end:
                return line
            self._turn()
        raise _NotAPickle

    def _ahead(self) -> bytes:
        """What is left of the page; nothing where something behind it is next."""
        return self._page[self._at - self._page_start :]

    def _turn(self) -> None:
        self._page = self._content.read(self._at, self._at + HEAD_BYTES)
        self._page_start = self._at
        if not self._page:
            raise _NotAPickle
