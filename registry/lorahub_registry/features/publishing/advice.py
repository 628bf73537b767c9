"""How a client is to send each file: by an upload, inside the commit, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorahub.adapters.file_kinds import is_by_product
from lorahub.protocol.digests import Sha256
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import FilePath

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.permissions import Action, Principal
from lorahub_registry.core.blobs.service import known_blobs, read_blob
from lorahub_registry.core.quotas import service as quotas
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.features.publishing.ignore_rules import is_ignored, parse_rules
from lorahub_registry.features.publishing.tree import head_of
from lorahub_registry.features.publishing.versions import WEIGHTS
from lorahub_registry.infrastructure.backend import Backend

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that a client is about to send."""

    path: FilePath
    size: int


@dataclass(frozen=True, slots=True)
class Advice:
    """How to send it, or not at all. `oid` is what is there now under this path, in the form that fits the mode."""

    path: str
    is_lfs: bool
    is_ignored: bool
    oid: str | None
    sha256: Sha256 | None
    """Of what is there; None also for damaged bytes, which want to be sent again."""


def advise(
    backend: Backend,
    principal: Principal,
    name: RepositoryName,
    branch: str,
    candidates: Sequence[Candidate],
    *,
    git_ignore: str | None,
) -> list[Advice]:
    """Raises as `permitted`; `RevisionNotFound`; `QuotaExceeded` before a client sends what can't be kept."""
    with reading(backend, principal, name) as opened:
        opened.require(Action.WRITE)
        head = head_of(opened.session, opened.repository, branch)
        asked = list(candidates)
        files = revisions.files_at(opened.session, head.id, [*(one.path for one in asked), ".gitignore"])
        own = files.get(".gitignore")
        blobs = known_blobs(opened.session, [file.sha256 for file in files.values()])
    if own and git_ignore is None:
        git_ignore = read_blob(backend, blobs[own.sha256], limit=1 << 16).decode("utf-8", "replace")
    rules = parse_rules(git_ignore or "")
    answers = []
    for candidate in asked:
        is_lfs = travels_by_upload(candidate, limit=backend.settings.inline_file_bytes)
        there = files.get(candidate.path)
        oid = None if there is None else (there.sha256 if is_lfs else there.git_sha1)
        is_left = is_by_product(candidate.path) or is_ignored(candidate.path, rules)
        is_sound = there is not None and not blobs[there.sha256].is_damaged
        answers.append(Advice(candidate.path, is_lfs, is_left, oid, there.sha256 if there and is_sound else None))
    wanted = [one.size for one, answer in zip(candidates, answers, strict=True) if not answer.is_ignored]
    with backend.database.read() as session:
        quotas.require_room_for_files(session, backend.settings, opened.repository.namespace_id, wanted)
    return answers


def travels_by_upload(candidate: Candidate, *, limit: int) -> bool:
    """Weights, images and whatever is large; the rest fits into the commit."""
    return candidate.size > limit or (candidate.size > 0 and candidate.path.lower().endswith(WEIGHTS + _IMAGES))
