"""Rows of measured facts, verdicts and policies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lorahub.protocol.digests import CommitId, Sha256
from sqlalchemy import and_, delete, insert, or_, select
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.failures import UNAVAILABLE
from lorahub_registry.infrastructure.database.listed import is_listed
from lorahub_registry.infrastructure.database.tables import (
    AdapterFacts,
    AdapterLabel,
    Check,
    CheckPolicy,
    Commit,
    CommitFile,
    Reference,
    Repository,
)

__all__ = ["UNAVAILABLE", "IntegrityError"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What was measured of one adapter, and the verdict for the base it names. `report` is JSON-ready."""

    digest: str
    method: str
    ranks: Sequence[int]
    base_name: str | None
    base_id: int | None
    verdict: str
    rule_set: int
    facts: dict[str, Any]
    report: dict[str, Any]
    labels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    verdict: str
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's bytes are found."""

    sha256: Sha256
    repository_id: int
    commit_id: CommitId
    version: str | None
    path: str


# --- facts ------------------------------------------------------------------------------------------------------------


def insert_facts(session: Session, commit_id: str, judged: Judged) -> None:
    session.add(
        AdapterFacts(
            commit_id=commit_id,
            digest=judged.digest,
            method=judged.method[:64],
            least_rank=min(judged.ranks, default=None),
            most_rank=max(judged.ranks, default=None),
            base_key=judged.base_name.lower()[:300] if judged.base_name else None,
            base_id=judged.base_id,
            verdict=judged.verdict,
            rule_set=judged.rule_set,
            facts=judged.facts,
            report=judged.report,
        )
    )
    session.flush()
    rows = [{"commit_id": commit_id, "label": label} for label in dict.fromkeys(judged.labels) if len(label) <= 300]
    if rows:
        session.execute(insert(AdapterLabel), rows)


def facts_of(session: Session, commit_id: str) -> AdapterFacts | None:
    return session.get(AdapterFacts, commit_id)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was measured of a commit's adapter when it was pushed, and the verdict then."""

    digest: str
    method: str
    verdict: str
    facts: dict[str, Any]


def recorded_of(session: Session, commit_ids: Sequence[str]) -> dict[CommitId, Recorded]:
    """Of those that are adapters."""
    columns = (AdapterFacts.digest, AdapterFacts.method, AdapterFacts.verdict, AdapterFacts.facts)
    rows = session.execute(select(AdapterFacts.commit_id, *columns).where(AdapterFacts.commit_id.in_(commit_ids)))
    return {CommitId(commit_id): Recorded(*measured) for commit_id, *measured in rows}


def report_of(session: Session, commit_id: str) -> dict[str, Any]:
    """What the check said then; nothing of what is no adapter."""
    return session.scalar(select(AdapterFacts.report).where(AdapterFacts.commit_id == commit_id)) or {}


# --- verdicts ---------------------------------------------------------------------------------------------------------


def verdict_of(session: Session, adapter_digest: str, base_id: int, rule_set: int) -> Verdict | None:
    row = session.get(Check, (adapter_digest, base_id, rule_set))
    return None if row is None else Verdict(row.verdict, row.report)


def verdicts_of(
    session: Session, adapter_digests: Sequence[str], base_ids: Sequence[int], rule_set: int
) -> dict[tuple[str, int], str]:
    """What is known of these adapters and bases, from checks and from pushes."""
    pushed = select(AdapterFacts.digest, AdapterFacts.base_id, AdapterFacts.verdict).where(
        AdapterFacts.digest.in_(adapter_digests),
        AdapterFacts.base_id.in_(base_ids),
        AdapterFacts.rule_set == rule_set,
    )
    asked = select(Check.adapter_digest, Check.base_id, Check.verdict).where(
        Check.adapter_digest.in_(adapter_digests), Check.base_id.in_(base_ids), Check.rule_set == rule_set
    )
    rows = [*session.execute(pushed), *session.execute(asked)]
    return {(digest, int(base_id)): verdict for digest, base_id, verdict in rows if base_id is not None}


def reports_of(
    session: Session, adapter_digests: Sequence[str], base_ids: Sequence[int], rule_set: int
) -> dict[tuple[str, int], Verdict]:
    """What is known of these adapters and bases, whole."""
    rows = session.execute(
        select(Check.adapter_digest, Check.base_id, Check.verdict, Check.report).where(
            Check.adapter_digest.in_(adapter_digests), Check.base_id.in_(base_ids), Check.rule_set == rule_set
        )
    )
    return {(digest, base_id): Verdict(verdict, report) for digest, base_id, verdict, report in rows}


def insert_verdict(session: Session, adapter_digest: str, base_id: int, rule_set: int, verdict: Verdict) -> None:
    if session.get(Check, (adapter_digest, base_id, rule_set)) is None:
        session.add(
            Check(
                adapter_digest=adapter_digest,
                base_id=base_id,
                rule_set=rule_set,
                verdict=verdict.verdict,
                report=verdict.report,
                at=now(),
            )
        )
        session.flush()


# --- policy -----------------------------------------------------------------------------------------------------------


def policy_of(session: Session, repository_id: int) -> str:
    row = session.get(CheckPolicy, repository_id)
    return "refuse" if row is None else row.policy


def set_policy(session: Session, repository_id: int, policy: str) -> None:
    session.execute(delete(CheckPolicy).where(CheckPolicy.repository_id == repository_id))
    if policy != "refuse":
        session.add(CheckPolicy(repository_id=repository_id, policy=policy))
        session.flush()


# --- lists ------------------------------------------------------------------------------------------------------------


def adapters_of_base(
    session: Session,
    name: str,
    *,
    visible_namespaces: Sequence[int] | None,
    after: int | None,
    limit: int,
) -> list[tuple[int, CommitId]]:
    """(repository id, head of main) of visible adapters that name this base, by id."""
    statement = (
        select(Reference.repository_id, Reference.commit_id)
        .join(AdapterFacts, AdapterFacts.commit_id == Reference.commit_id)
        .join(Repository, Repository.id == Reference.repository_id)
        .where(
            Reference.space == "heads",
            Reference.name == "main",
            AdapterFacts.base_key == name.lower(),
            is_listed(visible_namespaces),
        )
    )
    if after is not None:
        statement = statement.where(Reference.repository_id > after)
    rows = session.execute(statement.order_by(Reference.repository_id).limit(limit))
    return [(repository_id, CommitId(commit_id)) for repository_id, commit_id in rows]


def places_of(
    session: Session, digests: Iterable[Sha256], *, visible_namespaces: Sequence[int] | None, limit: int
) -> list[Place]:
    """Heads of main and versions that hold files with these bytes, oldest commit first."""
    statement = (
        select(CommitFile.blob_sha256, Commit.repository_id, Commit.id, Reference.kind, Reference.name, CommitFile.path)
        .join(Commit, Commit.id == CommitFile.commit_id)
        .join(Reference, Reference.commit_id == Commit.id)
        .join(Repository, Repository.id == Commit.repository_id)
        .where(
            CommitFile.blob_sha256.in_(list(digests)),
            or_(Reference.kind == "version", and_(Reference.space == "heads", Reference.name == "main")),
            is_listed(visible_namespaces),
        )
        .order_by(Commit.created_at, Reference.kind.desc(), Commit.id, CommitFile.path)
        .limit(limit)
    )
    return [
        Place(Sha256(digest), repository_id, CommitId(commit), name if kind == "version" else None, path)
        for digest, repository_id, commit, kind, name, path in session.execute(statement)
    ]
