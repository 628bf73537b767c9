"""Rows of facts and tags, and pages of repositories."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lorahub.protocol.digests import CommitId
from lorahub.protocol.names import similarity_key
from sqlalchemy import BigInteger, ColumnElement, and_, delete, func, insert, or_, select, true
from sqlalchemy.exc import IntegrityError

from lorahub_registry.features.catalog.facts import Facts
from lorahub_registry.features.catalog.search import Search, Sort
from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.failures import UNAVAILABLE
from lorahub_registry.infrastructure.database.listed import is_listed
from lorahub_registry.infrastructure.database.tables import (
    Account,
    AdapterFacts,
    AdapterLabel,
    CommitFacts,
    DownloadsPerDay,
    Reference,
    Repository,
    RepositoryTag,
)

__all__ = ["UNAVAILABLE", "IntegrityError"]

TRENDING_DAYS = 7
_IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ends: the last repository's sort value, and its id, which tells equals apart."""

    value: datetime | int
    repository_id: int


# --- facts ------------------------------------------------------------------------------------------------------------


def facts_of(session: Session, commit_ids: Collection[CommitId]) -> dict[CommitId, Facts]:
    found: dict[CommitId, Facts] = {}
    wanted = sorted(commit_ids)
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        statement = select(CommitFacts).where(CommitFacts.commit_id.in_(wanted[start : start + _IDS_AT_ONCE]))
        found.update((CommitId(row.commit_id), _facts(row)) for row in session.scalars(statement))
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


def replace_tags(session: Session, repository_id: int, tags: Iterable[str]) -> None:
    session.execute(delete(RepositoryTag).where(RepositoryTag.repository_id == repository_id))
    rows = [{"repository_id": repository_id, "tag": tag} for tag in tags]
    if rows:
        session.execute(insert(RepositoryTag), rows)


def _facts(row: CommitFacts) -> Facts:
    return Facts(
        tags=row.tags,
        card_data=row.card_data,
        library_name=row.library_name,
        pipeline_tag=row.pipeline_tag,
        safetensors=row.safetensors,
        config=row.config,
    )


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
    key = _sort_key(search.sort)
    statement = select(key, Repository.id).where(is_listed(visible_namespaces), *_conditions(search))
    if after is not None:
        same_value = and_(key == after.value, Repository.id < after.repository_id)
        statement = statement.where(or_(key < after.value, same_value))
    found = session.execute(statement.order_by(key.desc(), Repository.id.desc()).limit(limit))
    return [Position(value, repository_id) for value, repository_id in found]


def _sort_key(sort: Sort) -> ColumnElement[Any]:
    columns: Mapping[Sort, Any] = {
        "lastModified": Repository.updated_at,
        "createdAt": Repository.created_at,
        "downloads": Repository.downloads,
        "likes": Repository.likes,
        "trendingScore": _recent_downloads_of_row(),
    }
    return columns[sort].expression  # type: ignore[no-any-return]  # a column is its own expression


def _conditions(search: Search) -> list[ColumnElement[bool]]:
    full_name = func.lower(Repository.namespace + "/" + Repository.name)
    conditions = [full_name.contains(text, autoescape=True) for text in search.texts]
    conditions += [
        Repository.id.in_(select(RepositoryTag.repository_id).where(RepositoryTag.tag == tag)) for tag in search.tags
    ]
    if search.author is not None:
        account = select(Account.id).where(
            Account.name_key == similarity_key(search.author), func.lower(Account.name) == search.author.lower()
        )
        conditions.append(Repository.namespace_id.in_(account))
    if search.is_gated is not None:
        conditions.append(Repository.gated.is_not(None) if search.is_gated else Repository.gated.is_(None))
    if search.least_parameters is not None or search.most_parameters is not None:
        conditions.append(_has_parameters(search.least_parameters, search.most_parameters))
    if search.asks_for_adapters:
        conditions.append(_is_adapter(search))
    return conditions


def _is_adapter(search: Search) -> ColumnElement[bool]:
    """By what was measured of the head of `main`. An adapter of several ranks is found by each range that meets one."""
    wanted = [Reference.space == "heads", Reference.name == "main"]
    if search.base is not None:
        wanted.append(AdapterFacts.base_key == search.base.lower())
    if search.least_rank is not None:
        wanted.append(AdapterFacts.most_rank >= search.least_rank)
    if search.most_rank is not None:
        wanted.append(AdapterFacts.least_rank <= search.most_rank)
    wanted += [
        AdapterFacts.commit_id.in_(select(AdapterLabel.commit_id).where(AdapterLabel.label == label))
        for label in search.labels
    ]
    heads = select(Reference.repository_id).join(AdapterFacts, AdapterFacts.commit_id == Reference.commit_id)
    return Repository.id.in_(heads.where(*wanted))


def _has_parameters(least: int | None, most: int | None) -> ColumnElement[bool]:
    """By the measured number of the head of `main`."""
    total = CommitFacts.safetensors["total"].as_string().cast(BigInteger)
    heads = (
        select(Reference.repository_id)
        .join(CommitFacts, CommitFacts.commit_id == Reference.commit_id)
        .where(
            Reference.space == "heads",
            Reference.name == "main",
            true() if least is None else total >= least,
            true() if most is None else total <= most,
        )
    )
    return Repository.id.in_(heads)


# --- counts -----------------------------------------------------------------------------------------------------------


def recent_downloads(session: Session, repository_ids: Sequence[int]) -> dict[int, int]:
    """Downloads of the last `TRENDING_DAYS` days."""
    statement = select(Repository.id, _recent_downloads_of_row()).where(Repository.id.in_(repository_ids))
    return {repository_id: int(count) for repository_id, count in session.execute(statement)}


def _recent_downloads_of_row() -> Any:
    first_day = (now() - timedelta(days=TRENDING_DAYS - 1)).date().isoformat()
    return (
        select(func.coalesce(func.sum(DownloadsPerDay.count), 0))
        .where(DownloadsPerDay.repository_id == Repository.id, DownloadsPerDay.day >= first_day)
        .correlate(Repository)
        .scalar_subquery()
    )


def children(session: Session, names: Sequence[str], *, visible_namespaces: Sequence[int] | None) -> dict[str, int]:
    """How many visible repositories name each of these as their base."""
    tags = [f"base_model:{name}" for name in names]
    statement = (
        select(RepositoryTag.tag, func.count())
        .join(Repository, Repository.id == RepositoryTag.repository_id)
        .where(RepositoryTag.tag.in_(tags), is_listed(visible_namespaces))
        .group_by(RepositoryTag.tag)
    )
    return {tag.partition(":")[2]: count for tag, count in session.execute(statement)}


def public_tags(session: Session, *, limit: int) -> list[str]:
    """The tags of public repositories, the most used first."""
    statement = (
        select(RepositoryTag.tag)
        .join(Repository, Repository.id == RepositoryTag.repository_id)
        .where(is_listed(()))
        .group_by(RepositoryTag.tag)
        .order_by(func.count().desc(), RepositoryTag.tag)
        .limit(limit)
    )
    return list(session.scalars(statement))
