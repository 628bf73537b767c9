"""`make demo` where the model can't be had: the same story, with random weights that learn two sentences."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.torch
def test_the_demo_tells_its_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", "--tiny"],
        env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    merged = told.stdout.partition("Stock transformers reads a merged model")[2]
    assert re.search(r"› the quick brown\n +fox jumps over the lazy dog", merged), told.stdout
    assert "what was pulled" not in told.stdout + told.stderr
    headings = [line for line in told.stdout.splitlines() if line.startswith("[")]
    assert len(headings) == 13
    assert max(map(len, headings)) <= 80
    assert "\033" not in told.stdout, "a pipe has no colours"
    assert list(tmp_path.glob("lorahub-*")) == []
