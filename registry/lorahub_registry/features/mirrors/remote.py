"""A repository of another hub, by the Hub's protocol: what a revision of it holds, and its files' bytes.

The hub is as little trusted as any client: paths are checked, sizes and digests are known before the first byte, and
bytes that have others are an error.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lorahub.adapters.file_kinds import fault_of_name
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import DigestMismatch, RegistryFailed, SizeMismatch
from lorahub.protocol.digests import Sha256, is_commit_id, parse_sha256
from lorahub.protocol.paths import FilePath, check_tree, parse_path

from lorahub_registry.infrastructure.outbound import Outbound

LISTING_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`sha256` of a large file; of a small one the hub says git's sha1, `oid`."""

    path: FilePath
    size: int
    sha256: Sha256 | None
    oid: str | None


@dataclass(frozen=True, slots=True)
class RemoteRevision:
    commit: str
    files: tuple[RemoteFile, ...]
    left: tuple[str, ...]
    """Paths of pickles and by-products of training, which are not mirrored, as far as names tell."""


def list_files(
    outbound: Outbound, endpoint: str, source: str, revision: str, *, most_bytes: int, token: str | None
) -> RemoteRevision:
    """What the revision is now. Raises what the outbound opener does, `RegistryFailed`, `InvalidPath`."""
    address = f"{endpoint}/api/models/{source}/revision/{quote(revision, safe='')}?blobs=true"
    document = outbound.get_document(address, most_bytes=most_bytes, seconds=LISTING_SECONDS, token=token)
    info: Any = parse_json(document, error=RegistryFailed)
    commit = info.get("sha") if isinstance(info, dict) else None
    siblings = info.get("siblings") if isinstance(info, dict) else None
    if not isinstance(commit, str) or not is_commit_id(commit) or not isinstance(siblings, list):
        raise RegistryFailed(f"the answer of {endpoint} about {source} lists no files of a commit")
    files = [_file(entry, source) for entry in siblings]
    check_tree(file.path for file in files)
    wanted = tuple(file for file in files if fault_of_name(file.path) is None)
    return RemoteRevision(commit, wanted, tuple(file.path for file in files if file not in wanted))


def _file(entry: Any, source: str) -> RemoteFile:
    match entry:
        case {"rfilename": str() as path, "size": int() as size, "lfs": {"sha256": str() as sha256}} if size >= 0:
            return RemoteFile(parse_path(path), size, parse_sha256(sha256), None)
        case {"rfilename": str() as path, "size": int() as size, "blobId": str() as oid} if size >= 0:
            return RemoteFile(parse_path(path), size, None, oid)
    raise RegistryFailed(f"a file of {source} is listed without its size and digest")


def read_file(
    outbound: Outbound,
    endpoint: str,
    source: str,
    commit: str,
    file: RemoteFile,
    *,
    seconds: float,
    token: str | None,
) -> Iterator[bytes]:
    """Its bytes at that very commit. Raises as `list_files`, and `SizeMismatch`, `DigestMismatch` at their end."""
    address = f"{endpoint}/{source}/resolve/{commit}/{quote(file.path)}"
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    received = 0
    with outbound.get(address, most_bytes=file.size, seconds=seconds, token=token) as answer:
        for piece in answer.pieces():
            received += len(piece)
            digest.update(piece)
            yield piece
    if received != file.size:
        raise SizeMismatch(f"{file.path}: {received} bytes came, {file.size} were announced")
    if digest.hexdigest() != (file.sha256 or file.oid):
        raise DigestMismatch(f"{file.path}: the hub sent {digest.hexdigest()}, and says {file.sha256 or file.oid}")
