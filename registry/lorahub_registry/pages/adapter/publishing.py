"""Uploads by a browser: each file is kept as it came, then a commit of the ordinary kind names them all.

What was kept waits for its commit like any upload, so that a version can be checked first and published after.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from lorahub.adapters.rules import RULES
from lorahub.errors import BlobNotFound, InvalidAdapter, InvalidInput, LorahubError
from lorahub.protocol.digests import Sha256, parse_sha256
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath, parse_path

from lorahub_registry.core.accounts.permissions import Principal
from lorahub_registry.core.blobs import service as blobs
from lorahub_registry.features.publishing import service as publishing
from lorahub_registry.features.publishing.service import Candidate, Published
from lorahub_registry.features.references.service import LATEST
from lorahub_registry.infrastructure.backend import Backend

BRANCH = "main"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """A file whose bytes are here and wait for the commit that names them."""

    path: FilePath
    sha256: Sha256
    size: int

    def as_json(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256, "size": self.size}

    def as_field(self) -> str:
        return f"{self.sha256} {self.size} {self.path}"


def kept_of(field: str) -> Kept:
    """The file that a form of ours names. Whether the bytes are this person's to use is asked when they are."""
    digest, _, rest = field.partition(" ")
    size, _, path = rest.partition(" ")
    if not (size.isascii() and size.isdigit() and len(size) < 16):
        raise InvalidInput("the form names a file that was not kept", hint="choose the files again")
    return Kept(parse_path(path), parse_sha256(digest), int(size))


def keep(
    backend: Backend, principal: Principal, name: RepositoryName, path: FilePath, file: BinaryIO, size: int
) -> Kept:
    """Raises as `publishing.authorise`, `QuotaExceeded`, `DiskFull`."""
    repository, account_id = publishing.authorise(backend, principal, name), principal.require_account()
    blob = blobs.store_stream(backend, _pieces(file), size=size, account_id=account_id, repository_id=repository.id)
    return Kept(path, blob.sha256, blob.size)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def check(backend: Backend, principal: Principal, name: RepositoryName, files: Sequence[Kept]) -> dict[str, Any]:
    """What publishing them would find; nothing is published."""
    with _body(backend, principal, name, files, title="check") as body:
        found = publishing.examine(backend, principal, name, BRANCH, body)
    report = found.judged.report if found.judged else {}
    return {
        "verdict": found.judged.verdict if found.judged else None,
        "base": found.judged.base_name if found.judged else None,
        "method": found.judged.method if found.judged else None,
        "findings": [_shown(one) for one in _findings(report.get("findings", []), found.refusal)],
        "refused": None if found.refusal is None else {"message": found.refusal.message, "hint": found.refusal.hint},
        "files": found.paths,
        "left": found.left,
    }


def _findings(of_report: list[dict[str, Any]], refusal: InvalidAdapter | None) -> list[dict[str, Any]]:
    """The report has all of them; where a file was refused before there was one, the refusal has."""
    if of_report or refusal is None:
        return of_report
    return list(refusal.facts.get("findings") or [{"message": refusal.message, "hint": refusal.hint}])


def _shown(finding: dict[str, Any]) -> dict[str, Any]:
    rule = finding.get("rule")
    path = finding.get("path")
    return {
        "rule": rule or finding.get("code"),
        "hasPage": rule in RULES,
        "severity": finding.get("severity", "error"),
        "path": path if path != rule else None,
        "message": finding["message"],
        "hint": finding.get("hint"),
    }


def publish(
    backend: Backend, principal: Principal, name: RepositoryName, files: Sequence[Kept], *, title: str
) -> Published:
    """The next version. Raises as `publishing.publish`."""
    with _body(backend, principal, name, files, title=title, is_version=True) as body:
        return publishing.publish(backend, principal, name, BRANCH, body)


def save_card(
    backend: Backend, principal: Principal, name: RepositoryName, path: FilePath, text: str, *, parent: str
) -> Published:
    """A commit of one file on `parent`. Raises `ParentMoved`, and as `publishing.publish`."""
    lines = [
        _line("header", summary=f"Edit {path}", description="", parentCommit=parent),
        _inline(path, text.encode()),
    ]
    return publishing.publish(backend, principal, name, BRANCH, BytesIO(b"".join(lines)))


@contextmanager
def _body(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    files: Sequence[Kept],
    *,
    title: str,
    is_version: bool = False,
) -> Iterator[BinaryIO]:
    """The commit that names them, on disk beyond 1 MiB."""
    if not files:
        raise InvalidInput("no file was chosen", hint="choose the adapter's files: its weights and its configuration")
    advice = publishing.advise(
        backend, principal, name, BRANCH, [Candidate(file.path, file.size) for file in files], git_ignore=None
    )
    with SpooledTemporaryFile(max_size=_PIECE) as body:
        body.write(_line("header", summary=title, description=""))
        for file, how in zip(files, advice, strict=True):
            if how.is_lfs:
                body.write(_line("lfsFile", path=file.path, algo="sha256", oid=file.sha256, size=file.size))
            else:
                body.write(_inline(file.path, _content(backend, principal, name, file)))
        if is_version:
            body.write(_line("version", name=None, aliases=[LATEST]))
        body.seek(0)
        yield cast(BinaryIO, body)  # it is one; typeshed does not say so


def _content(backend: Backend, principal: Principal, name: RepositoryName, file: Kept) -> bytes:
    """Of a small file. Raises `BlobNotFound` for one that this person didn't bring here."""
    repository, account_id = publishing.authorise(backend, principal, name), principal.require_account()
    with backend.database.read() as session:
        blob = blobs.known_blobs(session, [file.sha256]).get(file.sha256)
        is_own = blobs.holds_lease(session, account_id=account_id, repository_id=repository.id, sha256=file.sha256)
    if blob is None or not is_own or blob.size != file.size:
        raise BlobNotFound(f"{file.path} is no longer kept", hint="choose the files again")
    return blobs.read_blob(backend, blob, limit=file.size, path=file.path)


def _line(key: str, **value: Any) -> bytes:
    return json.dumps({"key": key, "value": value}).encode() + b"\n"


def _inline(path: str, content: bytes) -> bytes:
    return _line("file", path=path, content=base64.b64encode(content).decode(), encoding="base64")


def refusal_of(error: LorahubError) -> dict[str, Any]:
    """A check's answer where none could be made."""
    return {
        "verdict": None,
        "base": None,
        "method": None,
        "findings": [],
        "refused": {"message": error.message, "hint": error.hint},
        "files": [],
        "left": [],
    }
