"""Conditions that a full-text index answers: GIN on PostgreSQL, FTS5 on SQLite. The same rows on both."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import ColumnElement, Text, column, select, table, type_coerce

from lorahub_registry.infrastructure.database.session import Session
from lorahub_registry.infrastructure.database.tables import CatalogEntry, as_term, as_word

_terms = table("search_terms", column("rowid"), column("search_terms"))
_names = table("search_names", column("rowid"), column("name"))
_GLOB = str.maketrans({sign: f"[{sign}]" for sign in "*?["})
_LIKE = str.maketrans({sign: f"\\{sign}" for sign in "\\%_"})


def has_terms(session: Session, terms: Sequence[str]) -> ColumnElement[bool]:
    """Whether an entry has all of them."""
    if session.get_bind().dialect.name != "sqlite":
        return CatalogEntry.terms.op("@>")(list(terms))
    words = " ".join(as_word(term) for term in terms)
    found = select(_terms.c.rowid).where(_terms.c.search_terms.op("MATCH")(words))
    return CatalogEntry.repository_id.in_(found)


def name_contains(session: Session, text: str) -> ColumnElement[bool]:
    """`text` is in lower case; no sign in it stands for others. Below three characters, no index helps."""
    if session.get_bind().dialect.name != "sqlite":
        return CatalogEntry.name.like(f"%{text.translate(_LIKE)}%")
    found = select(_names.c.rowid).where(_names.c.name.op("GLOB")(f"*{text.translate(_GLOB)}*"))
    return CatalogEntry.repository_id.in_(found)


def raw_terms(session: Session) -> Any:
    """An entry's terms as they are stored, for `count_terms`."""
    return type_coerce(CatalogEntry.terms, Text) if session.get_bind().dialect.name == "sqlite" else CatalogEntry.terms


def count_terms(session: Session, stored: Iterable[Any]) -> dict[str, int]:
    """How many of the entries have each term. Each term is read once, however many have it."""
    is_text = session.get_bind().dialect.name == "sqlite"
    counts = Counter(chain.from_iterable(map(str.split, stored) if is_text else stored))
    return {as_term(word): number for word, number in counts.items()} if is_text else dict(counts)
