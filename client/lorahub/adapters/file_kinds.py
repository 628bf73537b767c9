"""What may be stored: a table of three kinds of files, by name and by content.

- By-products of trainers, which nothing that loads an adapter reads, are left out; the rest is published without them.
- Pickles run code when they are loaded: the weights that loaders open by themselves, known by name, and whatever has a
  pickle's content under any name, are refused.
- All else is content like any other. A registry may be told to take only what adapters and models have.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase, translate
from posixpath import splitext
from typing import Literal

from lorahub.adapters import archives
from lorahub.adapters.archives import ArchiveMember, UnclearArchive
from lorahub.adapters.content import Content
from lorahub.adapters.pickles import holds_objects, is_pickle
from lorahub.errors import UnsafeFile

Taken = Literal["any", "known"]
"""Of files that are neither of the first two kinds: all, or those that adapters and models have."""

_BY_PRODUCTS = (
    *("training_args.bin", "optimizer*.pt", "scheduler*.pt", "scaler*.pt", "rng_state*.pth"),  # transformers' Trainer
    *("rank*-of-*-optimizer.pt", "user_content.pt"),  # on TPUs and SageMaker
    *("optimizer*.bin", "scheduler*.bin", "sampler*.bin", "dl_state_dict*.bin"),  # Accelerate, and trainers on it
    *("random_states*.pkl", "custom_checkpoint*.pkl"),
    *("*_optim_states.pt", "*_model_states.pt"),  # DeepSpeed
    *("pytorch_model_fsdp*.bin", "*.distcp", ".metadata"),  # FSDP and torch's distributed checkpoints
    "recipe_state.pt",  # torchtune
)
_BY_PRODUCT = re.compile("|".join(map(translate, _BY_PRODUCTS)))

_PICKLES = {
    ".pt": "a PyTorch checkpoint",
    ".pth": "a PyTorch checkpoint",
    ".ckpt": "a checkpoint",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".joblib": "a joblib dump",
    ".dill": "a pickle",
}
"""By the ending of the name."""

_PICKLED_WEIGHTS = (
    "adapter_model.bin",
    "pytorch_model*.bin",
    "diffusion_pytorch_model*.bin",
    "pytorch_lora_weights*.bin",
    "pytorch_custom_diffusion_weights*.bin",
    "pytorch_adapter.bin",
    "learned_embeds*.bin",
    "ip-adapter*.bin",
)
"""What loaders look for. Their names alone are refused, so that none is opened before anybody looked inside."""

_KNOWN_ENDINGS = tuple(
    ".safetensors .gguf .json .jsonl .md .txt .yaml .yml .toml .model .tiktoken .jinja .spm .vocab .bpe "
    ".png .jpg .jpeg .webp .gif .svg .csv .tsv .py .sig".split()
)
_KNOWN_NAMES = frozenset({"LICENSE", "NOTICE", "README", "USE_POLICY", ".gitattributes", ".gitignore"})

_NPY = b"\x93NUMPY"
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"PK\3\4", "a ZIP archive"),
    (b"PK\5\6", "a ZIP archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x7fELF", "an executable"),
    (b"MZ\x90\x00", "an executable"),
    (b"\xcf\xfa\xed\xfe", "an executable"),
    (b"\xca\xfe\xba\xbe", "an executable"),
    (_NPY, "a NumPy array"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
)
"""What no file that adapters and models have begins with."""

_MOST_OPENED = 64  # members of an archive
_NO_PAGES = (".safetensors", ".gguf", ".json", ".model", ".bin", ".npy", ".npz", ".zip", ".gz", ".png", ".jpg", ".webp")
_RUNS_CODE = "loading it can run code, so it can't be published"
_CURE = (
    "save the weights as safetensors, as save_pretrained does, or convert them: "
    "lorahub import --unsafe-pickle FILE FOLDER"
)


def is_by_product(path: str) -> bool:
    """Of training: nothing that loads an adapter reads it."""
    return _BY_PRODUCT.match(_name(path)) is not None


def is_known(path: str) -> bool:
    """Whether adapters and models have files called like this."""
    return path.rpartition("/")[2] in _KNOWN_NAMES or path.lower().endswith(_KNOWN_ENDINGS)


def fault_of_name(path: str) -> UnsafeFile | None:
    """Why no file of this name is published, as far as a name tells."""
    if is_by_product(path):
        said = f"{path} is a by-product of training, which nothing that loads an adapter reads"
        return UnsafeFile(said, hint="leave it out", path=path)
    kind = _pickle_by_name(path)
    return None if kind is None else UnsafeFile(f"{path} is {kind}; {_RUNS_CODE}", hint=_CURE, path=path)


def check_file(path: str, content: Content, *, taken: Taken = "any") -> None:
    """Raises `UnsafeFile` with the cure."""
    if (fault := fault_of_name(path)) is not None:
        raise fault
    try:
        kind = _pickle_in(content)
    except UnclearArchive as error:
        raise UnsafeFile(
            f"{path} is a ZIP archive in which programs may find different files: {error}",
            hint="pack it again",
            path=path,
        ) from None
    if kind is not None:
        raise UnsafeFile(f"{path} is {kind}; {_RUNS_CODE}", hint=_CURE, path=path)
    _check_claim(path, content.head)
    if taken == "known":
        _check_known(path, content.head)


def _name(path: str) -> str:
    return path.rpartition("/")[2].lower()


def _pickle_by_name(path: str) -> str | None:
    name = _name(path)
    ending = splitext(name)[1]
    if ending == ".bin" and any(fnmatchcase(name, pattern) for pattern in _PICKLED_WEIGHTS):
        return "a PyTorch checkpoint"
    return _PICKLES.get(ending)


# --- content ----------------------------------------------------------------------------------------------------------


def _pickle_in(content: Content) -> str | None:
    """What of a file an unpickler would run, in words. Raises `UnclearArchive`."""
    if archives.is_zip(content):
        return _pickled_member("a ZIP archive", archives.zip_members(content))
    if content.head.startswith(_NPY):
        return _pickle_at(content.head)
    if is_pickle(content):
        return "a pickle"
    if archives.is_tar(content):
        return _pickled_member("a tar archive", archives.tar_members(content))
    inside = archives.decompressed_head(content)
    kind = None if inside is None else _pickle_at(inside) or _pickle_in_tar(inside)
    return kind and f"{kind}, compressed"


def _pickled_member(archive: str, members: Iterable[ArchiveMember]) -> str | None:
    """A PyTorch checkpoint is a ZIP archive with a data.pkl. Members that are called like pickles are opened first; of
    those that nobody opens, the name has the word.
    """
    likely_first = sorted(members, key=lambda member: _pickle_by_name(member.name) is None)
    for number, member in enumerate(likely_first):
        head = member.head() if number < _MOST_OPENED else None
        kind = _pickle_by_name(member.name) if head is None else _pickle_at(head)
        if kind is not None:
            return f"{archive} with {kind} in it, {member.name[:200]}"
    return None


def _pickle_in_tar(head: bytes) -> str | None:
    content = Content.of(head)
    return _pickled_member("a tar archive", archives.tar_members(content)) if archives.is_tar(content) else None


def _pickle_at(head: bytes) -> str | None:
    """By how it begins. PyTorch puts data.pkl first into its archives."""
    if head.startswith(_NPY):
        return "a NumPy array of Python objects, which are pickled" if holds_objects(head) else None
    first = archives.first_name(head)
    if first is not None:
        return _pickle_by_name(first) and "a PyTorch checkpoint"
    return "a pickle" if is_pickle(Content.of(head)) else None


# --- claims -----------------------------------------------------------------------------------------------------------


def _check_claim(path: str, head: bytes) -> None:
    """A file that says in its name what it is must begin like it."""
    name = _name(path)
    is_gguf = head.startswith(b"GGUF")
    if name.endswith(".gguf") and not is_gguf:
        raise UnsafeFile(
            f"{path} is not a GGUF file: it doesn't begin with GGUF", hint="send the right file", path=path
        )
    if is_gguf and not name.endswith(".gguf"):
        raise UnsafeFile(f"{path} is a GGUF file under another name", hint="let its name end in .gguf", path=path)
    is_page = head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
    if is_page and name.endswith(_NO_PAGES):
        raise UnsafeFile(f"{path} is an HTML page, perhaps an error page", hint="download the file again", path=path)


def _check_known(path: str, head: bytes) -> None:
    foreign = next((kind for start, kind in _FOREIGN if head.startswith(start)), None)
    if foreign is None and is_known(path):
        return
    raise UnsafeFile(
        f"{path} is {foreign or 'no file that adapters and models have'}, and this registry takes no other",
        hint="leave it out, or ask whoever runs the registry",
        path=path,
    )
