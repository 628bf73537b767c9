"""One stage for all tests that walk through every operation."""

import pytest
from accounts.operations import Stage, build_stage
from registry_process import Registry


@pytest.fixture(scope="session")
def every_caller(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return build_stage(registry, tmp_path_factory.mktemp("stage"))
