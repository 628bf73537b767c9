"""Paths of files inside a revision: checked once, after the single decode, on both sides of the wire.

What the Hub takes is taken. What one file system can't hold is that system's matter: `hub/local_names.py`.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import NewType

from lorahub.errors import InvalidPath

FilePath = NewType("FilePath", str)
"""A relative POSIX path that names one file, whatever reads it."""

MAX_PATH_BYTES = 1024
MAX_ELEMENT_BYTES = 255  # NAME_MAX of every common file system

_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Text behind these is shown in another order than it is read: https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing"""


def parse_path(text: str) -> FilePath:
    """Raises `InvalidPath` for anything that could leave the folder, or be read as another path than it is."""
    _refuse_if(text == "", text, "it is empty")
    _refuse_if(text.startswith("/"), text, "it is absolute")
    _refuse_if(any(unicodedata.category(c) in _FORBIDDEN_CATEGORIES for c in text), text, "it has a control character")
    _refuse_if(not _REORDERING.isdisjoint(text), text, "it has a character that changes the order of others")
    _refuse_if("\\" in text, text, "it has a backslash, which some systems read as a slash")
    _refuse_if(len(text.encode()) > MAX_PATH_BYTES, text, f"it is longer than {MAX_PATH_BYTES} bytes")
    for element in text.split("/"):
        _check_element(element, text)
    return FilePath(text)


def is_path(text: str) -> bool:
    """Whether `parse_path` takes it."""
    try:
        parse_path(text)
    except InvalidPath:
        return False
    return True


def _check_element(element: str, path: str) -> None:
    _refuse_if(element == "", path, "it has an empty element")
    _refuse_if(element in (".", ".."), path, f"it has the element {element!r}")
    _refuse_if(element.lower() == ".git", path, "it has the element '.git'")
    _refuse_if(len(element.encode()) > MAX_ELEMENT_BYTES, path, f"an element is over {MAX_ELEMENT_BYTES} bytes")


def _refuse_if(condition: bool, path: str, why: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if condition:
        raise InvalidPath(f"path refused, {why}: {path[:200]!a}")


def check_tree(paths: Iterable[FilePath]) -> None:
    """Raises `InvalidPath` for a file where another path has a folder."""
    files = set(paths)
    for path in sorted(files):
        for folder in folders_of(path):
            _refuse_if(folder in files, path, f"{folder[:200]!a} is a file, not a folder")


def folders_of(path: str) -> Iterator[str]:
    """The folders that the path is in, the innermost first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
