"""A database that a test takes away."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from services.postgres import Postgres


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server of the test's own, to be stopped."""
    server = Postgres(tmp_path / "postgres").start()
    yield server
    server.stop()
