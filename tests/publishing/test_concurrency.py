"""Many at once: on one parent exactly one wins; without a parent all do; a collector in between takes nothing."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest.mock import patch

import wire
from builders import lora_weights
from registry_process import Registry

PUSHERS = 50
PATIENCE_SECONDS = 300  # of the last in the queue, on a bucket of a busy machine


def test_fifty_pushers_on_one_parent_have_one_winner(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/race")
        parent = wire.head(client, repo)

    def push(number: int) -> int:
        with registry.client(token, timeout=PATIENCE_SECONDS) as client:
            lines = [wire.inline(f"{number}.txt", b"%d" % number)]
            return wire.commit(client, repo, lines, parent=parent, title=f"pusher {number}").status_code

    with ThreadPoolExecutor(PUSHERS) as pool:
        statuses = list(pool.map(push, range(PUSHERS)))
    assert sorted(statuses) == [200] + [412] * (PUSHERS - 1)
    with registry.client(token) as client:
        assert len(client.get(f"/api/models/{repo}/commits/main").json()) == 2


def test_fifty_pushers_without_a_parent_all_land(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    with registry.client(token) as client:
        repo = wire.create_repo(client, f"{name}/crowd")

    def push(number: int) -> int:
        with registry.client(token, timeout=PATIENCE_SECONDS) as client:
            lines = [wire.inline(f"{number}.txt", b"%d" % number)]
            return wire.commit(client, repo, lines, title=f"pusher {number}").status_code

    with ThreadPoolExecutor(PUSHERS) as pool:
        statuses = list(pool.map(push, range(PUSHERS)))
    assert statuses == [200] * PUSHERS
    with registry.client(token) as client:
        here = wire.files(client, repo)
        assert {f"{number}.txt" for number in range(PUSHERS)} <= set(here)
        history = client.get(f"/api/models/{repo}/commits/main")
        assert len(history.json()) == 50
        assert 'rel="next"' in history.headers["link"], "the history has 51 commits and a second page"


def test_identical_bytes_pushed_at_once_are_stored_once(registry: Registry, user: tuple[str, str]) -> None:
    name, token = user
    content = lora_weights(seed=77)
    repos = [f"{name}/same{number}" for number in range(12)]
    with registry.client(token) as client:
        for repo in repos:
            wire.create_repo(client, repo)

    def push(repo: str) -> int:
        with registry.client(token) as client:
            wire.upload(client, repo, content)
            return wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code

    with ThreadPoolExecutor(len(repos)) as pool:
        assert list(pool.map(push, repos)) == [200] * len(repos)
    assert sum(wire.sha256(content) in key for key in registry.objects.list("blobs/")) == 1
    with registry.client(token) as client:
        for repo in repos:
            assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content


def collecting(registry: Registry) -> Callable[[], int]:
    """Collects with no grace, again and again, in this process, beside the server; the returned function stops it."""
    from lorahub_registry.infrastructure.backend import Backend
    from lorahub_registry.operations.maintenance.service import collect_garbage
    from lorahub_registry.settings import Settings

    stop = threading.Event()
    cycles = 0

    def run() -> None:
        nonlocal cycles
        with patch.dict(os.environ, registry.settings):
            backend = Backend.open(Settings(registry_home=registry.home))
        while not stop.wait(0.02):
            collect_garbage(backend, grace=timedelta(0))
            cycles += 1
        backend.database.close()

    thread = threading.Thread(target=run)
    thread.start()

    def finish() -> int:
        stop.set()
        thread.join()
        return cycles

    return finish


def test_collecting_while_pushes_run_loses_nothing(own_registry: Registry) -> None:
    """Eight clients push, delete and push the same bytes again, with a collector that gives no grace."""
    clients, rounds = 8, 12
    shared = [lora_weights(seed=seed) for seed in range(3)]
    finish = collecting(own_registry)

    def work(number: int) -> list[int]:
        repo = f"owner/soak{number}"
        statuses = []
        with own_registry.client() as client:
            wire.create_repo(client, repo)
            for turn in range(rounds):
                content = shared[(number + turn) % len(shared)]
                wire.upload(client, repo, content)
                pushed = wire.commit(client, repo, [wire.uploaded("w.safetensors", content)], title=f"turn {turn}")
                read = client.get(f"/{repo}/resolve/main/w.safetensors")
                assert read.content == content
                gone = {"key": "deletedFile", "value": {"path": "w.safetensors"}}
                deleted = wire.commit(client, repo, [gone], title=f"delete {turn}")
                client.post(f"/api/models/{repo}/super-squash/main", json={"message": f"squash {turn}"})
                statuses += [pushed.status_code, read.status_code, deleted.status_code]
        return statuses

    try:
        with ThreadPoolExecutor(clients) as pool:
            results = list(pool.map(work, range(clients)))
    finally:
        cycles = finish()
    assert {status for statuses in results for status in statuses} == {200}
    assert cycles > 5, "the collector hardly ran"
    own_registry.assert_sound()
