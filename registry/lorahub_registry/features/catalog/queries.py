"""Rows of facts and tags, and pages of repositories."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from lorahub.protocol.digests import CommitId
from lorahub.protocol.names import similarity_key
from sqlalchemy import ColumnElement, Row, Select, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from lorahub_registry.features.catalog.facets import AGES, Found, Match
from lorahub_registry.features.catalog.facts import Facts
from lorahub_registry.features.catalog.search import Search, Sort
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.failures import UNAVAILABLE
from lorahub_registry.infrastructure.database.listed import is_listed
from lorahub_registry.infrastructure.database.paging import pages
from lorahub_registry.infrastructure.database.search import count_terms, has_terms, name_contains, raw_terms
from lorahub_registry.infrastructure.database.tables import (
    Account,
    AdapterFacts,
    AdapterLabel,
    CatalogEntry,
    CommitFacts,
    CommitFile,
    Repository,
)

__all__ = ["UNAVAILABLE", "IntegrityError"]

MOST_CHILDREN = 10_000
TRAINING_LOG = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a search can ask of the head of `main`, beside the repository's own properties."""

    terms: list[str]
    least_rank: int | None
    most_rank: int | None
    parameters: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a check found out of an adapter, as far as a search can ask for it."""

    base: str | None
    labels: Sequence[str]
    least_rank: int | None
    most_rank: int | None
    has_record: bool = False
    """Its maker states how it was trained."""


@dataclass(frozen=True, slots=True)
class Derivative:
    """A repository, and what it says at `main` that it was made from."""

    name: str
    base_models: list[str]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ends: the last repository's sort value, and its id, which tells equals apart."""

    value: datetime | int | float
    repository_id: int


# --- facts ------------------------------------------------------------------------------------------------------------


def facts_of(session: Session, commit_ids: Collection[CommitId]) -> dict[CommitId, Facts]:
    found: dict[CommitId, Facts] = {}
    for page in pages(commit_ids):
        statement = select(CommitFacts.__table__).where(CommitFacts.commit_id.in_(page))
        found.update((CommitId(row.commit_id), _facts(row)) for row in session.execute(statement))
    return found


def insert_facts(session: Session, commit_id: CommitId, facts: Facts) -> None:
    session.add(
        CommitFacts(
            commit_id=commit_id,
            tags=facts.tags,
            card_data=facts.card_data,
            library_name=facts.library_name,
            pipeline_tag=facts.pipeline_tag,
            safetensors=facts.safetensors,
            config=facts.config,
        )
    )
    session.flush()


def replace_entry(session: Session, repository_id: int, entry: Entry) -> None:
    values = asdict(entry)
    session.execute(update(CatalogEntry).where(CatalogEntry.repository_id == repository_id).values(values))


def _facts(row: Row[Any]) -> Facts:
    return Facts(
        tags=row.tags,
        card_data=row.card_data,
        library_name=row.library_name,
        pipeline_tag=row.pipeline_tag,
        safetensors=row.safetensors,
        config=row.config,
    )


# --- entries ----------------------------------------------------------------------------------------------------------


def insert_missing_entries(session: Session, *, limit: int) -> int:
    """For repositories that have none, because an earlier version made them; how many. Empty ones."""
    statement = (
        select(Repository.id, Repository.namespace, Repository.name)
        .outerjoin(CatalogEntry, CatalogEntry.repository_id == Repository.id)
        .where(CatalogEntry.repository_id.is_(None))
        .limit(limit)
    )
    rows = [
        {"repository_id": repository_id, "name": f"{namespace}/{name}".lower(), "terms": []}
        for repository_id, namespace, name in session.execute(statement)
    ]
    if rows:
        session.execute(insert(CatalogEntry), rows)
    return len(rows)


def lock_entries(session: Session, *, after: int, limit: int) -> list[int]:
    """Ids of their repositories, in order, from behind `after`. Nobody else rewrites these meanwhile."""
    statement = select(CatalogEntry.repository_id).where(CatalogEntry.repository_id > after)
    return list(session.scalars(statement.order_by(CatalogEntry.repository_id).limit(limit).with_for_update()))


def rewrite_names(session: Session, repository_ids: Sequence[int]) -> None:
    name = select(func.lower(Repository.namespace + "/" + Repository.name))
    of_entry = name.where(Repository.id == CatalogEntry.repository_id).scalar_subquery()
    session.execute(update(CatalogEntry).where(CatalogEntry.repository_id.in_(repository_ids)).values(name=of_entry))


def measured_of(session: Session, commit_ids: Collection[CommitId]) -> dict[CommitId, Measured]:
    """Of those that are adapters."""
    labels: dict[str, list[str]] = {}
    for commit_id, label in session.execute(
        select(AdapterLabel.commit_id, AdapterLabel.label).where(AdapterLabel.commit_id.in_(commit_ids))
    ):
        labels.setdefault(commit_id, []).append(label)
    rows = session.scalars(select(AdapterFacts).where(AdapterFacts.commit_id.in_(commit_ids)))
    return {
        CommitId(row.commit_id): Measured(
            row.base_key,
            labels.get(row.commit_id, []),
            row.least_rank,
            row.most_rank,
            has_record=bool(row.facts.get("training")),
        )
        for row in rows
    }


def with_log(session: Session, commit_ids: Collection[CommitId]) -> set[CommitId]:
    """Those that have the log of a training run among their files."""
    statement = select(CommitFile.commit_id).where(
        CommitFile.commit_id.in_(commit_ids), CommitFile.path == TRAINING_LOG
    )
    return set(map(CommitId, session.scalars(statement)))


# --- pages ------------------------------------------------------------------------------------------------------------


def repositories_page(
    session: Session,
    search: Search,
    *,
    visible_namespaces: Sequence[int] | None,
    after: Position | None,
    limit: int,
) -> list[Position]:
    """At most `limit` repositories behind `after`; private ones only in `visible_namespaces` (None: all)."""
    key = _SORT_KEYS[search.sort]
    statement = select(key, Repository.id).where(is_listed(visible_namespaces), *_conditions(session, search))
    if search.asks_for_contents:
        statement = statement.join(CatalogEntry, CatalogEntry.repository_id == Repository.id)
    if after is not None:
        place = tuple_(literal(after.value, key.type), literal(after.repository_id))
        statement = statement.where(tuple_(key, Repository.id) < place)
    found = session.execute(statement.order_by(key.desc(), Repository.id.desc()).limit(limit))
    return [Position(value, repository_id) for value, repository_id in found]


_SORT_KEYS: Mapping[Sort, Any] = {
    "lastModified": Repository.updated_at,
    "createdAt": Repository.created_at,
    "downloads": Repository.downloads,
    "likes": Repository.likes,
    "trendingScore": Repository.trending,
}


def _conditions(session: Session, search: Search) -> list[ColumnElement[bool]]:
    conditions = [name_contains(session, text) for text in search.texts]
    conditions += [_says(session, word) for word in search.words]
    conditions += [Repository.updated_at >= search.since] if search.since is not None else []
    conditions += [Repository.id.not_in(_withdrawn(session))] if search.hides_withdrawn else []
    if search.terms:
        conditions.append(has_terms(session, search.terms))
    if search.author is not None:
        account = select(Account.id).where(
            Account.name_key == similarity_key(search.author), func.lower(Account.name) == search.author.lower()
        )
        conditions.append(Repository.namespace_id == account.scalar_subquery())
    if search.is_gated is not None:
        conditions.append(Repository.gated.is_not(None) if search.is_gated else Repository.gated.is_(None))
    bounds = (
        (CatalogEntry.parameters, search.least_parameters, search.most_parameters),
        (CatalogEntry.most_rank, search.least_rank, None),  # an adapter of several ranks is found by each range
        (CatalogEntry.least_rank, None, search.most_rank),  # that meets one of them
    )
    for column, least, most in bounds:
        conditions += [column >= least] if least is not None else []
        conditions += [column <= most] if most is not None else []
    return conditions


def found(session: Session, search: Search, *, visible_namespaces: Sequence[int] | None, limit: int) -> Found:
    """The repositories that `search` finds, at most `limit`, those that changed last."""
    columns = (
        raw_terms(session),
        CatalogEntry.least_rank,
        CatalogEntry.most_rank,
        CatalogEntry.parameters,
        Repository.namespace,
        *(Repository.updated_at >= now() - age for age in AGES.values()),
    )
    statement = (
        select(*columns)
        .join(Repository, Repository.id == CatalogEntry.repository_id)
        .where(is_listed(visible_namespaces), *_conditions(session, search))
        .order_by(Repository.updated_at.desc(), Repository.id.desc())
        .limit(limit)
    )
    rows = session.execute(statement).all()
    return Found(
        terms=count_terms(session, (row[0] for row in rows)),
        matches=[Match(least, most, size, name, newer) for _, least, most, size, name, *newer in rows],
    )


def _says(session: Session, word: str) -> ColumnElement[bool]:
    as_term = (has_terms(session, [f"{kind}:{word}"]) for kind in ("tag", "base"))
    return or_(name_contains(session, word), *as_term)


def _withdrawn(session: Session) -> Select[int]:
    """Ids of the repositories none of whose versions is good; they are few, and an index has them."""
    return select(CatalogEntry.repository_id).where(has_terms(session, ["yanked:1"]))


def made_from(
    session: Session, names: Sequence[str], *, visible_namespaces: Sequence[int] | None, limit: int
) -> list[Derivative]:
    """Visible repositories that name one of these as their base, those that changed last."""
    statement = (
        select(Repository.namespace, Repository.name, CatalogEntry.terms)
        .join(CatalogEntry, CatalogEntry.repository_id == Repository.id)
        .where(or_(*(has_terms(session, [f"tag:base_model:{name}"]) for name in names)))
        .where(is_listed(visible_namespaces))
        .order_by(Repository.updated_at.desc(), Repository.id.desc())
    )
    return _derivatives(session, statement.limit(limit))


def derivatives_of(
    session: Session, keys: Sequence[str], *, visible_namespaces: Sequence[int] | None
) -> list[Derivative]:
    """Of the visible repositories of these keys."""
    statement = (
        select(Repository.namespace, Repository.name, CatalogEntry.terms)
        .join(CatalogEntry, CatalogEntry.repository_id == Repository.id)
        .where(Repository.name_key.in_(keys), is_listed(visible_namespaces))
    )
    return _derivatives(session, statement)


def _derivatives(session: Session, statement: Select[str, str, list[str]]) -> list[Derivative]:
    found = session.execute(statement)
    return [Derivative(f"{namespace}/{name}", _base_models_in(terms)) for namespace, name, terms in found]


def _base_models_in(terms: Sequence[str]) -> list[str]:
    """As `Facts.base_models` of tags."""
    said = (term.removeprefix("tag:") for term in terms if term.startswith("tag:base_model:"))
    return [tag.partition(":")[2] for tag in said if tag.count(":") == 1]


# --- counts -----------------------------------------------------------------------------------------------------------


def count_withdrawn(session: Session, search: Search, *, visible_namespaces: Sequence[int] | None, limit: int) -> int:
    """Of the repositories that `search` finds, those that it hides unless it is asked not to; at most `limit`."""
    everything = replace(search, hides_withdrawn=False)
    found = (
        select(Repository.id)
        .join(CatalogEntry, CatalogEntry.repository_id == Repository.id)
        .where(Repository.id.in_(_withdrawn(session)), is_listed(visible_namespaces), *_conditions(session, everything))
        .limit(limit)
    )
    return session.scalar(select(func.count()).select_from(found.subquery())) or 0


def children(session: Session, name: str, *, visible_namespaces: Sequence[int] | None) -> int:
    """How many visible repositories name this one as their base; counted up to `MOST_CHILDREN`."""
    found = (
        select(Repository.id)
        .join(CatalogEntry, CatalogEntry.repository_id == Repository.id)
        .where(has_terms(session, [f"tag:base_model:{name}"]), is_listed(visible_namespaces))
        .limit(MOST_CHILDREN)
    )
    return session.scalar(select(func.count()).select_from(found.subquery())) or 0


def public_terms(session: Session, *, limit: int) -> list[list[str]]:
    """Of the `limit` public repositories that changed last."""
    statement = (
        select(CatalogEntry.terms)
        .join(Repository, Repository.id == CatalogEntry.repository_id)
        .where(is_listed(()))
        .order_by(Repository.updated_at.desc(), Repository.id.desc())
        .limit(limit)
    )
    return list(session.scalars(statement))
