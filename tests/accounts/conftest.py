"""One stage for all tests that walk through every operation."""

from collections.abc import Iterator

import pytest
from accounts.operations import SETTINGS, Stage, build_stage
from registry_process import Registry


@pytest.fixture(scope="session")
def every_caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    running = Registry(tmp_path_factory.mktemp("everybody"), SETTINGS).start()
    yield build_stage(running, tmp_path_factory.mktemp("stage"))
    running.stop()
    running.assert_sound()
