"""Merges by name: bases and adapters wherever they are, to a folder here."""

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from lorahub.adapters.base_model import read_base, weight_files
from lorahub.adapters.files import Files, FolderFiles, OpenFolder
from lorahub.hub.contents import Contents
from lorahub.hub.progress import Progress, Silence
from lorahub.hub.sources import Sources, is_of_a_model, is_of_an_adapter
from lorahub.merging.folder import write_model
from lorahub.merging.plan import Device, Ingredients, MergePlan
from lorahub.merging.recipe import Recipe

_HASH_STEP = 4 << 20


class Merger:
    """Opens what a recipe names. Use it as a context manager: it closes what it opened."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def plan(self, recipe: Recipe, *, device: Device | None = None, is_dry: bool = False) -> MergePlan:
        """A dry plan is made from the base's headers, and can't be written.

        Raises what opening raises, and what `MergePlan` does.
        """
        base, base_identity = self._base(recipe.base, is_dry=is_dry)
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

    def base_files(self, spec: str, *, is_dry: bool) -> Files:
        """A base's files; of a dry one, the headers are at hand and all else is fetched when it is read."""
        return self._base(spec, is_dry=is_dry)[0]

    # --- sources ------------------------------------------------------------------------------------------------------

    def _base(self, spec: str, *, is_dry: bool) -> tuple[Files, Mapping[str, Any]]:
        return self._headers(spec) if is_dry else self._whole(spec)

    def _whole(self, spec: str) -> tuple[Files, Mapping[str, Any]]:
        fetched = self._sources.fetch(spec, is_of_a_model)
        files = OpenFolder(fetched.folder)
        self._opened.callback(files.close)
        return files, _identity(files, fetched.contents)

    def _headers(self, spec: str) -> tuple[Files, Mapping[str, Any]]:
        files = self._sources.open(spec)
        if isinstance(files, FolderFiles):
            return files, _identity(files, None)
        files.warm([path for _, path in weight_files(files)])
        return files, _identity(files, files.contents)

    def _adapter(self, spec: str) -> tuple[Files, Mapping[str, Any]]:
        files = FolderFiles(self._sources.fetch(spec, is_of_an_adapter).folder)
        return files, {"files": {path: _sha256(files, path) for path in sorted(files.sizes) if _counts(path)}}


def _identity(base: Files, contents: Contents | None) -> Mapping[str, Any]:
    """The digests of its weights where a hub says them, its commit where it doesn't; the shapes of a folder."""
    if contents is None:
        return {"layout": read_base(base).layout_digest}
    known = {file.path: file.sha256 for file in contents.files}
    sums = {path: known.get(path) for _, path in weight_files(base)}
    return {"files": sums} if all(sums.values()) else {"commit": contents.commit}


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
