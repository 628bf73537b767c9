"""The registry on the newest Python of this machine, with the SQLite that is here, installed without anything else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lorahub
import pytest
from jobs.models import write_adapter_for, write_base
from lorahub.merging.recipe import recipe_of
from registry_process import Registry, eventually

NEWEST = Path(sys.prefix) / "newest" / "bin"
FILES = 2


@pytest.fixture
def on_the_newest(tmp_path: Path) -> Iterator[Registry]:
    """With a worker, and a log to read."""
    assert (NEWEST / "lorahub").exists(), "the registry is not installed for it; run `make newest`"
    running = Registry(
        tmp_path / "newest", {"LORAHUB_WORKER": "true"}, log=tmp_path / "log", program=str(NEWEST / "lorahub")
    ).start()
    yield running
    running.stop()
    running.assert_sound()


def command(registry: Registry, *arguments: str) -> None:
    """`lorahub …` of that Python."""
    environment = {**os.environ, "LORAHUB_ENDPOINT": registry.url, "LORAHUB_TOKEN": registry.token}
    environment["LORAHUB_HOME"] = str(registry.home.parent / "client")
    ended = subprocess.run(
        [registry.program, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def statistics(registry: Registry) -> Any:
    with registry.client() as client:
        return client.get("/api/lorahub/v1/models/owner/sql/statistics/main").json()


def test_it_starts_takes_a_push_does_a_job_and_merges(on_the_newest: Registry, tmp_path: Path) -> None:
    command(on_the_newest, "push", str(write_base(tmp_path / "base", files=FILES)), "owner/base")
    command(on_the_newest, "push", str(write_adapter_for(tmp_path / "sql", "owner/base", files=FILES)), "owner/sql")
    command(on_the_newest, "merge", "owner/base", "owner/sql", "--server", "owner/merged")
    eventually(lambda: statistics(on_the_newest)["status"] == "done", 60)
    assert on_the_newest.log is not None
    assert on_the_newest.log.read_text() == ""
    on_the_newest.stop()
    older = Registry(on_the_newest.home, {"LORAHUB_WORKER": "true"}).start()  # on the files that the newer has made
    try:
        with lorahub.Hub(older.url, token=older.token) as hub:
            recipe = recipe_of({"base": "owner/base", "adapters": ["owner/sql"]})
            again = hub.merges.wait(hub.merges.start(recipe, "owner/again").id)
            assert again.reference == "owner/again@v1"
    finally:
        older.stop()
