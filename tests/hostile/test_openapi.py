"""The API does what its description says, whatever is sent: no server error, no status or body that it doesn't name."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.openapi_fuzz import CALLERS, SETTINGS, fuzz, tokens_of
from registry_process import Registry


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, dict[str, str | None]]]:
    running = Registry(tmp_path_factory.mktemp("fuzzed"), SETTINGS).start()
    yield running, tokens_of(running)
    running.stop()
    running.assert_sound()


@pytest.mark.parametrize("caller", CALLERS)
def test_a_short_run_of_schemathesis_finds_nothing(
    fuzzed: tuple[Registry, dict[str, str | None]], caller: str, tmp_path: Path
) -> None:
    registry, tokens = fuzzed
    found = fuzz(registry, tokens[caller], tmp_path, examples=2, seed=1, seconds=20)
    assert found.returncode == 0, found.stdout + found.stderr
