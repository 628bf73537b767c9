"""Rows of retention policies, and the commits that a policy lets go of."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, exists, or_, select, update

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.tables import (
    AdapterFacts,
    AdapterLabel,
    AdapterOverlap,
    AdapterStatistics,
    Commit,
    CommitFacts,
    CommitFile,
    Reference,
    Repository,
    RetentionPolicy,
)

PAGE = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """A repository and how many versions it keeps."""

    repository_id: int
    full_name: str
    versions: int


def policy_of(session: Session, repository_id: int, *, lock: bool = False) -> int | None:
    """How many versions it keeps; None is all. `lock`: nobody changes it until the transaction ends."""
    statement = select(RetentionPolicy.keep_versions).where(RetentionPolicy.repository_id == repository_id)
    return session.scalar(statement.with_for_update() if lock else statement)


def set_policy(session: Session, repository_id: int, versions: int | None) -> None:
    session.execute(delete(RetentionPolicy).where(RetentionPolicy.repository_id == repository_id))
    if versions is not None:
        session.add(RetentionPolicy(repository_id=repository_id, keep_versions=versions, set_at=now()))
        session.flush()


def policies(session: Session) -> list[Kept]:
    statement = (
        select(Repository.id, Repository.namespace, Repository.name, RetentionPolicy.keep_versions)
        .join(RetentionPolicy, RetentionPolicy.repository_id == Repository.id)
        .order_by(Repository.id)
    )
    return [Kept(one, f"{namespace}/{name}", keep) for one, namespace, name, keep in session.execute(statement)]


def hold_commits(session: Session, repository_id: int) -> None:
    """Whoever gives one a name meanwhile waits, or is waited for."""
    held = select(Commit.id).where(Commit.repository_id == repository_id, Commit.dropped_at.is_(None))
    session.scalars(held.order_by(Commit.id).with_for_update()).all()


def unnamed_before(session: Session, repository_id: int, commit_id: str, dropped_names: Sequence[int]) -> list[str]:
    """Commits older than this one that no reference but these leads to, and no worker is about to read."""
    is_named = exists().where(Reference.commit_id == Commit.id, Reference.id.not_in(dropped_names))
    is_read = exists().where(AdapterStatistics.commit_id == Commit.id, AdapterStatistics.status == "wanted")
    compared = or_(AdapterOverlap.first_commit_id == Commit.id, AdapterOverlap.second_commit_id == Commit.id)
    is_compared = exists().where(compared, AdapterOverlap.status == "wanted")
    oldest = select(Commit.created_at).where(Commit.id == commit_id).scalar_subquery()
    statement = select(Commit.id).where(
        Commit.repository_id == repository_id,
        Commit.dropped_at.is_(None),
        Commit.created_at < oldest,
        ~is_named,
        ~is_read,
        ~is_compared,
    )
    return list(session.scalars(statement.order_by(Commit.created_at, Commit.id)))


def drop_files(session: Session, commit_ids: Sequence[str]) -> list[str]:
    """The commits' rows stay, for those that follow them; digests of what they had."""
    digests: set[str] = set()
    for start in range(0, len(commit_ids), PAGE):
        page = commit_ids[start : start + PAGE]
        of_page = CommitFile.commit_id.in_(page)
        digests.update(session.scalars(select(CommitFile.blob_sha256).where(of_page)))
        session.execute(delete(CommitFile).where(of_page))
        for facts in (AdapterLabel, AdapterFacts, CommitFacts):
            session.execute(delete(facts).where(facts.commit_id.in_(page)))
        session.execute(update(Commit).where(Commit.id.in_(page)).values(dropped_at=now()))
    return sorted(digests)
