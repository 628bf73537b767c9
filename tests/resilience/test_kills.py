"""`kill -9` at random moments, under load: nothing that was acknowledged is lost, nothing half-done is visible."""

import random
import time
from functools import partial
from pathlib import Path

import pytest
from registry_process import Registry, eventually
from resilience.load import Pushers


@pytest.mark.parametrize("kills", [pytest.param(8, id="quick"), pytest.param(100, id="full", marks=pytest.mark.soak)])
def test_killed_under_load_nothing_acknowledged_is_lost(tmp_path: Path, kills: int) -> None:
    registry = Registry(tmp_path / "killed").start()
    chosen, slowest = random.Random(11), 0.0
    try:
        with Pushers(registry) as pushers:
            for _ in range(kills):
                before = len(pushers.acknowledged)
                time.sleep(chosen.uniform(0.05, 0.6))
                registry.kill()
                started = time.monotonic()
                registry.start()
                slowest = max(slowest, time.monotonic() - started)
                eventually(partial(pushers.has_more_than, before), seconds=60)
        assert len(pushers.acknowledged) >= kills
        assert set(pushers.refusals) <= {401, 503}, "an upload that was begun before may be over after"
        pushers.assert_nothing_is_lost()
        print(f"\n{kills} kills, {len(pushers.acknowledged)} commits acknowledged, ready again within {slowest:.1f} s")
    finally:
        registry.kill()
