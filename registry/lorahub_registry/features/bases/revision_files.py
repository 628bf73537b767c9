"""The files of a stored revision, as the readers of adapters and bases want them."""

from collections.abc import Mapping
from typing import Protocol

from lorahub.protocol.digests import Sha256

from lorahub_registry.core.access import OpenedCommit
from lorahub_registry.core.blobs.service import Blob, known_blobs, open_blob
from lorahub_registry.infrastructure.backend import Backend


class ReadableFile(Protocol):
    """A file of a revision, recorded or about to be."""

    @property
    def sha256(self) -> Sha256: ...


class RevisionFiles:
    """Reads ranges of blobs; headers cost kilobytes, whatever the files' size."""

    def __init__(self, backend: Backend, files: Mapping[str, ReadableFile], blobs: Mapping[Sha256, Blob]) -> None:
        self._backend = backend
        self._blobs = {path: blobs[file.sha256] for path, file in files.items() if file.sha256 in blobs}
        self.sizes = {path: blob.size for path, blob in self._blobs.items()}

    @classmethod
    def of(cls, at: OpenedCommit) -> "RevisionFiles":
        """What reads them doesn't need the repository to be open any more."""
        blobs = known_blobs(at.repository.session, [file.sha256 for file in at.files.values()])
        return cls(at.repository.backend, at.files, blobs)

    def read(self, path: str, start: int, stop: int) -> bytes:
        blob = self._blobs[path]
        return b"".join(open_blob(self._backend, blob, start, min(stop, blob.size), path=path))

    def sha256(self, path: str) -> str | None:
        blob = self._blobs.get(path)
        return None if blob is None else blob.sha256

    def inspection(self, path: str) -> Mapping[str, object]:
        """What the one reading of the bytes found when they came in."""
        blob = self._blobs.get(path)
        return {} if blob is None else blob.inspection
