"""Base models by what people write: a folder, `hf:org/name@rev`, a name or a repository of the registry.

What was read over the network is kept, so that the next check needs none: `<cache>/bases/<sha256 of the spec>.json`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorahub.adapters.base_model import BaseModel, base_from_text, read_base, weight_files
from lorahub.adapters.files import FolderFiles, header_of
from lorahub.errors import (
    InvalidBaseModel,
    InvalidUsage,
    LorahubError,
    NotFound,
    RegistryFailed,
    TooManyRequests,
    Unavailable,
)
from lorahub.hub.configuration import Configuration
from lorahub.hub.progress import Progress
from lorahub.protocol.references import Reference, is_local, local_path

if TYPE_CHECKING:  # to import HTTP takes longer than to check or merge what lies here
    from lorahub.hub.remote_files import RemoteFiles
    from lorahub.hub.transport import Transport

OWN = "/api/lorahub/v1/bases"

_READ_BYTES = 4 << 20
_HASHERS = 4


@dataclass(frozen=True, slots=True)
class OpenedBase:
    """A base and what it cost to read it."""

    base: BaseModel
    origin: str
    bytes_read: int = 0


class Bases:
    """Finds bases. `transport` leads to the registry, and is only made when a name needs it."""

    def __init__(self, settings: Configuration, transport: "Callable[[], Transport]") -> None:
        self._settings = settings
        self._transport = transport
        self._folder = settings.cache_folder / "bases"

    def open(self, spec: str) -> OpenedBase:
        """Raises `InvalidBaseModel`, `NotFound`, and what the network says."""
        if is_folder(spec):
            return OpenedBase(read_folder(local_path(spec)), "folder")
        if self._settings.flag("offline"):
            return self._kept(spec)
        try:
            opened = self._from_hub(spec) if spec.startswith("hf:") else self._from_registry(spec)
        except (Unavailable, TooManyRequests) as error:
            return self._kept(spec, because=error)
        self._keep(spec, opened.base)
        return opened

    # --- where from ---------------------------------------------------------------------------------------------------

    def _from_hub(self, spec: str) -> OpenedBase:
        from lorahub.hub.remote_files import RemoteFiles

        reference = Reference.parse(spec)
        with hub_transport(self._settings) as hub:
            files = RemoteFiles(hub, str(reference.repository), reference.revision or "main")
            return self._remote(files, str(reference.repository), "hub")

    def _from_registry(self, spec: str) -> OpenedBase:
        """A registered base by this name, else a repository of the registry that holds weights."""
        from lorahub.hub.remote_files import RemoteFiles

        transport = self._transport()
        name, _, revision = spec.partition("@")
        query = {"revision": revision} if revision else None
        try:
            document = transport.json("GET", f"{OWN}/{_path(name)}", query=query)
            return OpenedBase(base_from_document(document), "registry")
        except NotFound:
            reference = Reference.parse(spec)
        try:
            files = RemoteFiles(transport, str(reference.repository), reference.revision or "main")
        except NotFound:
            raise NotFound(
                f"no base is called {spec}",
                hint=f"register it: lorahub base add hf:{name}, or lorahub base add ./folder {name}",
            ) from None
        return self._remote(files, str(reference.repository), "repository")

    @staticmethod
    def _remote(files: "RemoteFiles", name: str, origin: str) -> OpenedBase:
        files.warm([path for _, path in weight_files(files)])
        base = read_base(files, name=name, digest=files.sha256)
        return OpenedBase(replace(base, revision=files.commit), origin, files.bytes_read)

    # --- kept ---------------------------------------------------------------------------------------------------------

    def _place(self, spec: str) -> Path:
        return self._folder / f"{hashlib.sha256(spec.encode()).hexdigest()}.json"

    def _keep(self, spec: str, base: BaseModel) -> None:
        place = self._place(spec)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(document_of(base)))
        part.replace(place)

    def _kept(self, spec: str, *, because: LorahubError | None = None) -> OpenedBase:
        try:
            return OpenedBase(base_from_document(json.loads(self._place(spec).read_text())), "cache")
        except (OSError, ValueError):
            if because is not None:
                raise because from None
            raise InvalidUsage(
                f"{spec} was never read on this machine, and LORAHUB_OFFLINE is set",
                hint=f"run once with the network: lorahub base info {spec}",
            ) from None


def hub_transport(settings: Configuration) -> "Transport":
    """To the public Hub; a project's file may name another one, but doesn't get the user's token for it."""
    from lorahub.hub.transport import Transport

    token = None if settings.values["hf_endpoint"].is_from_project else os.environ.get("HF_TOKEN")
    return Transport(settings.text("hf_endpoint"), token, timeout=settings.timeout)


def is_folder(spec: str) -> bool:
    return is_local(spec) or (not spec.startswith(("hf:", "lorahub:")) and Path(spec).exists())


def read_folder(folder: Path) -> BaseModel:
    """From headers alone. Raises `InvalidBaseModel`."""
    if not folder.exists():
        raise InvalidBaseModel(f"{folder} isn't there", hint="name a folder with model.safetensors, or hf:org/name")
    return read_base(FolderFiles(folder))


# --- weights ----------------------------------------------------------------------------------------------------------


def hash_folder(folder: Path, progress: Progress) -> BaseModel:
    """The base with the digest of every tensor and every file: each byte is read once, several files at a time.

    Tensors are hashed where they lie; the file's own digest runs beside. Raises `InvalidBaseModel`, `OSError`.
    """
    base = read_folder(folder)
    files = FolderFiles(folder)
    paths = weight_files(files)
    total = sum(files.sizes[path] for _, path in paths)
    progress.begin(f"hashing {folder.name}", total)
    with ThreadPoolExecutor(_HASHERS) as pool:
        jobs = [pool.submit(_hash_file, files, prefix, path, progress.advance) for prefix, path in paths]
        results = [job.result() for job in jobs]
    progress.end()
    sums = {name: digest for tensors, _ in results for name, digest in tensors.items()}
    tensors = {name: replace(tensor, sha256=sums.get(name)) for name, tensor in base.tensors.items()}
    whole = {path: digest for (_, path), (_, digest) in zip(paths, results, strict=True)}
    return replace(base, tensors=tensors, files=whole)


def _hash_file(
    files: FolderFiles, prefix: str, path: str, advance: Callable[[int], None]
) -> tuple[dict[str, str], str]:
    header = header_of(files, path, allow_empty=True)
    whole = hashlib.sha256()
    sums: dict[str, str] = {}
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    with files.path(path).open("rb") as file, ThreadPoolExecutor(1) as beside:
        whole.update(file.read(header.data_start))
        advance(header.data_start)
        for entry in header.tensors:
            own, left = hashlib.sha256(), entry.stop - entry.start
            while left:
                count = file.readinto(view[: min(left, _READ_BYTES)])
                if not count:
                    raise InvalidBaseModel(f"{path} ends inside {entry.name}", hint="copy the file again")
                job = beside.submit(whole.update, view[:count])
                own.update(view[:count])
                job.result()
                left -= count
                advance(count)
            sums[prefix + entry.name] = own.hexdigest()
    return sums, whole.hexdigest()


# --- documents --------------------------------------------------------------------------------------------------------


def document_of(base: BaseModel) -> dict[str, Any]:
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


def base_from_document(document: Any) -> BaseModel:
    """Raises `RegistryFailed` where digests and layout disagree."""
    if not isinstance(document, Mapping) or not isinstance(document.get("layout"), str):
        raise RegistryFailed("the answer is no base model")
    files, config, names = (document.get(key) for key in ("files", "config", "names"))
    base = base_from_text(
        document["layout"],
        config if isinstance(config, dict) else {},
        names=[name for name in names if isinstance(name, str)] if isinstance(names, list) else [],
        revision=document.get("revision"),
        files={str(key): str(value) for key, value in files.items()} if isinstance(files, dict) else {},
    )
    if document.get("layout_digest") not in (None, base.layout_digest):
        raise RegistryFailed("the base's layout has another digest than the registry says")
    return base


def _path(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="/")
