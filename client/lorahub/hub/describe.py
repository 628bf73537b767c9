"""Composes the lorahub.json of an adapter that is pushed: what it is, its files, and the digests of its base."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lorahub.adapters.adapter import Adapter, BaseClaim
from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.files import FolderFiles
from lorahub.adapters.manifest import MANIFEST, AdapterManifest, StatedFile, parse_manifest, write_manifest
from lorahub.adapters.reader import CONFIG, read_adapter
from lorahub.conversion import refusal
from lorahub.errors import InvalidAdapterConfig


def describe(folder: Path, bases: Sequence[BaseLayout], parents: Sequence[str] | None = None) -> bytes | None:
    """What lorahub.json says from now on; None where the one that is there stays, or there is no adapter.

    What is there and still true stays, so that pushing an adapter twice is one version. `bases` is what the caller
    named, and replaces what was recorded: one, with its digests, or several by one name, of which the name is all that
    was said; so do `parents`, the references that it was made of. What nobody named is not looked up: a digest that is
    recorded is its maker's word.
    """
    files = FolderFiles(folder)
    adapter = read_adapter(files)
    if not adapter.has_format or not (adapter.updates or adapter.parts):
        return None
    before, stated = _before(folder / MANIFEST), list(stated_files(files, adapter))
    raw = dict(before.raw) if before else {}
    is_new = bool(bases) or (parents is not None and raw.get("parents") != list(parents))
    if not is_new and before and stated == list(before.files) and not before.differences(adapter, files):
        return None
    if len(bases) > 1:
        adapter = replace(adapter, claim=BaseClaim(bases[0].name))
    if parents is not None:
        raw["parents"] = list(parents)
    return write_manifest(adapter, bases[0] if len(bases) == 1 else None, refusal, files=stated, before=raw)


def _before(place: Path) -> AdapterManifest | None:
    try:
        return parse_manifest(place.read_bytes()) if place.is_file() else None
    except InvalidAdapterConfig:
        return None


def stated_files(files: FolderFiles, adapter: Adapter) -> Iterator[StatedFile]:
    for path in sorted({CONFIG, adapter.weights_file or CONFIG} & set(files.sizes)):
        with files.path(path).open("rb") as file:
            yield StatedFile(path, files.sizes[path], hashlib.file_digest(file, "sha256").hexdigest())
