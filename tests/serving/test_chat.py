"""`lorahub chat` through a pipe, as scripts and people use it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from registry_process import LORAHUB
from services import preloaded
from serving.adapters import save_adapter
from serving.text_model import save_text_model

pytestmark = pytest.mark.xdist_group("chat")

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from lorahub.cli.main import main; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, and the adapters `a` and `b` on it."""
    folder = tmp_path_factory.mktemp("chat")
    save_text_model(folder / "base")
    for seed, name in enumerate("ab"):
        save_adapter("llama", folder / name, seed=seed, noise=0.5)
    return folder


def options(folder: Path) -> dict[str, Any]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LORAHUB_")}
    return {"cwd": folder, "text": True, "env": {**own, "LORAHUB_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}}


def chat(folder: Path, *arguments: str, lines: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """`lorahub ARGUMENTS…`; importing torch anew takes seconds."""
    environment = options(folder)["env"]
    run = preloaded.run(arguments, environment, folder=folder, lines=lines, modules=preloaded.PYTORCH)
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr, run.stderr
    return run


LINES = """\
hello
/adapter b
hello
/adapters
/adapter nobody
/nonsense
/help

/adapter none
hello
/adapter
/quit
never said
"""


def test_a_chat_through_a_pipe(folder: Path) -> None:
    run = chat(
        folder, "--json", "chat", "base", "--adapter", "a", "--adapter", "b=./b", "--max-new-tokens", "8",
        lines=LINES,
    )  # fmt: skip
    document = json.loads(run.stdout)
    turns = document["result"]["turns"]

    assert document["schema"] == "lorahub.chat/v1"
    assert [(turn["adapter"], turn["question"]) for turn in turns] == [("a", "hello"), ("b", "hello"), (None, "hello")]
    assert document["result"]["is_exact"]
    assert re.search(r"✓ b in [\d.]+ µs; reprefill: what was said is computed anew: exact", run.stderr)
    assert "✓ the base alone in" in run.stderr
    assert "* b  rank 4, 6 modules  b" in run.stderr
    assert "✗ no adapter is loaded as 'nobody'\n  Hint: loaded: a, b" in run.stderr
    assert "✗ no command is called /nonsense" in run.stderr
    assert "✗ which adapter?" in run.stderr
    assert "/quit          leave" in run.stderr


def test_answers_are_streamed_and_the_end_of_the_input_is_the_end(folder: Path) -> None:
    run = chat(
        folder, "chat", "base", "--adapter", "a", "--adapter", "b", "--on-swap", "keep",
        "--max-new-tokens", "8", "--temperature", "0.5", lines="hello\n/adapter b\nhello",
    )  # fmt: skip
    assert run.stdout.count("\n") >= 2
    assert "keep: what was said keeps the old adapter's cache: approximate" in run.stderr


def test_ctrl_c_leaves(folder: Path) -> None:
    with subprocess.Popen(
        [LORAHUB, "chat", "base", "--adapter", "a"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options(folder),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("/adapters\n")
        process.stdin.flush()
        while "none" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["base", "--adapter", "x=./absent"], 5, "there is no ./absent"),
        (["base", "--adapter", "a", "--adapter", "a"], 2, "gives no name of its own"),
        (["a"], 7, "holds an adapter (adapter_config.json), no base"),
        (["nobody/absent", "--offline"], 2, "nobody/absent was never read on this machine"),
        (["./absent"], 5, "there is no ./absent"),
        (["base", "--device", "nonsense"], 2, "the model can't go to nonsense"),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], code: int, said: str) -> None:
    run = chat(folder, "chat", *arguments, code=code)
    assert said in run.stderr
    assert "Hint: " in run.stderr


def test_without_torch_it_says_what_to_install(folder: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "chat", "base"]
    run = subprocess.run(command, capture_output=True, check=False, timeout=120, **options(folder))
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert "torch is not installed" in run.stderr
    assert "pip install 'lorahub-registry[train]'" in run.stderr
