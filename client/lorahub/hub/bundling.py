"""Repositories into a bundle, and a bundle into a registry. Both ends prove what passes through their hands."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lorahub.errors import DigestMismatch
from lorahub.hub.cache import Cache
from lorahub.hub.contents import listed
from lorahub.hub.download import PIECE_BYTES, Download
from lorahub.hub.progress import Progress
from lorahub.hub.transport import Transport
from lorahub.protocol import bundles
from lorahub.protocol.bundles import Manifest
from lorahub.protocol.digests import Sha256
from lorahub.protocol.messages.bundles import TakenBundle
from lorahub.protocol.messages.message import parse
from lorahub.protocol.records import Record


class Bundler:
    """Brings contents through the cache: an export that broke off goes on where it stopped."""

    def __init__(self, transport: Transport, cache: Cache, progress: Progress) -> None:
        self._transport = transport
        self._cache = cache
        self._progress = progress

    def write(self, records: Sequence[Record], target: Path, *, key: Path | None) -> Manifest:
        """`target` appears whole, or not at all."""
        with self._cache.filling():
            self._fetch(records)
            return self._write(records, target, key)

    def _write(self, records: Sequence[Record], target: Path, key: Path | None) -> Manifest:
        manifest = Manifest.of(records)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                bundles.write(file, manifest, self._open, key=key)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return manifest

    def _fetch(self, records: Sequence[Record]) -> None:
        brought: set[str] = set()
        for record in records:
            for commit in record.commits:
                files = [file for file in listed(commit.files) if file.key not in brought]
                Download(self._transport, self._cache, str(record.name), commit.id, self._progress).fetch(files)
                brought.update(file.key for file in files)

    def _open(self, digest: Sha256) -> Iterator[bytes]:
        with self._cache.blob(digest).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def send(self, bundle: Path, *, key: Path | None) -> TakenBundle:
        """Proves the whole bundle before the first byte leaves, and the registry proves it again."""
        with bundle.open("rb") as file:
            proved = bundles.verify(file, key=key)
        said = self._transport.post_bytes(
            "/api/lorahub/v1/bundles", lambda: _pieces(bundle), {"Content-Type": "application/x-tar"}
        )
        answer = parse(TakenBundle, said, "what it took")
        if answer.bundle != f"sha256:{proved.digest}":
            raise DigestMismatch(f"{bundle} changed while it was sent", hint="import it again")
        return answer


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
