"""One adapter at one revision, as each of its pages shows it. JSON-ready.

Who may see a repository but not read it (a gate, a quarantine) sees what a list shows, and none of its files.
"""

from collections.abc import Mapping
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
from lorahub.protocol.messages.message import as_json, wire_time
from lorahub.protocol.names import RepositoryName
from lorahub.protocol.paths import parse_path

from lorahub_registry.core.access import OpenedCommit, OpenedRepository
from lorahub_registry.core.accounts.permissions import Action
from lorahub_registry.core.revisions.service import Commit, RevisionFile
from lorahub_registry.core.workers import service as workers
from lorahub_registry.features.catalog import service as catalog
from lorahub_registry.features.catalog.service import Model
from lorahub_registry.features.checks import service as checks
from lorahub_registry.features.checks.service import Recorded
from lorahub_registry.features.downloads import service as downloads
from lorahub_registry.features.downloads.service import Entry, Folder, OpenFile, TreePage
from lorahub_registry.features.moves import service as moves
from lorahub_registry.features.moves.service import JudgedMove
from lorahub_registry.features.references import service as references
from lorahub_registry.features.references.service import LATEST
from lorahub_registry.features.statistics import service as statistics
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.pages.listing import row_of

MOST_ENTRIES = 1000
COMMITS_SHOWN = 50
CARD = "README.md"
MOST_SHOWN_BYTES = 256 << 10
"""Of a text file that a page shows."""


@dataclass(frozen=True, slots=True)
class AdapterPage:
    """`shown` is the data that all pages of the adapter begin with."""

    name: RepositoryName
    revision: str
    model: Model
    measured: Recorded | None
    is_readable: bool
    shown: dict[str, Any]


def adapter_page(opened: OpenedRepository, revision: str | None) -> AdapterPage:
    """Without a revision: the alias `latest`, else the head of `main`. Raises as `catalog.model`."""
    usual = _usual(opened)
    asked = revision or usual
    model = catalog.model(opened, asked, wanted=())
    commit = model.commit
    measured = checks.recorded_of(opened.session, [commit.id]).get(commit.id)
    at = opened.at(asked) if opened.holds(commit.id) else None  # a merged revision is no commit of it, and has no names
    version = None if at is None else at.version
    newest, versions = references.newest_version(opened)
    is_readable, why = _readable(opened)
    repository = model.repository
    shown = {
        **row_of(model, measured),
        **_measured(measured, checks.report_of(opened.session, commit.id) if measured else {}),
        "asked": asked,
        "usual": usual,
        "isUsual": asked == usual or commit == opened.at(usual).commit,
        "version": None if version is None else version.name,
        "yanked": None if version is None else as_json(references.yank_of(version)),
        "aliases": [] if at is None else as_json(references.aliases_at(at)),
        "versions": versions,
        "newestVersion": newest,
        "digest": commit.digest,
        "tags": model.facts.tags,
        "card": model.facts.card_data or {},
        "parts": model.facts.safetensors,
        "readable": is_readable,
        "closedBecause": why,
        "moved": moved_row(moves.move_of(opened.session, commit.id)) if measured else None,
        "quarantine": repository.quarantine.reason if repository.quarantine and is_readable else None,
        "upstream": None if at is None else _upstream(at),
        "mayWrite": opened.may(Action.WRITE),
        "mayManage": opened.may(Action.MANAGE),
    }
    return AdapterPage(opened.name, asked, model, measured, is_readable, shown)


def moved_row(found: JudgedMove | None) -> dict[str, Any] | None:
    """The verdict then and now; None where the base didn't move."""
    if found is None:
        return None
    return {
        "adapter": found.adapter,
        "version": found.version,
        "base": found.base,
        "revision": found.revision or None,
        "before": found.before,
        "after": found.after,
        "at": wire_time(found.at),
    }


def _upstream(at: OpenedCommit) -> dict[str, Any] | None:
    """Whose it is, and how much of it is here; None for one of this registry's own."""
    repository = at.repository.repository
    if repository.upstream is None:
        return None
    here = [file for file in at.files.values() if file.is_here]
    return {
        "name": repository.upstream,
        "kept": repository.is_kept,
        "files": len(at.files),
        "filesHere": len(here),
        "bytes": sum(file.size for file in at.files.values()),
        "bytesHere": sum(file.size for file in here),
    }


def _usual(opened: OpenedRepository) -> str:
    try:
        return LATEST if opened.resolve(LATEST).alias else "main"
    except (RevisionNotFound, VersionYanked):
        return "main"


def _readable(opened: OpenedRepository) -> tuple[bool, str | None]:
    try:
        opened.require_readable()
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
        "revisions": report.get("revisions", []),
        "coverage": report.get("coverage"),
        "findings": report.get("findings", []),
        "runtimes": report.get("runtimes", []),
    }


# --- parts ------------------------------------------------------------------------------------------------------------


def versions_of(opened: OpenedRepository) -> list[dict[str, Any]]:
    """Newest first."""
    found = references.versions_of(opened)
    measured = checks.recorded_of(opened.session, [version.commit.id for version in found])
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
            "yanked": as_json(version.yanked),
            "verdict": measured[version.commit.id].verdict if version.commit.id in measured else None,
        }
        for version in found
    ]


def aliases_of(opened: OpenedRepository) -> list[dict[str, Any]]:
    return [as_json(alias) for alias in references.aliases_of(opened)]


def branches_of(opened: OpenedRepository) -> list[str]:
    return [ref.name for ref in references.references_of(opened) if ref.kind == "branch"]


def commits_of(opened: OpenedRepository, revision: str) -> tuple[list[dict[str, Any]], str | None]:
    """The newest of the revision, and the commit that the next page starts with."""
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


def folder_of(opened: OpenedRepository, revision: str, folder: str) -> list[dict[str, Any]]:
    """Folders before files, with the commit that last changed each. Raises as `list_tree`."""
    page = TreePage(folder, is_recursive=False, is_expanded=True, after=None, limit=MOST_ENTRIES)
    listing = downloads.list_tree(opened, revision, page)
    return [_entry(entry, listing.last_commits.get(entry.path)) for entry in listing.entries]


def _entry(entry: Entry, commit: Commit | None) -> dict[str, Any]:
    is_folder = isinstance(entry, Folder)
    return {
        "type": "directory" if is_folder else "file",
        "path": entry.path,
        "name": entry.path.rpartition("/")[2],
        "size": sum(file.size for file in entry.files) if isinstance(entry, Folder) else entry.size,
        "sha256": entry.sha256 if isinstance(entry, RevisionFile) and (entry.is_here or entry.is_lfs) else None,
        "large": isinstance(entry, RevisionFile) and entry.is_lfs,
        "lastCommit": _commit(commit) if commit else None,
    }


def file_of(backend: Backend, file: OpenFile) -> dict[str, Any]:
    """A file with its text, where it is a short one."""
    return {
        "path": file.file.path,
        "size": file.file.size,
        "sha256": file.file.sha256 if file.file.is_here or file.file.is_lfs else None,
        "large": file.file.is_lfs,
        "commit": file.commit.id,
        "text": _short_text(backend, file),
        "madeByWorkers": file.merged is not None and file.merged.is_left_to_workers(file.file.path),
    }


def find_file(opened: OpenedRepository, revision: str, path: str) -> OpenFile | None:
    """None where there is none that can be read."""
    try:
        return downloads.open_file(opened, revision, parse_path(path))
    except (AccessRefused, NotFound):
        return None


def text_of(backend: Backend, file: OpenFile | None) -> str | None:
    """None where there is none, or none that can be read and shown. It waits for the storage."""
    try:
        return None if file is None else _short_text(backend, file)
    except (AccessRefused, NotFound):
        return None


def _short_text(backend: Backend, file: OpenFile) -> str | None:
    if file.file.is_lfs or file.is_computed or file.file.size > MOST_SHOWN_BYTES:
        return None
    return _text(b"".join(file.read(backend, 0, file.file.size)))


def _text(content: bytes) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def training_of(page: AdapterPage) -> dict[str, Any] | None:
    """What its maker states in lorahub.json; None where he states nothing, or the visitor may not read it."""
    return page.measured.facts.get("training") if page.measured and page.is_readable else None


def statistics_of(opened: OpenedRepository, revision: str) -> dict[str, Any]:
    """`status` is done, wanted or failed, and `none` for what is no adapter."""
    try:
        found = statistics.statistics_at(opened, revision)
    except (NotFound, RevisionNotFound, VersionYanked):
        return {"status": "none", "reason": None, "note": None, "statistics": None}
    note = workers.note_in(opened.session, opened.backend) if found.status == "wanted" else None
    return {"status": found.status, "reason": found.reason, "note": note, "statistics": found.statistics}
