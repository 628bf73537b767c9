"""The schema becomes today's while a server of version 0.1, the code of its time, answers reads and writes."""

import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import wire
from registry_process import IN_A_FOLDER, LORAHUB, Registry, eventually
from resilience.load import Pushers
from services import production

VERSION_BEFORE = Path(__file__).parents[1] / "releases" / "lorahub-0.1.tar.xz"
"""`git archive 4397e53 client registry migrations | xz`: here as a file, since a checkout needn't have its history."""

READ = (
    "/api/models?search=load&limit=5",
    "/api/models?filter=known",
    "/api/models/owner/known",
    "/api/models/owner/known/tree/main",
    "/owner/known/resolve/main/known.txt",
    "/api/whoami-v2",
)


@dataclass
class Readers:
    """Clients that ask for everything in turn, and what was answered with another status than 200."""

    registry: Registry
    answers: int = 0
    faults: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def reading(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._read_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _read_on(self) -> None:
        with self.registry.client() as client:
            while not self._stop.is_set():
                for address in READ:
                    answer = client.get(address)
                    self.answers += 1
                    if answer.status_code != 200:
                        self.faults.append(f"{address}: {answer.status_code} {answer.text[:300]}")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """An empty one; the bytes lie in a folder, since the version before knew no bucket."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'registry.db'}" if sqlite else production.postgres().new_database()
    return {"LORAHUB_DATABASE_URL": url, **IN_A_FOLDER}


@pytest.fixture
def old(database: dict[str, str], tmp_path: Path) -> Iterator[Registry]:
    """A server of the version before, on a schema of its own making."""
    with tarfile.open(VERSION_BEFORE) as archive:
        archive.extractall(tmp_path / "code", filter="data")
    code = {"PYTHONPATH": f"{tmp_path / 'code' / 'client'}:{tmp_path / 'code' / 'registry'}"}
    running = Registry(tmp_path / "home", {**database, **code}).start()
    with running.client() as client:
        wire.create_repo(client, "owner/known")
        lines = [wire.inline("README.md", b"---\ntags: [known]\n---\n"), wire.inline("known.txt", b"known")]
        wire.require(wire.commit(client, "owner/known", lines))
    yield running
    running.kill()


@pytest.fixture
def new(database: dict[str, str], tmp_path: Path) -> Iterator[Registry]:
    """A server of today beside it, not started; it would not migrate."""
    running = Registry(tmp_path / "home", {**database, "LORAHUB_MIGRATE": "false"})
    yield running
    running.kill()


def migrate(registry: Registry) -> str:
    """As an operator does it, by a command of its own; what was done."""
    environment = {**os.environ, **registry.settings}
    command = [LORAHUB, "admin", "migrate", "--home", str(registry.home)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_version_before_serves_while_the_schema_becomes_that_of_today(old: Registry, new: Registry) -> None:
    readers = Readers(old)
    with Pushers(old, count=3) as pushers, readers.reading():
        eventually(lambda: pushers.has_more_than(3), seconds=60)
        assert "done: 0004" in migrate(new)
        migrated, asked = len(pushers.acknowledged), readers.answers
        eventually(lambda: pushers.has_more_than(migrated + 6), seconds=60)
        eventually(lambda: readers.answers > asked + 2 * len(READ), seconds=60)
        new.start()
        assert_each_reads_what_the_other_writes(old, new, pushers.acknowledged[-1])
    assert pushers.refusals == []
    assert readers.faults == []
    old.stop()
    new.admin_command("reindex")
    new.admin_command("recount-quotas")
    pushers.registry = new
    pushers.assert_nothing_is_lost()
    with new.client() as client:
        found = client.get("/api/models", params={"search": "load"}).json()
    assert {model["id"] for model in found} == {repo for repo, _, _ in pushers.acknowledged}


def assert_each_reads_what_the_other_writes(old: Registry, new: Registry, pushed: tuple[str, str, str]) -> None:
    repo, commit, digest = pushed
    with old.client() as before, new.client(old.token) as after:
        assert wire.sha256(after.get(f"/{repo}/resolve/{commit}/w.safetensors").content) == digest
        wire.require(wire.commit(after, "owner/known", [wire.inline("newer.txt", b"by the new one")]))
        assert before.get("/owner/known/resolve/main/newer.txt").content == b"by the new one"
