"""What may be stored, by name and by first bytes: weights are safetensors or GGUF, nothing runs code on loading."""

from lorahub.errors import UnsafeFile

SNIFF_BYTES = 512

_PICKLED = {
    ".bin": "a PyTorch checkpoint",
    ".pt": "a PyTorch checkpoint",
    ".pth": "a PyTorch checkpoint",
    ".ckpt": "a checkpoint",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".joblib": "a joblib dump",
    ".dill": "a pickle",
    ".npz": "a NumPy archive, which may hold pickles",
    ".npy": "a NumPy array, which may hold pickles",
    ".pyc": "compiled Python",
    ".h5": "a Keras model, which may hold code",
    ".keras": "a Keras model, which may hold code",
    ".mar": "a TorchServe archive, which holds code",
    ".nemo": "a NeMo archive, which holds pickles",
}

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive (PyTorch checkpoints are ZIP archives of pickles)"),
    (b"PK\x05\x06", "a ZIP archive"),
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
    (b"\x93NUMPY", "a NumPy array, which may hold pickles"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, which may hold code"),
)

_PICKLE_PROTOCOLS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))

_SAFETENSORS_CURE = "save the weights as safetensors: model.save_pretrained(folder, safe_serialization=True)"


def check_file(path: str, prefix: bytes) -> None:
    """`prefix`: the first `SNIFF_BYTES` of the file. Raises `UnsafeFile` with the cure."""
    name = path.rpartition("/")[2].lower()
    if name == "training_args.bin":
        raise UnsafeFile(
            f"{path} is a pickle, which runs code when it is loaded",
            hint="leave it out: nothing that loads an adapter reads it",
            path=path,
        )
    for suffix, kind in _PICKLED.items():
        if name.endswith(suffix):
            raise UnsafeFile(
                f"{path} is {kind}; loading it can run code, so it can't be published",
                hint=_SAFETENSORS_CURE,
                path=path,
            )
    for signature, kind in _SIGNATURES:
        if prefix.startswith(signature):
            raise UnsafeFile(f"{path} is {kind}; it can't be published", hint=_SAFETENSORS_CURE, path=path)
    if prefix.startswith(_PICKLE_PROTOCOLS):
        raise UnsafeFile(f"{path} is a pickle; loading it runs code", hint=_SAFETENSORS_CURE, path=path)
    _check_claim(path, name, prefix)


def _check_claim(path: str, name: str, prefix: bytes) -> None:
    """A file that says in its name what it is must begin like it."""
    is_gguf = prefix.startswith(b"GGUF")
    if name.endswith(".gguf") and not is_gguf:
        raise UnsafeFile(
            f"{path} is not a GGUF file: it doesn't begin with GGUF", hint="send the right file", path=path
        )
    if is_gguf and not name.endswith(".gguf"):
        raise UnsafeFile(f"{path} is a GGUF file under another name", hint="let its name end in .gguf", path=path)
    is_html = prefix.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
    if is_html and not name.endswith((".html", ".htm", ".md")):
        raise UnsafeFile(f"{path} is an HTML page, perhaps an error page", hint="download the file again", path=path)
