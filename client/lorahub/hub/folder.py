"""What of a folder is pushed: the files of an adapter or a model, and nothing that was never meant to leave.

Symbolic links, hidden files, keys and pickles stay; each with its reason, so that nothing is missing by surprise.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorahub.adapters.file_kinds import SNIFF_BYTES, check_file
from lorahub.errors import InvalidPath, LorahubError, UnsafeFile, UsageFault
from lorahub.protocol.digests import Sha256
from lorahub.protocol.paths import check_tree, parse_path

PIECE_BYTES = 1 << 20

_PUSHED_SUFFIXES = tuple(
    ".safetensors .gguf .json .jsonl .md .txt .yaml .yml .toml .model .tiktoken .jinja .spm .vocab .bpe "
    ".png .jpg .jpeg .webp .gif .svg .csv .tsv .py .sig".split()
)
_PUSHED_NAMES = frozenset({"LICENSE", "NOTICE", "README", "USE_POLICY", "merges.txt", "vocab.txt"})
_SECRET_SUFFIXES = (".pem", ".key", ".p12", ".pfx", ".keystore", ".kdbx")
_SECRET_NAMES = frozenset({"id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "credentials.json", "tokens.toml", "token"})
_LEFT_FOLDERS = frozenset({"__pycache__", "wandb", "runs", "node_modules"})


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: str
    source: Path
    size: int


@dataclass(frozen=True, slots=True)
class Left:
    """A file that stays here, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Listing:
    files: tuple[LocalFile, ...]
    left: tuple[Left, ...]


def list_folder(folder: Path) -> Listing:
    """Raises `UsageFault` where there is nothing to push, `UnsafeFile` where all the weights are pickles."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise UsageFault(f"{folder} {what}", hint="name the folder that holds the adapter or the model")
    _refuse_unfinished(folder)
    files: list[LocalFile] = []
    left: list[Left] = []
    refused: LorahubError | None = None
    for source in _walk(folder):
        path = source.relative_to(folder).as_posix()
        try:
            why = _why_left(path, source)
        except (UnsafeFile, InvalidPath) as error:
            refused, why = error, error.message
        if why is None:
            files.append(LocalFile(path, source, source.stat().st_size))
        else:
            left.append(Left(path, why))
    _require_weights(folder, files, refused)
    check_tree(parse_path(file.path) for file in files)
    return Listing(tuple(files), tuple(left))


def _refuse_unfinished(folder: Path) -> None:
    """What `lorahub train` keeps beside the adapters of a run shows that it hasn't ended."""
    if (folder / ".training").is_dir():
        whole = sorted(path.name for kind in ("best-*", "last-*") for path in folder.glob(kind))
        raise UsageFault(
            f"{folder} holds a run that didn't end",
            hint="go on with it: lorahub train … --resume auto" + (f"; or push {', '.join(whole)}" if whole else ""),
        )


def _require_weights(folder: Path, files: Sequence[LocalFile], refused: LorahubError | None) -> None:
    has_weights = any(file.path.endswith((".safetensors", ".gguf")) for file in files)
    if not has_weights and isinstance(refused, UnsafeFile):
        raise refused
    if not files:
        raise UsageFault(f"{folder} holds nothing to push", hint="an adapter has adapter_config.json and *.safetensors")


def _walk(folder: Path) -> Iterator[Path]:
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not (Path(top) / name).is_symlink() and name not in _LEFT_FOLDERS
        )
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(names):
            yield Path(top) / name


def _why_left(path: str, source: Path) -> str | None:
    name = source.name
    parse_path(path)
    if source.is_symlink():
        return "a symbolic link"
    if name.startswith("."):
        return "a hidden file"
    if name.lower() in _SECRET_NAMES or name.lower().endswith(_SECRET_SUFFIXES):
        return "looks like a secret"
    with source.open("rb") as file:
        check_file(path, file.read(SNIFF_BYTES))
    if name in _PUSHED_NAMES or name.lower().endswith(_PUSHED_SUFFIXES):
        return None
    return "not a file that adapters and models have"


def hash_file(source: Path, advance: Callable[[int], None]) -> Sha256:
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            advance(len(piece))
    return Sha256(digest.hexdigest())
