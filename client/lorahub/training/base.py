"""The base that is trained on: a folder, `hf:org/name[@revision]`, or a repository here; every byte hashed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorahub.adapters.base_model import BaseLayout
from lorahub.adapters.beside import facts_beside
from lorahub.adapters.files import FolderFiles
from lorahub.errors import BaseNotFound, InvalidReference
from lorahub.hub.bases import hash_folder
from lorahub.hub.hub import Hub
from lorahub.hub.progress import Progress
from lorahub.hub.sources import is_of_a_model, local_place


@dataclass(frozen=True, slots=True)
class Base:
    """`name` is what the adapter will call it; a folder without one goes by its path."""

    folder: Path
    name: str | None
    revision: str | None

    @property
    def shown(self) -> str:
        return self.name or str(self.folder)

    def hashed(self, progress: Progress) -> BaseLayout:
        """With the digest of every tensor and every file. Raises `InvalidBaseModel`."""
        base = hash_folder(self.folder, progress)
        names = base.names if self.name is None else frozenset({self.name})
        return replace(base, name=self.name, names=names, revision=self.revision)

    def facts(self, chat_template: str | None = None) -> dict[str, Any]:
        """What an adapter depends on beside the weights, null where there is none. `chat_template` is a file that
        stands for the tokenizer's own.
        """
        own = {} if chat_template is None else {"chat_template": sha256_of(Path(chat_template))}
        beside = facts_beside(FolderFiles(self.folder))
        return {"config": sha256_of(self.folder / "config.json"), **beside, **own}


def find_base(spec: str, name: str | None, hub: Callable[[], Hub]) -> Base:
    """Fetches what isn't here. Raises `BaseNotFound`, and what `Sources.fetch` does."""
    missing = BaseNotFound(f"{spec} is no folder here", hint="name a folder, hf:org/name, or namespace/name")
    folder = local_place(spec)
    if folder is not None:
        if not folder.is_dir():
            raise missing
        return Base(folder, name, None)
    try:
        with hub() as registry:
            fetched = registry.sources.fetch(spec, is_of_a_model)
    except InvalidReference:
        raise missing from None
    assert fetched.contents is not None  # it isn't local
    if not (fetched.folder / "config.json").is_file():
        raise BaseNotFound(f"{spec} holds no model to train on", hint="name the base, not an adapter of it")
    return Base(fetched.folder, name or fetched.contents.repository, fetched.contents.commit)


def sha256_of(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
