"""One adapter at one revision, as each of its pages shows it. JSON-ready.

Who may see a repository but not read it (a gate, a quarantine) sees what a list shows, and none of its files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorahub.errors import (
    AccessRefused,
    GatedRepository,
    NotFound,
    Quarantined,
    RevisionNotFound,
    VersionYanked,
)
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import parse_path

from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.permissions import Action, Principal, may
from lorahub_registry.core.repositories.service import check_readable
from lorahub_registry.core.revisions.service import Commit, RevisionFile
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.catalog import service as catalog
from lorahub_registry.features.catalog.service import Model
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.checks.service import Recorded
from lorahub_registry.features.downloads import service as downloads
from lorahub_registry.features.downloads.service import Entry, Folder, TreePage
from lorahub_registry.features.references import service as references
from lorahub_registry.features.references.service import LATEST, Alias, Version, Yank
from lorahub_registry.features.statistics import service as statistics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.web.times import wire_time
from lorahub_registry.pages.listing import rows_of

MOST_ENTRIES = 1000
COMMITS_SHOWN = 50
CARD = "README.md"
MOST_SHOWN_BYTES = 256 << 10
"""Of a text file that a page shows."""


@dataclass(frozen=True, slots=True)
class Opened:
    """`shown` is the data that all pages of the adapter begin with."""

    name: RepositoryName
    revision: str
    model: Model
    is_readable: bool
    shown: dict[str, Any]


def open_adapter(backend: Backend, principal: Principal, name: RepositoryName, revision: str | None) -> Opened:
    """Without a revision: the alias `latest`, else the head of `main`. Raises as `catalog.model`."""
    with reading(backend, principal, name) as opened:
        versions = references.versions_of(opened)
        aliases = references.aliases_of(opened)
    usual = _usual(versions, aliases)
    asked = revision or usual
    model = catalog.model(backend, principal, name, asked, wanted=())
    measured = checks.recorded_of(backend, [model.commit.id]).get(model.commit.id)
    version = next((found for found in versions if found.commit.id == model.commit.id), None)
    is_readable, why = _readable(backend, principal, name)
    repository = model.repository
    shown = {
        **rows_of(backend, [model])[0],
        **_measured(measured, checks.report_of(backend, model.commit.id)),
        "asked": asked,
        "usual": usual,
        "isUsual": asked == usual or model.commit == _head(backend, principal, name, usual),
        "version": version.name if version else None,
        "yanked": _yank(version.yanked) if version else None,
        "aliases": [_alias(alias) for alias in aliases if alias.commit_id == model.commit.id],
        "versions": len(versions),
        "newestVersion": versions[0].name if versions else None,
        "digest": model.commit.digest,
        "tags": model.facts.tags,
        "card": model.facts.card_data or {},
        "parts": model.facts.safetensors,
        "readable": is_readable,
        "closedBecause": why,
        "quarantine": repository.quarantine.reason if repository.quarantine and is_readable else None,
        "mayWrite": may(principal, Action.WRITE, repository.namespace, repository.id),
        "mayManage": may(principal, Action.MANAGE, repository.namespace, repository.id),
    }
    return Opened(RepositoryName(repository.namespace, repository.name), asked, model, is_readable, shown)


def _usual(versions: Sequence[Version], aliases: Sequence[Alias]) -> str:
    yanked = {version.commit.id for version in versions if version.yanked}
    return next((LATEST for alias in aliases if alias.name == LATEST and alias.commit_id not in yanked), "main")


def _head(backend: Backend, principal: Principal, name: RepositoryName, revision: str) -> Commit:
    with reading(backend, principal, name) as opened:
        return opened.at(revision).commit


def _readable(backend: Backend, principal: Principal, name: RepositoryName) -> tuple[bool, str | None]:
    try:
        check_readable(backend, principal, name)
    except (GatedRepository, Quarantined) as error:
        return False, error.message
    return True, None


def _measured(found: Recorded | None, report: Mapping[str, Any]) -> dict[str, Any]:
    """What the check at the push found out; empty for what is no adapter."""
    facts = found.facts if found else {}
    return {
        "isAdapter": found is not None,
        "format": facts.get("format"),
        "modules": facts.get("modules"),
        "scales": facts.get("scales", []),
        "dtypes": facts.get("dtypes", []),
        "options": facts.get("options", {}),
        "baseRevision": facts.get("base", {}).get("revision"),
        "baseLayout": facts.get("base", {}).get("layout"),
        "baseWeights": facts.get("base", {}).get("weights"),
        "mergeable": facts.get("mergeable"),
        "matched": report.get("matched"),
        "of": report.get("of"),
        "findings": report.get("findings", []),
        "runtimes": report.get("runtimes", []),
    }


def _yank(yank: Yank | None) -> dict[str, Any] | None:
    return None if yank is None else {"reason": yank.reason, "by": yank.by, "at": wire_time(yank.at)}


def _alias(alias: Alias) -> dict[str, Any]:
    return {"name": alias.name, "version": alias.version, "commit": alias.commit_id, "protected": alias.is_protected}


# --- parts ------------------------------------------------------------------------------------------------------------


def versions_of(backend: Backend, principal: Principal, name: RepositoryName) -> list[dict[str, Any]]:
    """Newest first."""
    with reading(backend, principal, name) as opened:
        found = references.versions_of(opened)
    measured = checks.recorded_of(backend, [version.commit.id for version in found])
    return [
        {
            "name": version.name,
            "commit": version.commit.id,
            "digest": version.commit.digest,
            "title": version.commit.title,
            "author": version.commit.author,
            "at": wire_time(version.commit.created_at),
            "size": version.size,
            "aliases": version.aliases,
            "yanked": _yank(version.yanked),
            "verdict": measured[version.commit.id].verdict if version.commit.id in measured else None,
        }
        for version in found
    ]


def aliases_of(backend: Backend, principal: Principal, name: RepositoryName) -> list[dict[str, Any]]:
    with reading(backend, principal, name) as opened:
        return [_alias(alias) for alias in references.aliases_of(opened)]


def branches_of(backend: Backend, principal: Principal, name: RepositoryName) -> list[str]:
    with reading(backend, principal, name) as opened:
        return [ref.name for ref in references.references_of(opened) if ref.kind == "branch"]


def commits_of(
    backend: Backend, principal: Principal, name: RepositoryName, revision: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The newest of the revision, and the commit that the next page starts with."""
    with reading(backend, principal, name) as opened:
        found, following = references.commits_page(opened, revision, limit=COMMITS_SHOWN)
    return [_commit(commit) for commit in found], None if following is None else following.id


def _commit(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "author": commit.author,
        "at": wire_time(commit.created_at),
    }


def folder_of(
    backend: Backend, principal: Principal, name: RepositoryName, revision: str, folder: str
) -> list[dict[str, Any]]:
    """Folders before files, with the commit that last changed each. Raises as `list_tree`."""
    page = TreePage(folder, is_recursive=False, is_expanded=True, after=None, limit=MOST_ENTRIES)
    listing = downloads.list_tree(backend, principal, name, revision, page)
    return [_entry(entry, listing.last_commits.get(entry.path)) for entry in listing.entries]


def _entry(entry: Entry, commit: Commit | None) -> dict[str, Any]:
    is_folder = isinstance(entry, Folder)
    return {
        "type": "directory" if is_folder else "file",
        "path": entry.path,
        "name": entry.path.rpartition("/")[2],
        "size": sum(file.size for file in entry.files) if isinstance(entry, Folder) else entry.size,
        "sha256": entry.sha256 if isinstance(entry, RevisionFile) else None,
        "large": isinstance(entry, RevisionFile) and entry.is_lfs,
        "lastCommit": _commit(commit) if commit else None,
    }


def file_of(backend: Backend, principal: Principal, name: RepositoryName, revision: str, path: str) -> dict[str, Any]:
    """A file with its text, where it is a short one. Raises as `open_file`."""
    opened = downloads.open_file(backend, principal, name, revision, parse_path(path))
    text = None
    if not (opened.file.is_lfs or opened.is_computed) and opened.file.size <= MOST_SHOWN_BYTES:
        text = _text(b"".join(opened.read(backend, 0, opened.file.size)))
    return {
        "path": opened.file.path,
        "size": opened.file.size,
        "sha256": opened.file.sha256,
        "large": opened.file.is_lfs,
        "commit": opened.commit.id,
        "text": text,
        "madeByWorkers": opened.merged is not None and opened.merged.is_left_to_workers(opened.file.path),
    }


def _text(content: bytes) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def text_of(backend: Backend, opened: Opened, principal: Principal, path: str) -> str | None:
    """The text of one of the adapter's files; None where there is none that can be read."""
    try:
        found = file_of(backend, principal, opened.name, opened.revision, path)
    except (AccessRefused, NotFound):
        return None
    text = found["text"]
    return str(text) if text is not None else None


def training_of(backend: Backend, opened: Opened) -> dict[str, Any] | None:
    """What its maker states in lorahub.json; None where he states nothing, or the visitor may not read it."""
    found = checks.recorded_of(backend, [opened.model.commit.id]).get(opened.model.commit.id)
    return found.facts.get("training") if found and opened.is_readable else None


def statistics_of(backend: Backend, principal: Principal, opened: Opened) -> dict[str, Any]:
    """`status` is done, wanted or failed, and `none` for what is no adapter."""
    try:
        found = statistics.statistics_at(backend, principal, opened.name, opened.revision)
    except (NotFound, RevisionNotFound, VersionYanked):
        return {"status": "none", "reason": None, "note": None, "statistics": None}
    note = workers.note(backend) if found.status == "wanted" else None
    return {"status": found.status, "reason": found.reason, "note": note, "statistics": found.statistics}
