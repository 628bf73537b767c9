"""Bundles: repositories in one file, for a registry that no network reaches.

    manifest.json     records of the repositories (protocol.records), and every content by sha256 and size
    manifest.sig      Ed25519, or ECDSA with SHA-256, over the line `lorahub-bundle-v1` and the manifest; may be missing
    blobs/<sha256>    contents, in the manifest's order

It is a tar that any tar reads. Here it is never searched or unpacked by what it says: what has to come next is known,
so each header is compared with the one that `write` makes, padding with zeros, and the end with the end. No two files
mean the same, and a bit that is changed anywhere is found.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lorahub.adapters.strict_json import parse_json
from lorahub.errors import InvalidBundle, InvalidConfiguration, Refusal
from lorahub.protocol.digests import Sha256, parse_sha256
from lorahub.protocol.records import Record, parse_record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "lorahub-bundle-v1"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MOST_MANIFEST_BYTES, MOST_SIGNATURE_BYTES, MOST_BLOBS, MOST_REPOSITORIES = 64 << 20, 1024, 1_000_000, 1000
_BLOCK = 512
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    repositories: tuple[Record, ...]
    blobs: tuple[tuple[Sha256, int], ...]
    """Digest and size, in order of digest: exactly what the repositories have."""

    @classmethod
    def of(cls, repositories: Sequence[Record]) -> "Manifest":
        sizes = {digest: size for record in repositories for digest, size in record.blobs().items()}
        return cls(tuple(repositories), tuple(sorted(sizes.items())))

    def encode(self) -> bytes:
        said = {
            "format": FORMAT,
            "repositories": [record.as_json() for record in self.repositories],
            "blobs": [list(blob) for blob in self.blobs],
        }
        return json.dumps(said, indent=1).encode() + b"\n"


def parse_manifest(text: bytes) -> Manifest:
    """Raises `InvalidBundle`."""
    said: Any = parse_json(text, error=InvalidBundle)
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise InvalidBundle(f"not a bundle, or not one of the format {FORMAT}")
    try:
        records = [parse_record(record) for record in said["repositories"]]
        blobs = tuple((parse_sha256(sha256), int(size)) for sha256, size in said["blobs"])
    except (Refusal, KeyError, TypeError, ValueError) as error:
        raise InvalidBundle(f"the manifest can't be read: {error}") from None
    manifest = Manifest.of(records)
    if len(records) > MOST_REPOSITORIES or len(blobs) > MOST_BLOBS or manifest.blobs != blobs:
        raise InvalidBundle("the manifest lists other contents than its repositories have")
    if len({record.name.key for record in records}) != len(records):
        raise InvalidBundle("the manifest has a repository twice")
    return manifest


# --- writing ----------------------------------------------------------------------------------------------------------


def write(
    file: BinaryIO,
    manifest: Manifest,
    open_blob: Callable[[Sha256], Iterator[bytes]],
    *,
    key: Path | None = None,
) -> None:
    """`key`: a private key in PEM. Raises `InvalidConfiguration` for a key that can't sign."""
    text = manifest.encode()
    signature = None if key is None else _sign(key, text)
    _put(file, MANIFEST, len(text), [text])
    if signature is not None:
        _put(file, SIGNATURE, len(signature), [signature])
    for digest, size in manifest.blobs:
        _put(file, f"blobs/{digest}", size, open_blob(digest))
    file.write(bytes(2 * _BLOCK))


def _put(file: BinaryIO, name: str, size: int, pieces: Sequence[bytes] | Iterator[bytes]) -> None:
    file.write(_header(name, size))
    file.writelines(pieces)
    file.write(bytes(-size % _BLOCK))


def _header(name: str, size: int) -> bytes:
    """The one header that a regular file of this name and size has in a bundle."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


# --- reading ----------------------------------------------------------------------------------------------------------


class Reader:
    """A bundle that is read once, from its beginning to its end. Its manifest is known, and proved, before any content.

    `key` is the public key in PEM that must have signed it; None takes it unsigned or signed by anybody.
    """

    def __init__(self, file: BinaryIO, *, key: Path | None) -> None:
        """Raises `InvalidBundle`, `InvalidConfiguration` for what is no public key."""
        self._file = file
        text = self._small(MANIFEST, self._take(_BLOCK), MOST_MANIFEST_BYTES)
        following = self._take(_BLOCK)
        self.is_signed = _name(following) == SIGNATURE
        signature = self._small(SIGNATURE, following, MOST_SIGNATURE_BYTES) if self.is_signed else None
        if key is not None:
            _verify(key, text, signature)
        self.manifest = parse_manifest(text)
        self.digest = hashlib.sha256(text).hexdigest()
        self._next = self._take(_BLOCK) if self.is_signed else following

    def blobs(self) -> Iterator[tuple[Sha256, int, Iterator[bytes]]]:
        """Each content's digest, size and bytes, which are to be read before the next. Raises `InvalidBundle` where
        they are other bytes, behind the last piece, and where the file doesn't end behind the last content.
        """
        for digest, size in self.manifest.blobs:
            _require(self._next == _header(f"blobs/{digest}", size), f"blobs/{digest} should come here")
            yield digest, size, self._content(digest, size)
            self._next = self._take(_BLOCK)
        _require(self._next == bytes(_BLOCK), "there is more in it than its manifest says")
        _require(self._take(_BLOCK) == bytes(_BLOCK) and not self._file.read(1), "it doesn't end where it should")

    def _content(self, digest: Sha256, size: int) -> Iterator[bytes]:
        found, left = hashlib.sha256(), size
        while left:
            piece = self._take(min(_PIECE, left))
            found.update(piece)
            left -= len(piece)
            yield piece
        self._padding(size)
        _require(found.hexdigest() == digest, f"blobs/{digest} has the sha256 {found.hexdigest()}")

    def _small(self, name: str, header: bytes, most: int) -> bytes:
        size = _size(header)
        _require(size <= most and header == _header(name, size), f"{name} should come here")
        content = self._take(size)
        self._padding(size)
        return content

    def _padding(self, size: int) -> None:
        _require(not any(self._take(-size % _BLOCK)), "there is something between its files")

    def _take(self, size: int) -> bytes:
        taken = self._file.read(size)
        _require(len(taken) == size, "it ends too early")
        return taken


def verify(file: BinaryIO, *, key: Path | None) -> Reader:
    """Reads the whole bundle. Raises as `Reader`."""
    reader = Reader(file, key=key)
    for _, _, pieces in reader.blobs():
        for _ in pieces:
            pass
    return reader


def _name(header: bytes) -> str:
    return header[:100].rstrip(b"\0").decode("ascii", "replace")


def _size(header: bytes) -> int:
    try:
        return tarfile.TarInfo.frombuf(header, "ascii", "strict").size
    except (tarfile.HeaderError, ValueError):
        raise _not_right("a header is damaged") from None


def _require(condition: bool, what: str) -> None:  # noqa: FBT001 (reads as a sentence)
    if not condition:
        raise _not_right(what)


def _not_right(what: str) -> InvalidBundle:
    return InvalidBundle(
        f"this is no bundle, or it was changed: {what}", hint="nothing of it was taken; fetch it again"
    )


# --- signatures -------------------------------------------------------------------------------------------------------


def _signed_text(manifest: bytes) -> bytes:
    return FORMAT.encode() + b"\n" + manifest


def _sign(key: Path, manifest: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = _loaded(key, lambda pem: load_pem_private_key(pem, password=None))
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(_signed_text(manifest))
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.sign(_signed_text(manifest), ec.ECDSA(SHA256()))
    raise _unusable(key)


def _verify(key: Path, manifest: bytes, signature: bytes | None) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.hashes import SHA256

    public = public_key(key)
    if signature is None:
        raise InvalidBundle("this bundle is not signed", hint="ask for a signed one: lorahub export --sign KEY")
    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, _signed_text(manifest))
        else:
            public.verify(signature, _signed_text(manifest), ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise InvalidBundle(f"this bundle was not signed with the key of {key}, or it was changed since") from None


def public_key(path: Path) -> "Ed25519PublicKey | EllipticCurvePublicKey":
    """Raises `InvalidConfiguration` for what is none that signs bundles, `OSError` where it can't be read."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found = _loaded(path, load_pem_public_key)
    if not isinstance(found, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise _unusable(path)
    return found


def _loaded(key: Path, load: Callable[[bytes], Any]) -> Any:
    try:
        return load(key.read_bytes())
    except (ValueError, TypeError):
        raise _unusable(key) from None


def _unusable(key: Path) -> InvalidConfiguration:
    return InvalidConfiguration(
        f"{key} is no key for bundles: Ed25519 or EC, in PEM, without a password",
        hint="make one: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out pub.pem",
    )
