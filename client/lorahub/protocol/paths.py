"""Paths of files inside a revision: checked once, after the single decode, on both sides of the wire.

The client runs the same rules on what a registry tells it to write, so a hostile registry can't leave the folder.
"""

import unicodedata
from collections.abc import Iterable
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

    Raises `InvalidPath` for two paths that differ in case only, and for a file where another path has a folder.
    """
    seen: dict[str, str] = {}
    for path in sorted(paths):
        folded = unicodedata.normalize("NFC", path.casefold())
        other = seen.setdefault(folded, path)
        _refuse_if(other != path, path, f"it differs only in case from {other!r}")
    for folded, path in seen.items():
        parent = folded
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            _refuse_if(parent in seen, path, f"{seen.get(parent)!r} is a file, not a folder")
