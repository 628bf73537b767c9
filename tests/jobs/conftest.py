"""Registries on SQLite and on PostgreSQL whose workers a test starts itself, and models to merge."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import lorahub
import pytest
from jobs.models import write_adapter_for, write_base
from jobs.worker_process import Worker
from lorahub.merging.recipe import Recipe, recipe_of
from registry_process import Registry
from services import production

LOST_AFTER = "PT3S"
QUIET = {"LORAHUB_GC_INTERVAL": "PT0S", "LORAHUB_SCRUB_INTERVAL": "PT0S", "LORAHUB_WORKER_LOST_AFTER": LOST_AFTER}


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    yield from _running(tmp_path, request.param)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Registry]:
    yield from _running(tmp_path, "sqlite")


@pytest.fixture
def on_postgres(tmp_path: Path) -> Iterator[Registry]:
    yield from _running(tmp_path, "postgres")


def _running(folder: Path, database: str) -> Iterator[Registry]:
    url = {"LORAHUB_DATABASE_URL": production.postgres().new_database()} if database == "postgres" else {}
    registry = Registry(folder / "shared", {**url, **QUIET}).start()
    yield registry
    registry.stop()
    registry.assert_sound()


@pytest.fixture
def hire() -> Iterator[Callable[..., Worker]]:
    """Makes workers that end with the test."""
    made: list[Worker] = []

    def make(registry: Registry, name: str, machine: Path | None = None, **settings: str) -> Worker:
        made.append(Worker(registry, name, machine, settings))
        return made[-1]

    yield make
    for worker in made:
        with suppress(ProcessLookupError, AssertionError):
            worker.wake()
            worker.kill()


@dataclass(frozen=True)
class Model:
    hub: lorahub.Hub
    recipe: Recipe
    files: int

    def start(self, target: str = "owner/merged") -> str:
        return self.hub.merges.start(self.recipe, target).id


@pytest.fixture
def push(tmp_path: Path) -> Iterator[Callable[..., Model]]:
    with ExitStack() as hubs:

        def make(registry: Registry, *, files: int = 2, width: int = 16) -> Model:
            hub = hubs.enter_context(lorahub.Hub(registry.url, token=registry.token))
            hub.push(write_base(tmp_path / "base", files=files, width=width), "owner/base")
            hub.push(write_adapter_for(tmp_path / "adapter", "owner/base", files=files, width=width), "owner/sql")
            return Model(hub, recipe_of({"base": "owner/base", "adapters": ["owner/sql"]}), files)

        yield make
