"""Composes the lorahub.json of an adapter that is pushed: what it is, its files, and the digests of its base."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lorahub.adapters.adapter import Adapter
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.manifest import MANIFEST, AdapterManifest, StatedFile, parse_manifest, write_manifest
from lorahub.adapters.reader import CONFIG, read_adapter
from lorahub.errors import InvalidAdapterConfig


def describe(
    folder: Path,
    find: Callable[[str], BaseLayout | None],
    base: BaseLayout | None,
    parents: Sequence[str] | None = None,
) -> bytes | None:
    """What lorahub.json says from now on; None where the one that is there stays, or there is no adapter.

    What is there and still true stays, so that pushing an adapter twice is one version. `find` knows bases by name,
    and is asked for an adapter without a lorahub.json; `base` was named by the caller, and replaces what was recorded;
    so do `parents`, the references that it was made of.
    """
    files = FolderFiles(folder)
    adapter = read_adapter(files)
    if not adapter.has_format or not (adapter.updates or adapter.parts):
        return None
    before, stated = _before(folder / MANIFEST), list(stated_files(files, adapter))
    raw = dict(before.raw) if before else {}
    is_new = base is not None or (parents is not None and raw.get("parents") != list(parents))
    if not is_new and before and stated == list(before.files) and not before.differences(adapter, files):
        return None
    if base is None and before is None and adapter.claim.name:
        base = find(adapter.claim.name)
    if parents is not None:
        raw["parents"] = list(parents)
    return write_manifest(adapter, base, files=stated, before=raw)


def _before(place: Path) -> AdapterManifest | None:
    try:
        return parse_manifest(place.read_bytes()) if place.is_file() else None
    except InvalidAdapterConfig:
        return None


def stated_files(files: FolderFiles, adapter: Adapter) -> Iterator[StatedFile]:
    for path in sorted({CONFIG, adapter.weights_file or CONFIG} & set(files.sizes)):
        with files.path(path).open("rb") as file:
            yield StatedFile(path, files.sizes[path], hashlib.file_digest(file, "sha256").hexdigest())
