"""What of a folder is pushed: the files of an adapter or a model, and nothing that was never meant to leave.

Hidden files, keys, pickles and by-products of training stay; each with its reason, so that nothing is missing by
surprise. A link to a file is that file, if it may go under both names.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lorahub.adapters.content import Content
from lorahub.adapters.file_kinds import check_file, is_by_product, is_known
from lorahub.adapters.reader import CONFIG
from lorahub.adapters.safetensors_header import range_reader
from lorahub.errors import InvalidPath, InvalidUsage, Refusal, UnsafeFile
from lorahub.protocol.digests import Sha256
from lorahub.protocol.paths import check_tree, parse_path

PIECE_BYTES = 1 << 20

_SECRET_SUFFIXES = (".pem", ".key", ".p12", ".pfx", ".keystore", ".kdbx")
_SECRET_NAMES = frozenset({"id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "credentials.json", "tokens.toml", "token"})
_SECRET_FOLDERS = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".docker", ".config"})
_LEFT_FOLDERS = frozenset({"__pycache__", "wandb", "runs", "node_modules"})
_WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: str
    source: Path
    size: int
    content: bytes | None = None
    """What is sent in place of the source's bytes: composed for the push."""

    @property
    def target(self) -> Path | None:
        """Where a link leads."""
        return self.source.resolve() if self.content is None and self.source.is_symlink() else None

    def open(self) -> BinaryIO:
        return self.source.open("rb", buffering=0) if self.content is None else io.BytesIO(self.content)


@dataclass(frozen=True, slots=True)
class Left:
    """A file that stays here, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Listing:
    files: tuple[LocalFile, ...]
    left: tuple[Left, ...]
    refusals: Mapping[str, Refusal]
    """Why those that must stay are refused."""


def list_to_push(folder: Path, composed: Mapping[str, bytes] | None = None) -> Listing:
    """As `list_folder`. Raises `InvalidUsage` where there is nothing to push, weights would stay, or a run of `train`
    hasn't ended; `UnsafeFile` where all weights are pickles.
    """
    _refuse_unfinished(folder)
    listing = list_folder(folder, composed)
    _require_weights(folder, listing)
    return listing


def list_folder(folder: Path, composed: Mapping[str, bytes] | None = None) -> Listing:
    """What would be sent; `composed` files take the place of those in the folder. Raises `InvalidUsage`."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise InvalidUsage(f"{folder} {what}", hint="name the folder that holds the adapter or the model")
    made = [LocalFile(path, folder / path, len(content), content) for path, content in (composed or {}).items()]
    files: dict[str, LocalFile] = {}
    left: list[Left] = []
    refusals: dict[str, Refusal] = {}
    for source in _walk(folder):
        path = source.relative_to(folder).as_posix()
        try:
            why = _why_left(path, source)
        except (UnsafeFile, InvalidPath) as error:
            refusals[path], why = error, error.message
        if why is None:
            files[path] = LocalFile(path, source, source.stat().st_size)
        else:
            left.append(Left(path, why))
    files.update({file.path: file for file in made})
    check_tree(parse_path(path) for path in files)
    return Listing(tuple(files[path] for path in sorted(files)), tuple(left), refusals)


def _refuse_unfinished(folder: Path) -> None:
    """What `lorahub train` keeps beside the adapters of a run shows that it hasn't ended."""
    if (folder / ".training").is_dir():
        whole = sorted(path.name for kind in ("best-*", "last-*") for path in folder.glob(kind))
        raise InvalidUsage(
            f"{folder} holds a run that didn't end",
            hint="go on with it: lorahub train … --resume auto" + (f"; or push {', '.join(whole)}" if whole else ""),
        )


def _require_weights(folder: Path, listing: Listing) -> None:
    """An adapter is its weights: it isn't pushed without some of them, whatever the reason."""
    for left in listing.left:
        if left.path.lower().endswith(_WEIGHTS) and left.why != _HIDDEN:
            raise listing.refusals.get(left.path) or InvalidUsage(
                f"{left.path} would stay here: {left.why}", hint="a version holds all of its weights, or isn't pushed"
            )
    paths = [file.path for file in listing.files if file.content is None]
    if any(path.lower().endswith(_WEIGHTS) for path in paths):
        return
    if pickled := next((error for error in listing.refusals.values() if isinstance(error, UnsafeFile)), None):
        raise pickled
    if not paths or CONFIG in paths:
        raise InvalidUsage(
            f"{folder} holds {'no weights' if paths else 'nothing to push'}",
            hint="an adapter has adapter_config.json and *.safetensors",
        )


def _walk(folder: Path) -> Iterator[Path]:
    """Files, and links that lead to folders; what is behind those is somebody else's."""
    for top, folders, names in os.walk(folder):
        inside = [name for name in sorted(folders) if name not in _LEFT_FOLDERS and not name.startswith(".")]
        links = [name for name in inside if (Path(top) / name).is_symlink()]
        folders[:] = [name for name in inside if name not in links]
        for name in sorted([*names, *links]):
            yield Path(top) / name


_HIDDEN = "a hidden file"


def _why_left(path: str, source: Path) -> str | None:
    """Judged by its name, and where it is a link, by that of what it leads to as well."""
    parse_path(path)
    target = source.resolve()
    if source.name.startswith("."):
        return _HIDDEN
    if not target.is_file():
        return f"a link to {'a folder' if target.is_dir() else 'nothing'}"
    if _looks_secret(source.name) or _looks_secret(target.name) or not _SECRET_FOLDERS.isdisjoint(target.parts):
        return "looks like a secret"
    if is_by_product(path):
        return "a by-product of training; nothing that loads an adapter reads it"
    with source.open("rb") as file:
        check_file(path, Content(range_reader(file), target.stat().st_size))
    return None if is_known(path) else "not a file that adapters and models have"


def _looks_secret(name: str) -> bool:
    return name.lower() in _SECRET_NAMES or name.lower().endswith(_SECRET_SUFFIXES)


def hash_file(file: LocalFile, advance: Callable[[int], None]) -> Sha256:
    digest = hashlib.sha256()
    with file.open() as source:
        while piece := source.read(PIECE_BYTES):
            digest.update(piece)
            advance(len(piece))
    return Sha256(digest.hexdigest())
