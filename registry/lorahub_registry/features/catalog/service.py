"""The catalog: facts of revisions, recorded with them or derived when first asked for; pages and entries of models.

Facts are a function of a revision's files. Publishing derives them before its transaction and records them inside it;
a commit that came another way (the first of a repository, a squash) gets them when somebody looks.
"""

import logging
from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from lorahub.errors import BlobDamaged, InvalidInput, InvalidToken
from lorahub.protocol.digests import CommitId, Sha256
from lorahub.protocol.names import RepositoryName

from lorahub_registry.core.access import OpenedRepository, Reader
from lorahub_registry.core.blobs.service import Blob, known_blobs, read_blob
from lorahub_registry.core.repositories.service import (
    Repository,
    name_key,
    repositories_by_id,
    stored_bytes,
)
from lorahub_registry.core.revisions import service as revisions
from lorahub_registry.core.revisions.service import Commit, RevisionFile
from lorahub_registry.core.upstreams import service as upstreams
from lorahub_registry.features.catalog import facets, queries
from lorahub_registry.features.catalog.facts import Facts, derive, gather
from lorahub_registry.features.catalog.queries import TRAINING_LOG, Derivative, Entry, Measured, Position
from lorahub_registry.features.catalog.search import Search, Sort
from lorahub_registry.features.checks.service import Judged, Recorded, recorded_of
from lorahub_registry.features.merged import service as merges
from lorahub_registry.features.merged.service import MergedModel
from lorahub_registry.features.references.service import yank_of
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Session

__all__ = ["TRAINING_LOG", "Facts", "derive_facts", "record_entry", "record_facts"]

logger = logging.getLogger("lorahub")

CURSOR_LIFETIME = timedelta(days=1)
MOST_TAGS_LISTED = 2000
MOST_COUNTED = 1000
_MODELS_ASKED = 5000
_REINDEXED_AT_ONCE = 500
_NO_ADAPTER = Measured(None, (), None, None)
MOST_TERM_LENGTH = 400  # characters: a tag's or a base's 300, and what it is


class StoredFile(Protocol):
    """A file of a revision, recorded or about to be."""

    @property
    def sha256(self) -> Sha256: ...


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of the catalog: a repository as of one commit. What nobody asked for is empty."""

    repository: Repository
    commit: Commit
    facts: Facts
    files: Sequence[RevisionFile] = ()
    stored_bytes: int = 0
    children: int = 0
    measured: Recorded | None = None
    warning: str | None = None
    """Said of a yanked version that was named exactly."""
    age: int | None = None
    """Seconds since the upstream, which can't be asked, said what the revision is."""


@dataclass(frozen=True, slots=True)
class Page:
    models: list[Model]
    cursor: str | None
    """Leads to the next page."""


# --- facts ------------------------------------------------------------------------------------------------------------


def derive_facts(
    backend: Backend,
    files: Mapping[str, StoredFile],
    blobs: Mapping[Sha256, Blob],
    *,
    measured: Sequence[str] = (),
) -> Facts:
    """The facts of these files by path. Reads the small ones that describe the rest; opens no transaction.

    `measured` are tags that a check of the adapter adds. Raises `BlobDamaged` where one that describes is lost.
    """

    def read(path: str, limit: int) -> bytes | None:
        blob = blobs.get(files[path].sha256) if path in files else None
        return None if blob is None or blob.is_blocked else read_blob(backend, blob, limit=limit, path=path)

    found = {path: blobs[file.sha256].inspection for path, file in files.items() if file.sha256 in blobs}
    weights = {
        path: inspection["safetensors"]
        for path, inspection in found.items()
        if path.endswith(".safetensors") and "safetensors" in inspection
    }
    return derive(gather(list(files), read, weights, measured=measured))


def record_facts(session: Session, commit_id: CommitId, facts: Facts) -> None:
    """Inside the transaction that makes the commit."""
    queries.insert_facts(session, commit_id, facts)


def record_entry(
    session: Session, *, repository_id: int, facts: Facts, judged: Judged | None, paths: Container[str]
) -> None:
    """What a search goes by: of the commit that `main` leads to from now on, which has these files, and of the
    repository's names.
    """
    measured = _NO_ADAPTER if judged is None else _found(judged)
    names = revisions.terms_of_names(session, [repository_id])[repository_id]
    queries.replace_entry(session, repository_id, _entry(facts, measured, names, has_log=TRAINING_LOG in paths))


def _found(judged: Judged) -> Measured:
    ranks = judged.ranks
    return Measured(
        judged.base_name,
        judged.labels,
        min(ranks, default=None),
        max(ranks, default=None),
        has_record=bool(judged.facts.get("training")),
    )


def _entry(facts: Facts, measured: Measured, names: Sequence[str], *, has_log: bool) -> Entry:
    """Tags are what people say; labels are measured, and no tag passes for one."""
    terms = [f"tag:{tag}" for tag in facts.tags]
    terms += [f"base:{measured.base.lower()}"] if measured.base else []
    terms += measured.labels
    terms += facets.terms_of(facts)
    terms += ["has:training run"] if has_log or measured.has_record else []
    terms += names
    usable = [term for term in dict.fromkeys(terms) if len(term) <= MOST_TERM_LENGTH]
    total = (facts.safetensors or {}).get("total")
    return Entry(usable, measured.least_rank, measured.most_rank, total)


def reindex(backend: Backend) -> int:
    """Writes the catalog's entries anew from the recorded facts of each head of `main`; how many.

    A head without facts of its own, as after a squash, has its predecessor's files, and keeps its entry.
    """
    count, after = 0, 0
    while True:
        with backend.database.write() as session:
            queries.insert_missing_entries(session, limit=_REINDEXED_AT_ONCE)
            ids = queries.lock_entries(session, after=after, limit=_REINDEXED_AT_ONCE)
            queries.rewrite_names(session, ids)
            heads = revisions.main_heads(session, ids)
            facts = queries.facts_of(session, set(heads.values()))
            measured = queries.measured_of(session, facts.keys())
            with_log = queries.with_log(session, facts.keys())
            names = revisions.terms_of_names(session, list(heads))
            for repository_id, head in heads.items():
                if head in facts:
                    found = measured.get(head, _NO_ADAPTER)
                    entry = _entry(facts[head], found, names[repository_id], has_log=head in with_log)
                    queries.replace_entry(session, repository_id, entry)
                    count += 1
        if not ids:
            return count
        after = ids[-1]


def facts_of(reader: Reader, commit_ids: Collection[CommitId]) -> dict[CommitId, Facts]:
    """Recorded facts, and for commits without any, facts derived now and recorded for the next caller."""
    known = queries.facts_of(reader.session, commit_ids)
    files = {commit_id: revisions.files_of(reader.session, commit_id) for commit_id in set(commit_ids) - known.keys()}
    if not files:
        return known
    blobs = known_blobs(reader.session, [file.sha256 for tree in files.values() for file in tree.values()])
    derived: dict[CommitId, Facts] = {}
    damaged: dict[CommitId, Facts] = {}
    for commit_id, tree in files.items():
        try:
            derived[commit_id] = derive_facts(reader.backend, tree, blobs)
        except BlobDamaged:  # one of many in a list; what isn't known of it now is not recorded
            damaged[commit_id] = Facts(tags=[])
    if derived:
        reader.afterwards.append(lambda: _remember(reader.backend, derived))
    return {**known, **derived, **damaged}


def _remember(backend: Backend, derived: Mapping[CommitId, Facts]) -> None:
    """Saves the next reader the work. Where another did, the repository went or the disk is full, it can wait."""
    try:
        with backend.database.write() as session:
            for commit_id, facts in derived.items():
                queries.insert_facts(session, commit_id, facts)
    except (queries.IntegrityError, *queries.UNAVAILABLE):
        logger.info("facts of %d commits were not recorded; they are derived again when needed", len(derived))


# --- one model --------------------------------------------------------------------------------------------------------


def model(opened: OpenedRepository, revision: str, *, wanted: Collection[str]) -> Model:
    """The model at a revision, with what the properties in `wanted` need. Raises as `at` and `merged.find`."""
    merged = merges.find(opened, revision)
    if merged is not None:
        return _describe_merged(merged)
    at = opened.at(revision)
    yank = at.version and yank_of(at.version)
    warning = f"{at.version.name} was yanked: {yank.reason}" if at.version and yank else None
    age = upstreams.age_of(opened.backend, opened.session, opened.repository, revision)
    return replace(_describe(opened.reader, [(opened.repository, at.commit)], wanted, warning=warning)[0], age=age)


def _describe_merged(merged: MergedModel) -> Model:
    """Facts of the files as they will be; headers of weights tell nothing that the base's don't."""

    def read(path: str, limit: int) -> bytes | None:
        return merged.plan.read(path, 0, min(limit, merged.files[path].size)) if path in merged.files else None

    facts = derive(gather(list(merged.files), read, {}))
    return Model(merged.repository, merged.commit, facts, sorted(merged.files.values(), key=lambda file: file.path))


def _describe(
    reader: Reader,
    found: Sequence[tuple[Repository, Commit]],
    wanted: Collection[str],
    *,
    warning: str | None = None,
) -> list[Model]:
    facts = facts_of(reader, [commit.id for _, commit in found])
    session = reader.session
    children = _children(reader, found) if "childrenModelCount" in wanted else {}
    measured = recorded_of(session, [commit.id for _, commit in found]) if "adapter" in wanted else {}
    return [
        Model(
            repository=repository,
            commit=commit,
            facts=facts[commit.id],
            files=_files(session, commit) if "siblings" in wanted else (),
            stored_bytes=stored_bytes(session, repository.id) if "usedStorage" in wanted else 0,
            children=children.get(repository.full_name, 0),
            measured=measured.get(commit.id),
            warning=warning,
        )
        for repository, commit in found
    ]


def _files(session: Session, commit: Commit) -> list[RevisionFile]:
    """In order of path, whatever order the database has for text."""
    return sorted(revisions.files_of(session, commit.id).values(), key=lambda file: file.path)


def _children(reader: Reader, found: Sequence[tuple[Repository, Commit]]) -> dict[str, int]:
    names = [repository.full_name for repository, _ in found]
    return {
        name: queries.children(reader.session, name, visible_namespaces=reader.visible_namespaces) for name in names
    }


# --- many models ------------------------------------------------------------------------------------------------------


def list_models(reader: Reader, search: Search, *, cursor: str | None, limit: int, wanted: Collection[str]) -> Page:
    """One page of visible models that satisfy `search`, as of `main`. Raises `InvalidInput` for a cursor not ours."""
    backend, session = reader.backend, reader.session
    after = None if cursor is None else _read_cursor(backend, cursor, search.sort)
    places = queries.repositories_page(
        session, search, visible_namespaces=reader.visible_namespaces, after=after, limit=limit + 1
    )
    found = _as_of_main(session, [place.repository_id for place in places[:limit]])
    following = _write_cursor(backend, places[limit - 1], search.sort) if len(places) > limit else None
    return Page(_describe(reader, found, wanted), following)


def _as_of_main(session: Session, repository_ids: Sequence[int]) -> list[tuple[Repository, Commit]]:
    """In the given order, without those that are gone meanwhile."""
    repositories = repositories_by_id(session, repository_ids)
    heads = revisions.main_heads(session, repository_ids)
    commits = revisions.commits_by_id(session, list(heads.values()))
    return [(repositories[i], commits[heads[i]]) for i in repository_ids if i in repositories and i in heads]


def made_from(reader: Reader, names: Sequence[str], *, limit: int) -> list[Derivative]:
    """Visible models that name one of these as what they were made from, as of `main`; those that changed last."""
    return queries.made_from(reader.session, names, visible_namespaces=reader.visible_namespaces, limit=limit)


def bases_of(reader: Reader, names: Sequence[RepositoryName]) -> list[Derivative]:
    """What those of these that are visible say at `main` that they were made from."""
    keys = [name_key(name) for name in names]
    found = queries.derivatives_of(reader.session, keys, visible_namespaces=reader.visible_namespaces)
    spelled = {name.key for name in names}
    return [one for one in found if one.name.lower() in spelled]


def _write_cursor(backend: Backend, place: Position, sort: Sort) -> str:
    value = place.value.isoformat() if isinstance(place.value, datetime) else place.value
    return backend.signer.sign("catalog-cursor", {"sort": sort, "value": value, "id": place.repository_id})


def _read_cursor(backend: Backend, cursor: str, sort: Sort) -> Position:
    """Signed, so whatever is read here was written above."""
    try:
        written = backend.signer.read("catalog-cursor", cursor, lifetime=CURSOR_LIFETIME)
    except InvalidToken:
        written = {}
    if written.get("sort") != sort:
        raise InvalidInput(
            "the cursor is not one of this list, or is too old", hint="start the list again, without a cursor"
        )
    value = written["value"]
    return Position(datetime.fromisoformat(value) if isinstance(value, str) else value, written["id"])


@dataclass(frozen=True, slots=True)
class Counts:
    """How many repositories a search finds, and of each facet's values how many. Not `is_whole`: at least so many."""

    total: int
    is_whole: bool
    counts: Mapping[str, Mapping[str, int]]


def count(reader: Reader, search: Search) -> Counts:
    """Among the `MOST_COUNTED` visible ones that changed last: what nobody may see is in no count."""
    found = queries.found(reader.session, search, visible_namespaces=reader.visible_namespaces, limit=MOST_COUNTED)
    total = len(found.matches)
    return Counts(total, total < MOST_COUNTED, facets.count(found))


def count_withdrawn(reader: Reader, search: Search) -> int:
    """Of what a search finds, the repositories without a good version; at most `MOST_COUNTED`."""
    return queries.count_withdrawn(
        reader.session, search, visible_namespaces=reader.visible_namespaces, limit=MOST_COUNTED
    )


def public_tags(backend: Backend) -> list[str]:
    """The tags in use among the public models that changed last, the most used first, at most `MOST_TAGS_LISTED`."""
    with backend.database.read() as session:
        terms = queries.public_terms(session, limit=_MODELS_ASKED)
    counts = Counter(term.removeprefix("tag:") for of_one in terms for term in of_one if term.startswith("tag:"))
    ordered = sorted(counts, key=lambda tag: (-counts[tag], tag))
    return ordered[:MOST_TAGS_LISTED]
