"""Rows of bases that adapters have yet to be judged against, and of what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lorahub.protocol.digests import CommitId
from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import aliased

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import (
    AdapterFacts,
    BaseName,
    MovedVerdict,
    Reference,
    Repository,
)


@dataclass(frozen=True, slots=True)
class MovedBase:
    """A name and revision that was registered. `former_id`: of the base that the name meant before, if it meant one."""

    id: int
    name: str
    revision: str
    by: str
    base_id: int
    former_id: int | None


@dataclass(frozen=True, slots=True)
class JudgedMove:
    """What an adapter's verdict became when its base moved."""

    adapter: str
    version: str | None
    commit_id: CommitId
    base: str
    revision: str
    before: str
    after: str
    at: datetime


def unjudged(session: Session, *, limit: int) -> list[int]:
    """Ids of registered names, oldest first."""
    return list(
        session.scalars(select(BaseName.id).where(BaseName.judged_at.is_(None)).order_by(BaseName.id).limit(limit))
    )


def moved_base(session: Session, name_id: int) -> MovedBase | None:
    row = session.get(BaseName, name_id)
    if row is None:
        return None
    former = (
        select(BaseName.base_id)
        .where(BaseName.name_key == row.name_key, BaseName.id < row.id)
        .order_by(BaseName.id.desc())
        .limit(1)
    )
    return MovedBase(row.id, row.name, row.revision, row.added_by, row.base_id, session.scalar(former))


def settle(session: Session, name_id: int, *, fault: str | None) -> None:
    session.execute(update(BaseName).where(BaseName.id == name_id).values(judged_at=now(), judge_fault=fault))


def adapters_naming(session: Session, name: str, *, after: str, limit: int) -> list[tuple[CommitId, int]]:
    """(commit, repository id) of what `main` and the aliases of repositories lead to, where it names this base."""
    statement = (
        select(Reference.commit_id, Reference.repository_id)
        .distinct()
        .join(AdapterFacts, AdapterFacts.commit_id == Reference.commit_id)
        .where(_IS_SHOWN, AdapterFacts.base_key == name.lower(), Reference.commit_id > after)
        .order_by(Reference.commit_id)
        .limit(limit)
    )
    return [(CommitId(commit), repository_id) for commit, repository_id in session.execute(statement)]


_IS_SHOWN = or_(Reference.kind == "alias", and_(Reference.space == "heads", Reference.name == "main"))


def insert_verdict(
    session: Session, name_id: int, commit_id: str, repository_id: int, version: str | None, before: str, after: str
) -> bool:
    """False where it is there already."""
    if session.get(MovedVerdict, (name_id, commit_id)) is not None:
        return False
    session.add(
        MovedVerdict(
            base_name_id=name_id,
            commit_id=commit_id,
            repository_id=repository_id,
            version=version,
            before=before,
            after=after,
            at=now(),
        )
    )
    session.flush()
    return True


def moves_of(
    session: Session,
    *,
    namespaces: Sequence[int] | None = None,
    commit_id: str | None = None,
    verdicts: Sequence[str] | None = None,
    limit: int,
) -> list[JudgedMove]:
    """Against the newest revision of each name, of commits that `main` or an alias still leads to; newest first."""
    newer = aliased(BaseName)
    is_newest = ~select(newer.id).where(newer.name_key == BaseName.name_key, newer.id > BaseName.id).exists()
    is_there = select(Reference.id).where(Reference.commit_id == MovedVerdict.commit_id, _IS_SHOWN).exists()
    full_name = Repository.namespace + "/" + Repository.name
    statement = (
        select(
            full_name,
            MovedVerdict.version,
            MovedVerdict.commit_id,
            BaseName.name,
            BaseName.revision,
            MovedVerdict.before,
            MovedVerdict.after,
            MovedVerdict.at,
        )
        .join(BaseName, BaseName.id == MovedVerdict.base_name_id)
        .join(Repository, Repository.id == MovedVerdict.repository_id)
        .where(is_newest)
    )
    if commit_id is not None:
        statement = statement.where(MovedVerdict.commit_id == commit_id)
    else:
        statement = statement.where(is_there)
    if namespaces is not None:
        statement = statement.where(Repository.namespace_id.in_(namespaces))
    if verdicts is not None:
        statement = statement.where(MovedVerdict.after.in_(verdicts), MovedVerdict.before != MovedVerdict.after)
    rows = session.execute(statement.order_by(MovedVerdict.at.desc(), func.lower(full_name)).limit(limit))
    return [
        JudgedMove(adapter, version, CommitId(commit), base, revision, before, after, at)
        for adapter, version, commit, base, revision, before, after, at in rows
    ]
