"""Signs the files of a folder that a push would send, and verifies folders: offline, with a key in a file."""

from collections.abc import Iterable
from pathlib import Path

from lorahub.errors import EntryNotFound, InvalidConfiguration
from lorahub.hub.folder import LocalFile, hash_file, list_folder

FILE = "model.sig"


def sign_files(files: Iterable[LocalFile], key: Path, *, name: str) -> bytes:
    """The content of model.sig beside them. Raises `InvalidConfiguration` for a key that can't sign."""
    from lorahub.protocol.signatures import sign

    return sign(_digests(files), _read(key), name=name)


def verify_folder(folder: Path, public_key: Path) -> str:
    """The key's fingerprint. Raises `InvalidSignature` unless it signed exactly the files here."""
    from lorahub.protocol.signatures import verify

    place = folder / FILE
    if not place.is_file():
        raise EntryNotFound(f"{folder} has no {FILE}", hint="lorahub push --sign KEY makes one")
    return verify(place.read_bytes(), _digests(list_folder(folder).files), _read(public_key)).fingerprint


def _digests(files: Iterable[LocalFile]) -> dict[str, str]:
    return {file.path: hash_file(file, lambda _: None) for file in files}


def _read(key: Path) -> bytes:
    try:
        return key.expanduser().read_bytes()
    except OSError as error:
        raise InvalidConfiguration(f"can't read the key {key}: {error.strerror}") from None
