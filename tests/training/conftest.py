"""One Llama and one GPT-2 for all tests, and some rows."""

from pathlib import Path

import pytest
from training.bases import completions, save_base, write_rows


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base("llama", tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base("gpt2", tmp_path_factory.mktemp("bases") / "gpt2")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", completions())
