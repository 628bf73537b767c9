"""Fixtures only: a registry for all tests of a process, one of its own for a test that kills it, names, adapters."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import marks
import pytest
from builders import write_adapter
from fast import Fast
from registry_process import IN_A_FOLDER, Registry, serve
from services import preloaded, production
from services.cluster import Cluster

# Nothing here may reach the internet or a developer's own settings.
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1", DO_NOT_TRACK="1")
for name in [name for name in os.environ if name.startswith("LORAHUB_") or name in ("HF_TOKEN", "HF_ENDPOINT")]:
    del os.environ[name]

# A test process for each core is enough: PyTorch's threads wait for each other by spinning, and treble the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--services",
        default="",
        help="what registries stand on: postgres, s3, postgres,s3; or what runs them: a cluster, threads",
    )


def pytest_configure(config: pytest.Config) -> None:
    production.chosen.update(filter(None, config.getoption("--services").split(",")))
    assert production.chosen <= set(production.KNOWN), f"--services takes {production.KNOWN}"
    if _is_fast(config):
        config.pluginmanager.register(Fast())


def pytest_unconfigure() -> None:
    preloaded.stop()
    production.stop()


def _is_fast(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "fast")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """No fast test is in a module that imports PyTorch; to find that out by importing it takes seconds."""
    is_module = collection_path.suffix == ".py"
    return True if is_module and _is_fast(config) and marks.needs_torch(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        marks.mark(item)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One registry for many tests; each takes names of its own in it."""
    home = tmp_path_factory.mktemp("registry")
    running = Cluster(home).start() if "cluster" in production.chosen else serve(home)
    yield running
    running.stop()
    running.assert_sound()


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that the test may kill, fill or restart."""
    running = serve(tmp_path / "own-registry")
    yield running
    running.kill()


@pytest.fixture
def folder_registry(tmp_path: Path) -> Iterator[Registry]:
    """One on a folder, whatever the others stand on: for what is true of a folder only."""
    running = serve(tmp_path / "folder-registry", IN_A_FOLDER)
    yield running
    running.kill()


@pytest.fixture
def new_user(registry: Registry) -> Callable[[], tuple[str, str]]:
    """Makes users: (name, token)."""

    def make() -> tuple[str, str]:
        name = f"user{next(_numbers)}-{os.getpid()}"
        return name, registry.add_user(name)

    return make


@pytest.fixture
def user(new_user: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """A user of this test's own: (name, token)."""
    return new_user()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A small valid PEFT LoRA adapter in a folder."""
    return write_adapter(tmp_path / "adapter")
