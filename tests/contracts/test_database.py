"""What a refused row means: somebody else was first, or a row of ours is broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import App, running
from lorahub.errors import Bug, Conflict
from lorahub_registry.infrastructure.database.failures import explained
from sqlalchemy import text

INSERT = "INSERT INTO blocked_digests (sha256, reason, by, at) VALUES (:sha256, :reason, 'me', :at)"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with running(tmp_path / "registry") as started:
        yield started


def insert(app: App, sha256: str | None) -> None:
    with explained(), app.backend.database.write() as session:
        session.execute(text(INSERT), {"sha256": sha256, "reason": "why", "at": "2026-01-01 00:00:00+00:00"})


def test_a_second_row_of_the_same_key_is_somebody_elses(app: App) -> None:
    insert(app, "a" * 64)
    with pytest.raises(Conflict):
        insert(app, "a" * 64)


def test_a_row_without_what_it_must_have_is_a_bug_of_ours(app: App) -> None:
    with pytest.raises(Bug):
        insert(app, None)
