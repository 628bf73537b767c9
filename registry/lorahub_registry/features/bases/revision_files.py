"""The files of a stored revision, as the readers of adapters and bases want them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from lorahub.protocol.digests import CommitId, Sha256

from lorahub_registry.core.access import OpenedCommit
from lorahub_registry.core.blobs.service import Blob, known_blobs, open_blob
from lorahub_registry.core.revisions.service import RevisionFile
from lorahub_registry.core.upstreams import transfers
from lorahub_registry.core.upstreams.service import WantedFile, wanted_of
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session


class ReadableFile(Protocol):
    """A file of a revision, recorded or about to be."""

    @property
    def sha256(self) -> Sha256: ...


class RevisionFiles:
    """Reads ranges of blobs; headers cost kilobytes, whatever the files' size."""

    def __init__(
        self,
        backend: Backend,
        files: Mapping[str, ReadableFile],
        blobs: Mapping[Sha256, Blob],
        wanted: Mapping[str, WantedFile] = MappingProxyType({}),
    ) -> None:
        """`wanted` are those of an upstream that aren't here: they come when they are read."""
        self._backend = backend
        self._wanted = wanted
        self._blobs = {path: blobs[file.sha256] for path, file in files.items() if file.sha256 in blobs}
        self.sizes = {path: self._size(path) for path in files if path in self._blobs or path in wanted}

    @classmethod
    def of(cls, at: OpenedCommit) -> "RevisionFiles":
        """What reads them doesn't need the repository to be open any more."""
        return cls.at(at.repository.backend, at.repository.session, at.commit.id, at.files)

    @classmethod
    def at(
        cls, backend: Backend, session: Session, commit_id: CommitId, files: Mapping[str, RevisionFile]
    ) -> "RevisionFiles":
        """Those of a commit."""
        blobs = known_blobs(session, [file.sha256 for file in files.values() if file.is_here])
        return cls(backend, files, blobs, wanted_of(session, commit_id, files))

    def _size(self, path: str) -> int:
        blob = self._blobs.get(path)
        return self._wanted[path].file.size if blob is None else blob.size

    @property
    def is_here(self) -> bool:
        """Whether all of them were read from their first to their last byte, and are what they were announced as."""
        return not self._wanted

    def read(self, path: str, start: int, stop: int) -> bytes:
        if (wanted := self._wanted.get(path)) is not None:
            return transfers.read(self._backend, wanted, start, min(stop, wanted.file.size))
        blob = self._blobs[path]
        return b"".join(open_blob(self._backend, blob, start, min(stop, blob.size), path=path))

    def sha256(self, path: str) -> str | None:
        if (wanted := self._wanted.get(path)) is not None:
            return wanted.file.sha256
        blob = self._blobs.get(path)
        return None if blob is None else blob.sha256

    def inspection(self, path: str) -> Mapping[str, object]:
        """What the one reading of the bytes found when they came in."""
        blob = self._blobs.get(path)
        return {} if blob is None else blob.inspection
