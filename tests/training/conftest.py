"""One Llama and one GPT-2 for all tests, some rows, and the command in this process."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.bases import save_base  # not above: this file is read for whatever tests are run

    return save_base("llama", tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.bases import save_base

    return save_base("gpt2", tmp_path_factory.mktemp("bases") / "gpt2")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.bases import completions, write_rows

    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", completions())


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def lorahub_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """`lorahub …` as a user has it, in this process: importing torch anew takes seconds."""
    from lorahub.cli.main import main

    monkeypatch.setenv("LORAHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*arguments: object, lines: bytes = b"") -> Said:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
        with pytest.raises(SystemExit) as exit_:
            main([*map(str, arguments)])
        told = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Said(exit_.value.code, told.out, told.err)

    return call
