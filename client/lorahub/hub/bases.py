"""Base models by what people write: what `Sources` reads, and by any name what is registered.

What a registry said of a base is kept in the cache, so that the next check needs no network.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lorahub.adapters.adapter_config import is_hub_id
from lorahub.adapters.base_model import BaseLayout, base_from_text, places_of, read_base, weight_files
from lorahub.adapters.files import Files, FolderFiles
from lorahub.errors import (
    BaseNotFound,
    InvalidBaseModel,
    InvalidReference,
    InvalidUsage,
    NotFound,
    RegistryFailed,
    RepositoryNotFound,
    TooManyRequests,
    Unavailable,
)
from lorahub.hub.progress import Progress
from lorahub.hub.remote_files import RemoteFiles
from lorahub.hub.sources import Origin, Sources, local_place, not_here, suggest_offline
from lorahub.protocol.messages.bases import BaseDocument
from lorahub.protocol.messages.message import parse
from lorahub.protocol.references import Reference

OWN = "/api/lorahub/v1/bases"

_ALL = "*"
"""In place of a revision: every one that is known."""
_READ_BYTES = 4 << 20
_HASHERS = 4


@dataclass(frozen=True, slots=True)
class OpenedBase:
    """A base and what it cost to read it."""

    base: BaseLayout
    origin: str
    bytes_read: int = 0
    files: Files | None = None
    """Where it was read from; None where a registry said what it is."""


class Bases:
    """Finds bases, from headers alone."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def open(self, spec: str) -> OpenedBase:
        """Raises `InvalidBaseModel`, `BaseNotFound`, and what `Sources.open` does."""
        if local_place(spec) is not None:
            folder = self._sources.open(spec)
            return OpenedBase(read_base(folder), "folder", files=folder)
        reference = self._reference(spec)
        origin = self._sources.origin_of(reference)
        if origin.is_registry and (known := self._registered(origin, spec, reference)) is not None:
            return OpenedBase(base_from_document(known), "registry" if origin.closed_by is None else "cache")
        if reference is None:
            raise _unknown(origin, spec)
        return self._of_files(origin, spec, reference)

    def revisions(self, spec: str) -> list[OpenedBase]:
        """Every base that the name stands for, newest first: all that a registry knows by it, where it names no
        revision; else the one. Raises what `open` does.
        """
        if local_place(spec) is not None:
            return [self.open(spec)]
        reference = self._reference(spec)
        origin = self._sources.origin_of(reference)
        if not origin.is_registry or "@" in spec or spec.startswith("sha256:"):
            return [self.open(spec)]
        known = self._all_registered(origin, spec, _registered_as(spec, reference))
        where = "registry" if origin.closed_by is None else "cache"
        return [OpenedBase(base_from_document(one), where) for one in known] or [self.open(spec)]

    def _all_registered(self, origin: Origin, spec: str, name: str) -> list[Any]:
        """What the registry knows, or knew; a registry of an earlier version knows one by each name."""
        kept = origin.cache.recall_base(name, _ALL)
        if origin.closed_by is not None:
            if kept is not None:
                self._sources.say_as_of(f"{spec} is as the registry knew it", kept[1])
            return kept[0] if kept else []
        try:
            documents = list(origin.connect().rows(f"{OWN}/{quote(name)}/revisions"))
        except NotFound:
            return []
        except (Unavailable, TooManyRequests) as error:
            if kept is not None:
                suggest_offline(error)
            raise
        if documents:
            origin.cache.remember_base(name, _ALL, documents)
            origin.cache.remember_base(name, "", documents[0])  # what the plain name is, without a network
        return documents

    def _reference(self, spec: str) -> Reference | None:
        """None for a name that only a registered base can have: gpt2, sha256:…"""
        try:
            return self._sources.reference(spec)
        except InvalidReference:
            if not is_hub_id(spec.partition("@")[0].removeprefix("sha256:")):
                raise
            return None

    def _registered(self, origin: Origin, spec: str, reference: Reference | None) -> Any:
        """What the registry knows, or knew, of a base by this name; None where there is none."""
        name, _, revision = _registered_as(spec, reference).partition("@")
        kept = origin.cache.recall_base(name, revision)
        if origin.closed_by is not None:
            if kept is not None and not revision:
                self._sources.say_as_of(f"{spec} is as the registry knew it", kept[1])
            return kept[0] if kept else None
        try:
            query = {"revision": revision} if revision else None
            document = origin.connect().json("GET", f"{OWN}/{quote(name)}", query=query)
        except NotFound:
            return None
        except (Unavailable, TooManyRequests) as error:
            if kept is not None:
                suggest_offline(error)
            raise
        origin.cache.remember_base(name, revision, document)
        return document

    def _of_files(self, origin: Origin, spec: str, reference: Reference) -> OpenedBase:
        """Of a revision that holds weights."""
        try:
            files = self._sources.open(reference)
        except RepositoryNotFound:
            raise _unknown(origin, spec) from None
        assert isinstance(files, RemoteFiles)
        files.warm([path for _, path in weight_files(files)])
        base = read_base(files, name=str(reference.repository), digest=files.sha256)
        where = "repository" if origin.is_registry else "hub"
        return OpenedBase(replace(base, revision=files.commit), where, files.bytes_read, files)


def _registered_as(spec: str, reference: Reference | None) -> str:
    """The name that a registry knows it by, with its revision."""
    return spec if reference is None else str(replace(reference, scheme="lorahub", host=None))


def _unknown(origin: Origin, spec: str) -> InvalidUsage | BaseNotFound:
    if origin.closed_by is not None:
        return not_here(origin, spec, "was never read on this machine")
    name = spec.partition("@")[0]
    hint = f"register it: lorahub base add ./folder {name}; the Hub's is called hf:{spec}"
    return BaseNotFound(
        f"no base is called {spec} at {origin.endpoint}", hint=hint if origin.is_registry else "is it private?"
    )


def read_folder(folder: Path) -> BaseLayout:
    """From headers alone. Raises `InvalidBaseModel`."""
    return read_base(FolderFiles(folder))


# --- weights ----------------------------------------------------------------------------------------------------------


def hash_folder(folder: Path, progress: Progress) -> BaseLayout:
    """The base with the digest of every tensor and every file: each byte is read once, several files at a time.

    Tensors are hashed where they lie; the file's own digest runs beside. Raises `InvalidBaseModel`, `OSError`.
    """
    files = FolderFiles(folder)
    read_base(files)  # what can't be read needn't be hashed
    paths = weight_files(files)
    total = sum(files.sizes[path] for _, path in paths)
    progress.begin(f"hashing {folder.name}", total)
    with ThreadPoolExecutor(_HASHERS) as pool:
        jobs = [pool.submit(_hash_file, files, prefix, path, progress.advance) for prefix, path in paths]
        results = [job.result() for job in jobs]
    progress.end()
    sums = {name: digest for tensors, _ in results for name, digest in tensors.items()}
    whole = {path: digest for (_, path), (_, digest) in zip(paths, results, strict=True)}
    return read_base(files, digest=whole.get, sums=sums)


def _hash_file(
    files: FolderFiles, prefix: str, path: str, advance: Callable[[int], None]
) -> tuple[dict[str, str], str]:
    whole = hashlib.sha256()
    sums: dict[str, str] = {}
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    with files.path(path).open("rb") as file, ThreadPoolExecutor(1) as beside:
        for name, size in _pieces(files, path):
            own, left = hashlib.sha256(), size
            while left:
                count = file.readinto(view[: min(left, _READ_BYTES)])
                if not count:
                    raise InvalidBaseModel(f"{path} ends inside {name}", hint="copy the file again")
                job = beside.submit(whole.update, view[:count])
                own.update(view[:count])
                job.result()
                left -= count
                advance(count)
            if name is not None:
                sums[prefix + name] = own.hexdigest()
    return sums, whole.hexdigest()


def _pieces(files: FolderFiles, path: str) -> Iterator[tuple[str | None, int]]:
    """A weight file from its beginning to its end: (tensor, bytes), without a name what lies between."""
    end = 0
    for name, start, stop in sorted(places_of(files, path), key=lambda place: place[1]):
        yield None, start - end
        yield name, stop - start
        end = stop
    yield None, files.sizes[path] - end


# --- documents --------------------------------------------------------------------------------------------------------


def document_of(base: BaseLayout) -> dict[str, Any]:
    """JSON-ready; what the registry takes and gives."""
    return {
        "names": sorted(base.names),
        "revision": base.revision,
        "layout": base.weights_text() or base.layout_text(),
        "layout_digest": base.layout_digest,
        "weights_digest": base.weights_digest,
        "files": dict(base.files),
        "config": dict(base.config),
    }


def base_from_document(document: Any) -> BaseLayout:
    """Raises `RegistryFailed` where it is none, or digests and layout disagree."""
    said = parse(BaseDocument, document, "a base model")
    try:
        base = base_from_text(said.layout, said.config, names=said.names, revision=said.revision, files=said.files)
    except InvalidBaseModel as error:
        raise RegistryFailed(f"the registry sent a base model that can't be right: {error}") from None
    if said.layout_digest not in (None, base.layout_digest):
        raise RegistryFailed("the base's layout has another digest than the registry says")
    return base
