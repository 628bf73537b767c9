"""Paths of files inside a revision: checked once, after the single decode, on both sides of the wire.

The client runs the same rules on what a registry tells it to write, so a hostile registry can't leave the folder.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import NewType

from lorahub.errors import InvalidPath

FilePath = NewType("FilePath", str)
"""A relative POSIX path in Unicode NFC without any element that some file system treats specially."""

MAX_PATH_BYTES = 1024
MAX_ELEMENT_BYTES = 255  # NAME_MAX of every common file system

_DEVICE_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))]
)
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_FORBIDDEN_CHARACTERS = frozenset('\\:*?"<>|')


def parse_path(text: str) -> FilePath:
    """Raises `InvalidPath` for anything that could leave the folder, hide, or differ between file systems."""
    _refuse_if(text == "", text, "it is empty")
    _refuse_if(text.startswith("/"), text, "it is absolute")
    _refuse_if(any(unicodedata.category(c) in _FORBIDDEN_CATEGORIES for c in text), text, "it has a control character")
    _refuse_if(unicodedata.normalize("NFC", text) != text, text, "it is not in Unicode NFC")
    _refuse_if(len(text.encode()) > MAX_PATH_BYTES, text, f"it is longer than {MAX_PATH_BYTES} bytes")
    for element in text.split("/"):
        _check_element(element, text)
    return FilePath(text)


def _check_element(element: str, path: str) -> None:
    _refuse_if(element == "", path, "it has an empty element")
    _refuse_if(element in (".", ".."), path, f"it has the element {element!r}")
    _refuse_if(element.lower() == ".git", path, "it has the element '.git'")
    _refuse_if(element[-1] in " .", path, "an element ends in a dot or a space")
    _refuse_if(element[0] == " ", path, "an element begins with a space")
    _refuse_if(not _FORBIDDEN_CHARACTERS.isdisjoint(element), path, 'it has one of \\ : * ? " < > |')
    _refuse_if(
        element.split(".", maxsplit=1)[0].strip().lower() in _DEVICE_NAMES, path, "it has the name of a Windows device"
    )
    _refuse_if(len(element.encode()) > MAX_ELEMENT_BYTES, path, f"an element is over {MAX_ELEMENT_BYTES} bytes")


def _refuse_if(condition: bool, path: str, why: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if condition:
        raise InvalidPath(f"path refused, {why}: {path[:200]!a}")


def check_tree(paths: Iterable[FilePath]) -> None:
    """A set of paths must be writable on every file system at once.

    Raises `InvalidPath` for files or folders that differ in case only, and for a file where another path has a folder.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in sorted(paths):
        _require_same_case(files, path, path)
        for folder in _folders_of(path):
            _require_same_case(folders, folder, path)
    for folded, folder in folders.items():
        _refuse_if(folded in files, folder, f"{files.get(folded)!r} is a file, not a folder")


def _require_same_case(seen: dict[str, str], text: str, path: str) -> None:
    other = seen.setdefault(unicodedata.normalize("NFC", text.casefold()), text)
    _refuse_if(other != text, path, f"it differs only in case from {other!r}")


def _folders_of(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
