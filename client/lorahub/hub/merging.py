"""Merges by name: bases and adapters wherever they are, to a folder here."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from lorahub.adapters.base_model import read_base, weight_files
from lorahub.adapters.files import Files, FolderFiles, OpenFolder
from lorahub.errors import InvalidBaseModel, InvalidInput
from lorahub.hub.bases import hub_transport, is_folder
from lorahub.hub.configuration import Configuration
from lorahub.hub.progress import Progress, Silence
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Device, Ingredients, MergePlan
from lorahub.merging.recipe import Recipe
from lorahub.protocol.references import Reference, local_path

if TYPE_CHECKING:
    from lorahub.hub.remote_files import RemoteFiles
    from lorahub.hub.transport import Transport

_AHEAD = 8 << 20
_HASH_STEP = 4 << 20


class Registry(Protocol):
    """What a merge needs of `hub.Hub`."""

    @property
    def transport(self) -> "Transport": ...

    def fetch(self, reference: str) -> Path:
        """The folder in the cache that holds a revision."""
        ...


class Merger:
    """Opens what a recipe names. `registry` is asked only where a name needs it."""

    def __init__(self, settings: Configuration, registry: Callable[[], Registry]) -> None:
        self._settings = settings
        self._open = registry
        self._public: Transport | None = None
        self._opened = ExitStack()
        self._own: Registry | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def _registry(self) -> Registry:
        if self._own is None:
            self._own = self._open()
        return self._own

    def plan(self, recipe: Recipe, *, device: Device | None = None) -> MergePlan:
        """Raises what opening raises, and what `MergePlan` does."""
        base, base_identity = self._base(recipe.base)
        adapters = [self._adapter(one.source) for one in recipe.adapters]
        identities = {"base": base_identity, "adapters": [identity for _, identity in adapters]}
        return MergePlan(recipe, Ingredients(base, [files for files, _ in adapters], identities), device=device)

    def write(
        self, plan: MergePlan, folder: Path, *, threads: int | None = None, progress: Progress | None = None
    ) -> Path:
        """Raises `AlreadyExists`, `DiskFull`, `NotMergeable`."""
        shown = progress or Silence()
        total = sum(file.size for file in plan.weights.values())
        shown.begin("merging", total)
        made = write_model(
            plan, folder, threads=threads, fingerprint=_fingerprint(plan.base_files), progress=shown.advance
        )
        shown.end()
        return made

    def adapter_files(self, spec: str) -> Files:
        """An adapter's files, wherever they are."""
        return self._adapter(spec)[0]

    # --- sources ------------------------------------------------------------------------------------------------------

    def _base(self, spec: str) -> tuple[Files, Mapping[str, Any]]:
        if is_folder(spec):
            folder = local_path(spec)
            if not folder.exists():
                raise InvalidBaseModel(f"{folder} isn't there", hint="name a folder with model.safetensors")
            files = OpenFolder(folder)
            self._opened.callback(files.close)
            return files, {"layout": read_base(files).layout_digest}
        remote = self._remote(spec)
        remote.warm([path for _, path in weight_files(remote)])
        sums = {path: remote.sha256(path) for _, path in weight_files(remote)}
        identity = {"files": sums} if all(sums.values()) else {"commit": remote.commit}
        return Ahead(remote), identity

    def _adapter(self, spec: str) -> tuple[Files, Mapping[str, Any]]:
        if is_folder(spec):
            place = local_path(spec)
            if not place.exists():
                raise InvalidInput(f"{place} isn't there", hint="name a folder with an adapter, or namespace/name")
            files = FolderFiles(place)
        elif spec.startswith("hf:"):
            remote = self._remote(spec)
            return Ahead(remote), {"commit": remote.commit}
        else:
            files = FolderFiles(self._registry.fetch(spec))
        return files, {"files": {path: _sha256(files, path) for path in sorted(files.sizes) if _counts(path)}}

    def _remote(self, spec: str) -> "RemoteFiles":
        from lorahub.hub.remote_files import RemoteFiles

        reference = Reference.parse(spec)
        if not spec.startswith("hf:"):
            return RemoteFiles(self._registry.transport, str(reference.repository), reference.revision or "main")
        if self._public is None:
            self._public = self._opened.enter_context(hub_transport(self._settings))
        return RemoteFiles(self._public, str(reference.repository), reference.revision or "main")


class Ahead:
    """Remote files read in large pieces, of which each thread keeps its last."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.sizes = files.sizes
        self._kept = threading.local()

    def read(self, path: str, start: int, stop: int) -> bytes:
        name, begin, piece = getattr(self._kept, "piece", ("", 0, b""))
        if name != path or not (begin <= start and stop <= begin + len(piece)):
            if stop - start < 1 << 16:
                return self._files.read(path, start, stop)
            begin, piece = start, self._files.read(path, start, min(self.sizes[path], max(stop, start + _AHEAD)))
            self._kept.piece = (path, begin, piece)
        return bytes(memoryview(piece)[start - begin : stop - begin])

    def sha256(self, path: str) -> str | None:
        return self._files.sha256(path)


def _counts(path: str) -> bool:
    """Whether a file of an adapter changes the result."""
    return path.endswith((".safetensors", ".gguf", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"))


def _sha256(files: Files, path: str) -> str:
    digest = hashlib.sha256()
    for start in range(0, files.sizes[path], _HASH_STEP):
        digest.update(files.read(path, start, start + _HASH_STEP))
    return digest.hexdigest()


def _fingerprint(files: Files) -> str:
    """Of a folder, whose digests nobody knows: names, sizes and times of change."""
    if not isinstance(files, FolderFiles):
        return ""
    states = [(path, size, files.path(path).stat().st_mtime_ns) for path, size in sorted(files.sizes.items())]
    return hashlib.sha256(repr(states).encode()).hexdigest()
