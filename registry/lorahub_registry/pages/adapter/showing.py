"""What adapters of image models show of themselves: pictures they made, and the words that call them up.

Cards name both as the Hub reads them: `widget` with `text` and `output.url`, `instance_prompt`, and the tag
`not-for-all-audiences`. Only pictures of the repository itself are shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import normpath
from typing import Any
from urllib.parse import unquote, urlsplit

from lorahub.errors import AccessRefused, NotFound, PayloadTooLarge, UnsupportedMediaType
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath

from lorahub_registry.core.access import OpenedRepository, reading
from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.revisions.service import RevisionFile
from lorahub_registry.features.downloads import service as downloads
from lorahub_registry.features.downloads.service import OpenFile, TreePage
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.pages.adapter.gathered import AdapterPage

MOST_IMAGES = 12
MOST_WORDS = 12
MOST_LETTERS = 1000
MOST_BYTES = 8 << 20
"""Of a picture that a page shows."""
SENSITIVE = "not-for-all-audiences"
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_HEAD = 16


@dataclass(frozen=True, slots=True)
class Picture:
    """`kind` is read from its first bytes, whatever its name says."""

    file: OpenFile
    kind: str

    def bytes(self, backend: Backend) -> Iterator[bytes]:
        return self.file.read(backend, 0, self.file.file.size)


def open_picture(
    backend: Backend, principal: Principal, name: RepositoryName, revision: str, path: FilePath
) -> Picture:
    """Raises as `open_file`, `UnsupportedMediaType` for what is no picture, `PayloadTooLarge`."""
    with reading(backend, principal, name) as opened:
        file = downloads.open_file(opened, revision, path)
    if file.file.size > MOST_BYTES:
        raise PayloadTooLarge(f"{path} is larger than the {MOST_BYTES} bytes that are shown", hint="download it")
    kind = _kind_of(b"".join(file.read(backend, 0, min(_HEAD, file.file.size))))
    if kind is None:
        raise UnsupportedMediaType(f"{path} is no PNG, JPEG or WebP")
    return Picture(file, kind)


def _kind_of(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def shown(opened: OpenedRepository, page: AdapterPage) -> dict[str, Any]:
    """`images` with a caption each, `words` to copy, and whether they are to be covered."""
    card = page.shown["card"]
    here = _images_here(opened, page.revision) if page.is_readable else []
    named = [one for one in _widgets(card) if one["path"] in here or one["path"] is None]
    images = [one for one in named if one["path"]]
    known = {one["path"] for one in images}
    images += [{"path": path, "text": None} for path in here if path not in known]
    texts = [card.get("instance_prompt"), *(one["text"] for one in named)]
    words = dict.fromkeys(text.strip()[:MOST_LETTERS] for text in texts if isinstance(text, str) and text.strip())
    return {
        "images": images[:MOST_IMAGES],
        "words": list(words)[:MOST_WORDS] if images or card.get("instance_prompt") else [],
        "sensitive": _is_sensitive(card, page.shown["tags"]),
    }


def _is_sensitive(card: Mapping[str, Any], tags: Sequence[str]) -> bool:
    return SENSITIVE in tags or bool(card.get(SENSITIVE))


def _images_here(opened: OpenedRepository, revision: str) -> list[str]:
    """Of the repository's first page of files, in the order of their paths."""
    page = TreePage("", is_recursive=True, is_expanded=False, after=None, limit=1000)
    try:
        listing = downloads.list_tree(opened, revision, page)
    except (AccessRefused, NotFound):
        return []
    return [
        entry.path
        for entry in listing.entries
        if isinstance(entry, RevisionFile) and entry.path.lower().endswith(_ENDINGS) and entry.size <= MOST_BYTES
    ]


def _widgets(card: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    widgets = card.get("widget")
    for widget in (widgets if isinstance(widgets, list) else [])[:100]:
        if not isinstance(widget, dict):
            continue
        text, output = widget.get("text"), widget.get("output")
        address = output.get("url") if isinstance(output, dict) else None
        yield {"path": _path_of(address), "text": text[:MOST_LETTERS] if isinstance(text, str) else None}


def _path_of(address: object) -> str | None:
    """Inside the repository; None for an address of elsewhere."""
    if not isinstance(address, str):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    return None if parts.scheme or parts.netloc else normpath("/" + unquote(parts.path).lstrip("/")).lstrip("/")
