"""A registry and its worker that nobody wants anything of: what they cost, and how soon they are at work."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lorahub
import psutil
import pytest
from builders import write_adapter
from jobs.conftest import Model
from jobs.test_workers import assert_published_once
from jobs.worker_process import Worker
from pace import pace
from registry_process import Registry, eventually
from services.postgres import Postgres

COUNTING = Path(__file__).parent / "counting"
WINDOW_SECONDS = 40.0
MOST_STATEMENTS = 40
MOST_OF_A_CORE = 0.005
CONNECTIONS = 8
"""That one process may hold to PostgreSQL; half of a worker's are for its engine, and gone while that rests."""
SOON_SECONDS = 5.0
"""A second, on a machine with nothing else to do; without the bell it would be up to 60."""
ASLEEP_THREADS = 4
"""More are the job engine's."""


@dataclass(frozen=True)
class Observed:
    """A registry with a worker beside it, and every SQL statement of both, as the database sees them."""

    registry: Registry
    log: Path
    marks: tuple[str, ...]
    """What a line of the log has that is a statement."""
    port: int = 0
    """PostgreSQL's."""

    def statements(self) -> list[str]:
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(mark in line for mark in self.marks)]

    def processes(self) -> list[psutil.Process]:
        assert self.registry.process is not None
        server = psutil.Process(self.registry.process.pid)
        return [server, *server.children(recursive=True)]

    def cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.processes()]
        return sum(time.user + time.system for time in times)

    def worker(self) -> psutil.Process:
        return self.processes()[1]

    def stop(self) -> None:
        worker = self.worker()
        self.registry.stop()
        psutil.wait_procs([worker], timeout=30)

    def connections(self) -> int:
        """The worker's to PostgreSQL."""
        return sum(bool(one.raddr) and one.raddr.port == self.port for one in self.worker().net_connections("tcp"))

    def jobs(self, question: str) -> list[tuple[Any, ...]]:
        """Asked of the job engine's tables."""
        if self.port:
            return self.registry.sql(question.format("dbos."))
        with closing(sqlite3.connect(self.registry.home / "jobs.sqlite")) as database:
            return database.execute(question.format("")).fetchall()


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[list[Observed]]:
    """On SQLite and on a PostgreSQL of its own."""
    with ExitStack() as stack:
        postgres = Postgres(tmp_path / "postgres", log_statement="all").start()
        stack.callback(postgres.stop)
        counted = tmp_path / "statements"
        settings = {"PYTHONPATH": str(COUNTING), "COUNTED_STATEMENTS": str(counted)}
        on_postgres = {
            "LORAHUB_DATABASE_URL": postgres.new_database(),
            "LORAHUB_DATABASE_CONNECTIONS": str(CONNECTIONS),
        }
        made = [
            Observed(Registry(tmp_path / "sqlite", {"LORAHUB_DATABASE_URL": "", **settings}), counted, ("",)),
            Observed(
                Registry(tmp_path / "postgres", on_postgres),
                postgres.folder / "log",
                ("LOG:  statement:", "LOG:  execute "),
                postgres.port,
            ),
        ]
        for one in made:
            one.registry.start(LORAHUB_WORKER="true")
            stack.callback(one.stop)
            eventually(lambda one=one: len(one.processes()) == 2, 60)
            wait_for_rest(one.worker())
        yield made


def is_at_rest(worker: psutil.Process) -> bool:
    return worker.num_threads() <= ASLEEP_THREADS


def wait_for_rest(worker: psutil.Process) -> None:
    """One that was just started begins by looking what there is to do."""
    eventually(lambda: not is_at_rest(worker), 60)
    eventually(lambda: is_at_rest(worker), 120)
    time.sleep(3)  # it asks once more, when it has stopped its engine
    assert is_at_rest(worker)


def started_after(one: Observed) -> float:
    """Seconds from a wish for statistics, of which there is one, to the start of its job."""
    [(wanted_at,)] = one.registry.sql("select wanted_at from adapter_statistics")
    [(started,)] = one.jobs("select started_at_epoch_ms from {}workflow_status where name = 'statistics'")
    wanted = datetime.fromisoformat(str(wanted_at))
    return started / 1000 - (wanted if wanted.tzinfo else wanted.replace(tzinfo=UTC)).timestamp()


def test_at_rest_next_to_nothing_is_done_and_work_begins_at_once(observed: list[Observed], tmp_path: Path) -> None:
    before = [(len(one.statements()), one.cpu_seconds()) for one in observed]
    time.sleep(WINDOW_SECONDS)
    slowed = pace()
    for one, (statements, seconds) in zip(observed, before, strict=True):
        asked = one.statements()[statements:]
        share = (one.cpu_seconds() - seconds) / WINDOW_SECONDS
        print(f"{one.registry.home.name}: {len(asked)} statements, {share:.2%} of a core in {WINDOW_SECONDS:g} s")
        assert len(asked) <= MOST_STATEMENTS, "\n".join(asked)
        assert share / slowed <= MOST_OF_A_CORE
        assert one.connections() <= CONNECTIONS // 2
    for one in observed:
        with lorahub.Hub(one.registry.url, token=one.registry.token) as hub:
            hub.push(write_adapter(tmp_path / f"adapter-{one.registry.home.name}"), "owner/woken")
            while hub.statistics("owner/woken").status != "done":
                assert one.connections() <= CONNECTIONS
                time.sleep(0.05)
        print(f"{one.registry.home.name}: at work after {started_after(one):.2f} s")
        assert started_after(one) <= SOON_SECONDS
        eventually(lambda one=one: is_at_rest(one.worker()), 60)


def test_what_was_woken_together_takes_over(
    shared: Registry, push: Callable[..., Model], hire: Callable[..., Worker], tmp_path: Path
) -> None:
    """A worker rests only where nobody has anything in hand."""
    model = push(shared)
    workers = [hire(shared, name) for name in ("one", "two")]
    for worker in workers:
        wait_for_rest(psutil.Process(worker.started().pid))
    job = model.start()
    eventually(lambda: any(worker.children() for worker in workers), 60)
    begun = next(worker for worker in workers if worker.children())
    begun.hold_a_file()
    time.sleep(8)  # longer than there is nothing to do before a worker rests
    begun.kill()
    assert_published_once(model, job, tmp_path)
