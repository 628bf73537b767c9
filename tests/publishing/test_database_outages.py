"""PostgreSQL goes away under load, or the wire to it breaks: 503, never 500; nothing is lost and nothing made twice."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import wire
from builders import lora_config, lora_weights
from registry_process import Registry, eventually
from services.breaking_wire import BreakingWire
from services.postgres import Postgres

RESTARTS, HEALTHY_SECONDS = 10, 5.0
CONTENT = b"known bytes"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One that keeps what it has acknowledged when it is killed."""
    running = Postgres(tmp_path_factory.mktemp("outages"), synchronous_commit="on").start()
    yield running
    running.stop()


@pytest.fixture
def standing(postgres: Postgres, tmp_path: Path) -> Iterator[tuple[Registry, BreakingWire]]:
    """A registry, and the wire between it and its database."""
    between = BreakingWire(postgres.port)
    url = postgres.new_database().replace(f":{postgres.port}/", f":{between.port}/")
    registry = Registry(tmp_path / "home", settings={"LORAHUB_DATABASE_URL": url}).start()
    with registry.client() as client:
        wire.create_repo(client, "owner/read")
        assert wire.commit(client, "owner/read", [wire.inline("known.txt", CONTENT)]).status_code == 200
    yield registry, between
    registry.kill()
    between.close()


@dataclass
class Load:
    """Clients that push and read until told to stop, and what they were answered."""

    registry: Registry
    stop: threading.Event = field(default_factory=threading.Event)
    pushed: dict[str, list[str]] = field(default_factory=dict)
    unavailable: int = 0
    faults: list[str] = field(default_factory=list)

    def is_refused(self, answer: httpx2.Response) -> bool:
        """Whether the answer is the 503 that it may be; anything else but success is a fault."""
        if answer.status_code == 503 and answer.headers.get("Retry-After"):
            self.unavailable += 1
            time.sleep(0.05)
            return True
        if answer.status_code != 200:
            self.faults.append(f"{answer.status_code} {answer.text[:300]}")
        return False

    def push(self, repo: str) -> None:
        """One commit after the other, each repeated under its key until it is answered."""
        made = self.pushed.setdefault(repo, [])
        with self.registry.client() as client:
            while not self.stop.is_set():
                number = len(made)
                lines = [wire.inline("notes.txt", f"{repo} {number}".encode())]
                answer = wire.commit(client, repo, lines, key=f"push-{number}")
                while self.is_refused(answer) and not self.stop.is_set():
                    answer = wire.commit(client, repo, lines, key=f"push-{number}")
                if answer.status_code == 200:
                    made.append(answer.json()["commitOid"])

    def read(self) -> None:
        with self.registry.client() as client:
            while not self.stop.is_set():
                answer = client.get("/owner/read/resolve/main/known.txt")
                if not self.is_refused(answer) and answer.content != CONTENT:
                    self.faults.append(f"read {answer.content[:100]!r}")
                self.is_refused(client.get("/api/models", params={"search": "read"}))


def is_healthy(registry: Registry) -> bool:
    with registry.client() as client:
        return client.get("/owner/read/resolve/main/known.txt").status_code == 200


def history(registry: Registry, repo: str) -> list[str]:
    with registry.client() as client:
        url: str | None = f"/api/models/{repo}/commits/main?limit=100"
        found: list[str] = []
        while url is not None:
            answer = client.get(url)
            found += [commit["id"] for commit in answer.json()]
            url = answer.links["next"]["url"] if "next" in answer.links else None
        return found


def test_a_restarted_postgresql_loses_nothing_and_costs_no_restart(
    postgres: Postgres, standing: tuple[Registry, BreakingWire]
) -> None:
    registry, _ = standing
    load = Load(registry)
    repos = [f"owner/push{number}" for number in range(3)]
    with registry.client() as client:
        for repo in repos:
            wire.create_repo(client, repo)
    work: list[Callable[[], None]] = [*(lambda repo=repo: load.push(repo) for repo in repos), load.read, load.read]
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    try:
        for _ in range(RESTARTS):
            before = sum(map(len, load.pushed.values()))
            eventually(lambda before=before: sum(map(len, load.pushed.values())) > before, seconds=30)
            refused = load.unavailable
            postgres.stop()
            eventually(lambda refused=refused: load.unavailable > refused, seconds=30)
            postgres.start()
            eventually(lambda: is_healthy(registry), seconds=HEALTHY_SECONDS)
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()
    assert load.faults == []
    for repo, made in load.pushed.items():
        there = history(registry, repo)[-2::-1]
        assert there[: len(made)] == made, "an acknowledged commit is missing, or one was made twice"
        assert len(there) <= len(made) + 1, "only the last one may be unacknowledged"
    registry.assert_sound()


def test_a_worker_waits_for_its_database(postgres: Postgres, standing: tuple[Registry, BreakingWire]) -> None:
    registry, _ = standing
    registry.stop()
    registry.start(LORAHUB_WORKER="true")
    postgres.stop()
    time.sleep(2)  # in which the worker asks, and hears nothing
    postgres.start()
    with registry.client() as client:
        wire.create_repo(client, "owner/afterwards")
        content = lora_weights(seed=1)
        wire.upload(client, "owner/afterwards", content)
        config = wire.inline("adapter_config.json", json.dumps(lora_config()).encode())
        lines = [config, wire.uploaded("adapter_model.safetensors", content)]
        assert wire.commit(client, "owner/afterwards", lines).status_code == 200
        address = "/api/lorahub/v1/models/owner/afterwards/statistics/main"
        eventually(lambda: client.get(address).json()["status"] == "done", seconds=60)


@pytest.mark.parametrize(
    ("words", "is_heard"),
    [(b"INSERT INTO commits", False), (b"INSERT INTO commits", True), (b"COMMIT", False), (b"COMMIT", True)],
    ids=["before the commit's row", "amid the transaction", "before COMMIT", "after COMMIT"],
)
def test_a_commit_whose_outcome_is_unknown_is_found_by_its_key(
    standing: tuple[Registry, BreakingWire], words: bytes, *, is_heard: bool
) -> None:
    registry, between = standing
    with registry.client() as client:
        before = history(registry, "owner/read")
        lines = [wire.inline("notes.txt", b"once")]
        assert client.post("/api/lorahub/v1/organisations", json={"name": "warm"}).status_code == 200
        between.break_at(words, is_heard=is_heard)
        broken = wire.commit(client, "owner/read", lines, key="once")
        assert between.broken.is_set()
        assert (broken.status_code, broken.headers["Retry-After"]) == (503, "2")
        made = wire.commit(client, "owner/read", lines, key="once")
        again = wire.commit(client, "owner/read", lines, key="once")
    assert (made.status_code, again.json()["commitOid"]) == (200, made.json()["commitOid"])
    assert history(registry, "owner/read") == [made.json()["commitOid"], *before]


def test_a_database_that_cannot_be_reached_is_a_503_until_it_can(standing: tuple[Registry, BreakingWire]) -> None:
    registry, between = standing
    between.is_cut = True
    between.break_at(b"", is_heard=False)
    with registry.client() as client:
        asked = {"list": "/api/models", "read": "/owner/read/resolve/main/known.txt", "info": "/api/models/owner/read"}
        for path in asked.values():
            answer = client.get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2"), answer.text
        between.is_cut = False
        eventually(lambda: is_healthy(registry), seconds=HEALTHY_SECONDS)
