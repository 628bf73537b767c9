"""Reads the signature that a revision brings, and compares what it lists with the revision's files.

The registry has nobody's key, so it says which key the signature names and whether it is of exactly these files. That
this key made it is proved by who has the key: `lorahub verify --key`.
"""

from dataclasses import dataclass

from lorahub.errors import InvalidSignature
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.signatures import FILE, MOST_BYTES, differing_paths, stated

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.blobs.service import known_blobs, read_blob
from lorahub_registry.infrastructure.backend import Backend


@dataclass(frozen=True, slots=True)
class Signature:
    """`key` is the fingerprint that the signature names; `differing` are paths that it lists otherwise, or not."""

    is_signed: bool
    key: str | None = None
    differing: tuple[str, ...] = ()
    fault: str | None = None
    """Why what is called a signature is none."""

    @property
    def is_of_these_files(self) -> bool:
        return self.is_signed and self.fault is None and not self.differing


def signature_of(backend: Backend, principal: Principal, name: RepositoryName, revision: str) -> Signature:
    """Raises as `readable_at`, and for bytes that may not be served."""
    with reading(backend, principal, name) as opened:
        files = opened.readable_at(revision).files
        signature = files.get(FILE)
        blob = None if signature is None else known_blobs(opened.session, [signature.sha256])[signature.sha256]
    if blob is None:
        return Signature(is_signed=False)
    try:
        statement = stated(read_blob(backend, blob, limit=MOST_BYTES + 1, path=FILE))
    except InvalidSignature as error:
        return Signature(is_signed=True, fault=error.message)
    found = {path: str(file.sha256) for path, file in files.items()}
    return Signature(True, statement.key, tuple(differing_paths(statement.files, found)))
