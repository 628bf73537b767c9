"""Sends a folder: hash, ask what is missing, upload that, and commit everything at once.

Nothing is visible before the commit. A push that breaks off is repeated: what arrived is not sent again.
"""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from lorahub.errors import BlobVanished, SizeMismatch
from lorahub.hub.folder import PIECE_BYTES, LocalFile, hash_file
from lorahub.hub.progress import Progress
from lorahub.hub.shapes import read
from lorahub.hub.targets import Committed, Part, Target, parse_modes, parse_targets
from lorahub.hub.together import AT_ONCE, run_all
from lorahub.hub.transport import Transport
from lorahub.protocol.digests import Sha256
from lorahub.protocol.names import RepositoryName

BATCH = 100
LFS_HEADERS = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}


@dataclass(frozen=True, slots=True)
class HashedFile:
    path: str
    local: LocalFile
    sha256: Sha256
    is_lfs: bool


@dataclass(frozen=True, slots=True)
class Wish:
    """The version to make of the files. `version` None is the next one."""

    message: str
    version: str | None
    aliases: tuple[str, ...]


class Upload:
    """One push of one folder into one repository."""

    def __init__(self, transport: Transport, repository: RepositoryName, progress: Progress) -> None:
        self._transport = transport
        self._repository = repository
        self._progress = progress
        self._key = uuid.uuid4().hex  # a commit that is sent again because its answer was lost is one commit

    def send(self, files: Sequence[LocalFile], wish: Wish) -> Committed:
        hashed = self._hash(files)
        for attempt in (1, 2):
            self._upload([file for file in hashed if file.is_lfs])
            try:
                return self._commit(hashed, wish)
            except BlobVanished:
                if attempt == 2:
                    raise
        raise AssertionError

    def _hash(self, files: Sequence[LocalFile]) -> list[HashedFile]:
        modes = self._modes(files)
        self._progress.begin("Hashing", sum(file.size for file in files))
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                digests = list(pool.map(lambda file: hash_file(file, self._progress.advance), files))
        finally:
            self._progress.end()
        return [
            HashedFile(file.path, file, sha256, modes[file.path]) for file, sha256 in zip(files, digests, strict=True)
        ]

    def _modes(self, files: Sequence[LocalFile]) -> dict[str, bool]:
        """Path → whether it goes by upload; the registry decides."""
        modes: dict[str, bool] = {}
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            body = {"files": [{"path": file.path, "size": file.size, "sample": ""} for file in batch]}
            answer = self._transport.json("POST", f"/api/models/{self._repository}/preupload/main", body=body)
            modes |= parse_modes(answer, [file.path for file in batch])
        return modes

    # --- bytes --------------------------------------------------------------------------------------------------------

    def _upload(self, files: Sequence[HashedFile]) -> None:
        distinct = {file.sha256: file for file in files}
        targets = self._targets(list(distinct.values()))
        self._progress.begin(f"Pushing {self._repository}", sum(distinct[digest].local.size for digest in targets))
        try:
            run_all([partial(self._upload_one, distinct[digest], target) for digest, target in targets.items()])
        finally:
            self._progress.end()

    def _targets(self, files: Sequence[HashedFile]) -> dict[Sha256, Target]:
        """Digest → where to send it, for what the registry doesn't have."""
        targets: dict[Sha256, Target] = {}
        for start in range(0, len(files), BATCH):
            sizes = {file.sha256: file.local.size for file in files[start : start + BATCH]}
            body = {
                "operation": "upload",
                "transfers": ["basic", "multipart"],
                "hash_algo": "sha256",
                "objects": [{"oid": digest, "size": size} for digest, size in sizes.items()],
            }
            address = f"/{self._repository}.git/info/lfs/objects/batch"
            targets |= parse_targets(self._transport.json("POST", address, body=body), sizes)
        return targets

    def _upload_one(self, file: HashedFile, target: Target) -> None:
        """Sends the bytes, to the registry or to its storage, and asks the registry whether they are the right ones."""
        self._send(file, target)
        if target.verify is not None:
            self._transport.json("POST", target.verify, body={"oid": file.sha256, "size": file.local.size})

    def _send(self, file: HashedFile, target: Target) -> None:
        if not target.parts:
            self._put(file, target.address, 0, file.local.size)
            return
        etags = dict(target.done)
        self._progress.advance(sum(part.size for part in target.parts if part.number in etags))

        def put(part: Part) -> None:
            etags[part.number] = self._put(file, part.address, part.start, part.size)

        run_all([partial(put, part) for part in target.parts if part.number not in etags])
        listed = [{"partNumber": number, "etag": etag} for number, etag in sorted(etags.items())]
        self._transport.post_signed(target.address, {"oid": file.sha256, "parts": listed})

    def _put(self, file: HashedFile, address: str, start: int, size: int) -> str:
        """The answer's ETag."""
        sent = 0

        def body() -> Iterator[bytes]:
            nonlocal sent
            self._progress.advance(-sent)
            sent = 0
            for piece in _pieces(file.local, start, size):
                yield piece
                sent += len(piece)
                self._progress.advance(len(piece))

        return self._transport.put(address, body, size)

    # --- commit -------------------------------------------------------------------------------------------------------

    def _commit(self, files: Sequence[HashedFile], wish: Wish) -> Committed:
        """Whatever else `main` holds goes: a version is exactly the folder that was pushed."""

        def body() -> Iterator[bytes]:
            yield _line("header", {"summary": wish.message, "description": ""})
            yield _line("deletedFolder", {"path": ""})
            for file in files:
                yield _operation(file)
            yield _line("version", {"name": wish.version, "aliases": list(wish.aliases)})

        address = f"/api/models/{self._repository}/commit/{quote('main')}"
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": self._key}
        return read(Committed, self._transport.post_bytes(address, body, headers), "a commit")


def _operation(file: HashedFile) -> bytes:
    if file.is_lfs:
        described = {"path": file.path, "algo": "sha256", "oid": file.sha256, "size": file.local.size}
        return _line("lfsFile", described)
    content = b"".join(_pieces(file.local, 0, file.local.size))
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise SizeMismatch(f"{file.local.source} changed while it was pushed", hint="push again when nothing writes it")
    return _line("file", {"path": file.path, "content": base64.b64encode(content).decode(), "encoding": "base64"})


def _pieces(file: LocalFile, start: int, size: int) -> Iterator[bytes]:
    with file.open() as source:
        source.seek(start)
        left = size
        while left:
            piece = source.read(min(PIECE_BYTES, left))
            if not piece:
                raise SizeMismatch(f"{file.source} became shorter while it was pushed", hint="push again")
            left -= len(piece)
            yield piece


def _line(key: str, value: dict[str, Any]) -> bytes:
    return json.dumps({"key": key, "value": value}).encode() + b"\n"
