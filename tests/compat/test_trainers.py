"""Trainers that publish what they have trained, as their users run them: nothing set but endpoint and token."""

import subprocess
import sys
from pathlib import Path

import pytest
from compat.test_hub_clients import CURRENT, HERE, OLDER, client_environment
from registry_process import Registry

STRATEGIES = ["end", "every_save", "checkpoint", "all_checkpoints", "None"]


@pytest.mark.parametrize("trainer", ["Trainer", "SFTTrainer"])
def test_a_trainer_publishes_by_every_strategy_and_the_adapter_computes_the_same(
    registry: Registry, user: tuple[str, str], tmp_path: Path, trainer: str
) -> None:
    name, token = user
    assert (OLDER / "trl" / "trl").is_dir(), "TRL is missing; run `make clients`"
    environment = client_environment(registry, token, CURRENT, tmp_path / "hf") | {"PYTHONPATH": str(OLDER / "trl")}
    result = subprocess.run(
        [sys.executable, str(HERE / "trainer_journey.py"), name, trainer],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    pushed = [line.removeprefix("pushed: ") for line in result.stdout.splitlines() if line.startswith("pushed: ")]
    assert pushed == STRATEGIES
