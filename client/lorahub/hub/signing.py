"""Signs the files of a folder that a push would send, and verifies folders: offline, with a key in a file."""

import hashlib
from pathlib import Path

from lorahub.errors import EntryNotFound, InvalidConfiguration
from lorahub.hub.folder import list_folder

FILE = "model.sig"


def sign_folder(folder: Path, key: Path) -> Path:
    """Writes model.sig. Raises `InvalidConfiguration` for a key that can't sign."""
    from lorahub.protocol.signatures import sign

    place = folder / FILE
    place.write_bytes(sign(_digests(folder), _read(key), name=folder.resolve().name))
    return place


def verify_folder(folder: Path, public_key: Path) -> str:
    """The key's fingerprint. Raises `InvalidSignature` unless it signed exactly the files here."""
    from lorahub.protocol.signatures import verify

    place = folder / FILE
    if not place.is_file():
        raise EntryNotFound(f"{folder} has no {FILE}", hint="lorahub push --sign KEY makes one")
    return verify(place.read_bytes(), _digests(folder), _read(public_key)).fingerprint


def _digests(folder: Path) -> dict[str, str]:
    return {file.path: _sha256(file.source) for file in list_folder(folder).files}


def _sha256(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(key: Path) -> bytes:
    try:
        return key.expanduser().read_bytes()
    except OSError as error:
        raise InvalidConfiguration(f"can't read the key {key}: {error.strerror}") from None
