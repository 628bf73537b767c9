"""One stage for all tests that walk through every operation."""

from collections.abc import Iterator

import pytest
from accounts.operations import SETTINGS, Stage, build_stage
from registry_process import serve
from services.ports import free_port


@pytest.fixture(scope="session")
def every_caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    port = free_port()
    settings = {**SETTINGS, "LORAHUB_PUBLIC_URL": f"http://127.0.0.1:{port}"}
    running = serve(tmp_path_factory.mktemp("everybody"), settings, port=port)
    yield build_stage(running, tmp_path_factory.mktemp("stage"))
    running.stop()
    running.assert_sound()
