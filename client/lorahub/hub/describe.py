"""Writes lorahub.json beside an adapter before it is pushed: what it is, and the digests of its base."""

from collections.abc import Callable
from pathlib import Path

from lorahub.adapters.base_model import BaseModel
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.manifest import MANIFEST, write_manifest
from lorahub.adapters.reader import read_adapter


def describe(folder: Path, find: Callable[[str], BaseModel | None], base: BaseModel | None) -> bool:
    """Whether lorahub.json was written.

    What is there and still true stays, so that the same adapter pushed twice is the same version. `find` knows bases by
    name; `base` was named by the caller, and then its digests replace those that are there.
    """
    adapter = read_adapter(FolderFiles(folder))
    if not folder.is_dir() or adapter.format == "unknown" or not (adapter.updates or adapter.parts):
        return False
    place = folder / MANIFEST
    is_true = place.is_file() and not any(found.rule in ("LH309", "LH305") for found in adapter.findings)
    if is_true and base is None:
        return False
    if base is None and adapter.claim.name and not adapter.claim.layout:
        base = find(adapter.claim.name)
    content = write_manifest(adapter, base)
    if place.is_file() and place.read_bytes() == content:
        return False
    part = folder / f".{MANIFEST}.part"
    part.write_bytes(content)
    part.replace(place)
    return True
