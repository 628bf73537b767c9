"""What this machine's file system can't hold: a revision's names may be any, a folder here has rules of its own."""

import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lorahub.errors import InvalidPath
from lorahub.protocol.paths import folders_of

_MOST_NAMED = 5
_DEVICE_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))]
)
_FORBIDDEN_ON_WINDOWS = frozenset(':*?"<>|')


def require_holdable(paths: Iterable[str], folder: Path) -> None:
    """Raises `InvalidPath` with every path that can't be written into `folder`, or would overwrite another there."""
    known = list(paths)
    refused = list(unholdable(known, is_windows=os.name == "nt"))
    if list(collisions(known)):
        refused += collisions(known, key=_key_of(folder))
    if refused:
        more = f" (and {len(refused) - _MOST_NAMED} more)" if len(refused) > _MOST_NAMED else ""
        raise InvalidPath(
            f"this folder can't hold {'; '.join(refused[:_MOST_NAMED])}{more}",
            hint="pull on another file system, or only the files you need: --include",
            paths=refused,
        )


def unholdable(paths: Iterable[str], *, is_windows: bool) -> Iterator[str]:
    """https://learn.microsoft.com/windows/win32/fileio/naming-a-file"""
    if not is_windows:
        return
    for path in paths:
        if any(_is_unholdable_on_windows(element) for element in path.split("/")):
            yield f"{path[:200]!a}, a name that Windows doesn't allow"


def _is_unholdable_on_windows(element: str) -> bool:
    is_device = element.split(".", maxsplit=1)[0].strip().lower() in _DEVICE_NAMES
    return is_device or element[-1] in " ." or not _FORBIDDEN_ON_WINDOWS.isdisjoint(element)


def folded(text: str) -> str:
    """Equal for all that some file system takes for one name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def collisions(paths: Iterable[str], key: Callable[[str], str] = folded) -> Iterator[str]:
    """Pairs of files or folders that have one key, as a sentence's part."""
    seen: dict[str, str] = {}
    for name in dict.fromkeys(name for path in paths for name in (path, *folders_of(path))):
        other = seen.setdefault(key(name), name)
        if other != name:
            yield f"{other[:200]!a} beside {name[:200]!a}, which are one name there"


def _key_of(folder: Path) -> Callable[[str], str]:
    """How this folder's file system tells names apart, found out by asking it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".lorahub-\u00e9A-") as probe:
        name = Path(probe.name).name
        ignores_case = (folder / name.swapcase()).exists()
        ignores_form = (folder / unicodedata.normalize("NFD", name)).exists()

    def key(text: str) -> str:
        text = unicodedata.normalize("NFC", text) if ignores_form or ignores_case else text
        return folded(text) if ignores_case else text

    return key
