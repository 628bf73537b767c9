"""Rows of base models and their names."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lorahub.adapters.base_model import BaseLayout
from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError

from lorahub_registry.infrastructure.database import Session, now
from lorahub_registry.infrastructure.database.bell import ring
from lorahub_registry.infrastructure.database.listed import is_listed
from lorahub_registry.infrastructure.database.tables import AdapterFacts, Commit, Repository
from lorahub_registry.infrastructure.database.tables import BaseModel as BaseRow
from lorahub_registry.infrastructure.database.tables import BaseName as NameRow

__all__ = ["IntegrityError"]


@dataclass(frozen=True, slots=True)
class StoredBase:
    """A base without its layout."""

    id: int
    layout_digest: str
    weights_digest: str | None
    files: dict[str, Any]
    architecture: str | None
    parameters: int
    tensors: int


@dataclass(frozen=True, slots=True)
class NamedBase:
    base: StoredBase
    name: str
    revision: str
    added_by: str
    added_at: datetime


def base_by_identity(session: Session, identity: str) -> StoredBase | None:
    row = session.scalar(select(BaseRow).where(BaseRow.identity == identity))
    return None if row is None else _stored(row)


def base_by_weights(session: Session, digest: str) -> StoredBase | None:
    """By the digest of its weights, else by that of its layout."""
    statement = select(BaseRow).where(or_(BaseRow.weights_digest == digest, BaseRow.layout_digest == digest))
    row = session.scalars(statement.order_by(BaseRow.weights_digest == digest, BaseRow.id)).first()
    return None if row is None else _stored(row)


def insert_base(session: Session, base: BaseLayout, identity: str) -> StoredBase:
    row = BaseRow(
        identity=identity,
        layout_digest=base.layout_digest,
        weights_digest=base.weights_digest,
        layout=zlib.compress((base.weights_text() or base.layout_text()).encode(), 6),
        files=dict(base.files),
        config=dict(base.config),
        architecture=(base.architecture or "")[:128] or None,
        parameters=base.parameters,
        tensors=len(base.tensors),
        created_at=now(),
    )
    session.add(row)
    session.flush()
    return _stored(row)


def layout_of(session: Session, base_id: int) -> tuple[str, dict[str, Any]]:
    """(canonical text, config)."""
    row = session.get_one(BaseRow, base_id)
    return zlib.decompress(row.layout).decode(), row.config


def name_row(session: Session, name: str, revision: str) -> NamedBase | None:
    statement = select(NameRow).where(NameRow.name_key == name.lower(), NameRow.revision == revision)
    row = session.scalar(statement)
    return None if row is None else _named(session, row)


def newest_named(session: Session, name: str, revision: str | None) -> NamedBase | None:
    """The newest base of this name, at a revision that begins so."""
    statement = select(NameRow).where(NameRow.name_key == name.lower())
    if revision:
        statement = statement.where(NameRow.revision.startswith(revision, autoescape=True))
    row = session.scalars(statement.order_by(NameRow.id.desc())).first()
    return None if row is None else _named(session, row)


def all_named(session: Session, name: str, *, limit: int) -> list[NamedBase]:
    """Every base of this name, newest first."""
    statement = select(NameRow).where(NameRow.name_key == name.lower()).order_by(NameRow.id.desc())
    return [_named(session, row) for row in session.scalars(statement.limit(limit))]


def insert_name(session: Session, base_id: int, name: str, revision: str, by: str) -> None:
    session.add(
        NameRow(base_id=base_id, name=name, name_key=name.lower(), revision=revision, added_by=by, added_at=now())
    )
    session.flush()
    ring(session)  # whatever names it is judged against it


def stored_base(session: Session, base_id: int) -> StoredBase:
    return _stored(session.get_one(BaseRow, base_id))


def names_of(session: Session, base_ids: Iterable[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    statement = select(NameRow.base_id, NameRow.name).where(NameRow.base_id.in_(list(base_ids))).order_by(NameRow.id)
    for base_id, name in session.execute(statement):
        found.setdefault(base_id, []).append(name)
    return found


def named_bases(session: Session, text: str | None, *, after: int | None, limit: int) -> list[tuple[int, NamedBase]]:
    """(id, base) of names that have `text` in them, newest first."""
    statement = select(NameRow)
    if text:
        statement = statement.where(NameRow.name_key.contains(text.lower(), autoescape=True))
    if after is not None:
        statement = statement.where(NameRow.id < after)
    rows = session.scalars(statement.order_by(NameRow.id.desc()).limit(limit))
    return [(row.id, _named(session, row)) for row in rows]


def adapters_by_base(
    session: Session, names: Iterable[str], *, visible_namespaces: Sequence[int] | None
) -> dict[str, int]:
    """How many repositories have a commit that names each of these bases; private ones only as `is_listed` says."""
    keys = [name.lower() for name in names]
    statement = (
        select(AdapterFacts.base_key, func.count(Repository.id.distinct()))
        .join(Commit, Commit.id == AdapterFacts.commit_id)
        .join(Repository, Repository.id == Commit.repository_id)
        .where(AdapterFacts.base_key.in_(keys), is_listed(visible_namespaces))
        .group_by(AdapterFacts.base_key)
    )
    return {str(key): count for key, count in session.execute(statement)}


def _named(session: Session, row: NameRow) -> NamedBase:
    base = session.get_one(BaseRow, row.base_id)
    return NamedBase(_stored(base), row.name, row.revision, row.added_by, row.added_at)


def _stored(row: BaseRow) -> StoredBase:
    return StoredBase(
        row.id, row.layout_digest, row.weights_digest, row.files, row.architecture, row.parameters, row.tensors
    )
