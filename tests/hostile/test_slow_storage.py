"""A storage that takes its time stops nobody who doesn't need it, and who has waited long enough is told so."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import wire
from registry_process import Registry, eventually
from services import production
from services.fault_proxy import Fault, FaultProxy

COMMITS = 60
THREADS = 32
"""Of a registry, for the storage."""


@contextmanager
def _slow(folder: Path, **settings: str) -> Iterator[tuple[Registry, FaultProxy]]:
    """A registry, and the proxy that stands before its bucket."""
    with FaultProxy(int(production.s3().endpoint.rpartition(":")[2])) as proxy:
        place = {**production.storage_settings(production.s3()), "LORAHUB_STORAGE_ENDPOINT": proxy.endpoint}
        registry = Registry(folder / "slow", {**place, **settings}).start()
        try:
            yield registry, proxy
        finally:
            proxy.let_go()
            registry.stop()
            proxy.faults.clear()
            registry.assert_sound()


def _commit_at_once(registry: Registry, pool: ThreadPoolExecutor, repo: str, count: int) -> Iterator[httpx2.Response]:
    def commit(number: int) -> httpx2.Response:
        with registry.client(timeout=120) as client:
            return wire.commit(client, repo, [wire.inline(f"{number}.txt", f"file {number}".encode())])

    return pool.map(commit, range(count))


def test_commits_that_wait_for_their_bytes_stop_nobody(tmp_path: Path) -> None:
    with (
        _slow(tmp_path, LORAHUB_STORAGE_WAIT_SECONDS="120") as (registry, proxy),
        registry.client() as client,
        ThreadPoolExecutor(COMMITS) as pool,
    ):
        repo = wire.create_repo(client, "owner/slow")
        held = Fault("hold", "PUT", "blobs/", times=10 * COMMITS)
        proxy.faults += [held, Fault("hold", "HEAD", times=1000)]  # HEAD is how the storage is probed
        answers = _commit_at_once(registry, pool, repo, COMMITS)
        eventually(lambda: held.done >= THREADS, 60)
        for _ in range(5):
            assert client.get("/api/models").status_code == 200
            assert client.get(f"/api/models/{repo}").status_code == 200
            assert client.get("/livez").status_code == 200
            probed = client.get("/readyz")
            assert (probed.status_code, probed.json()["status"]) == (200, "degraded")
            assert "no answer" in probed.json()["checks"]["storage"]["fault"]
        assert held.done == THREADS, "a commit was answered, and nothing was proven"
        proxy.let_go()
        assert [answer.status_code for answer in answers] == [200] * COMMITS
        assert len(wire.files(client, repo)) == COMMITS + 1


def test_who_has_waited_long_enough_is_told_to_come_again(tmp_path: Path) -> None:
    with (
        _slow(tmp_path, LORAHUB_STORAGE_WAIT_SECONDS="1") as (registry, proxy),
        registry.client() as client,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        repo = wire.create_repo(client, "owner/busy")
        held = Fault("hold", "PUT", "blobs/", times=10 * THREADS)
        proxy.faults.append(held)
        answers = _commit_at_once(registry, pool, repo, THREADS)
        eventually(lambda: held.done == THREADS, 60)
        refused = wire.commit(client, repo, [wire.inline("late.txt", b"late")])
        assert (refused.status_code, refused.headers["x-error-code"]) == (503, "Busy")
        assert int(refused.headers["retry-after"]) >= 1
        proxy.let_go()
        assert {answer.status_code for answer in answers} == {200}
        assert "late.txt" not in wire.files(client, repo)
