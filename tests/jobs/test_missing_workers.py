"""A worker that is not there is said to be, wherever somebody looks or waits; and `serve` starts its own again."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from jobs.conftest import Model
from jobs.worker_process import Worker
from registry_process import LORAHUB, Registry, eventually

NOTE = "no worker is running; jobs wait until one is"


def ready(registry: Registry) -> tuple[int, str, str | None]:
    """Status, what is said of the whole, and the fault of its workers."""
    answer = httpx2.get(f"{registry.url}/readyz", timeout=10)
    return answer.status_code, answer.json()["status"], answer.json()["checks"]["workers"]["fault"]


def page(registry: Registry, path: str) -> str:
    with registry.client() as client:
        answer = client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == 200, answer.text
    return answer.text


def asked(registry: Registry, path: str, method: str = "GET", **how: Any) -> Any:
    with registry.client() as client:
        return client.request(method, path, **how).raise_for_status().json()


def command(registry: Registry, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {"LORAHUB_ENDPOINT": registry.url, "LORAHUB_TOKEN": registry.token, "LORAHUB_HOME": str(registry.home / "me")}
    return subprocess.run(
        [LORAHUB, *arguments], env={**os.environ, **own}, capture_output=True, text=True, timeout=60, check=False
    )


def levels(registry: Registry) -> dict[str, str]:
    return {one["subject"]: one["level"] for one in registry.admin_command("doctor")["observations"]}


def test_who_watches_is_told(shared: Registry, push: Callable[..., Model], hire: Callable[..., Worker]) -> None:
    assert ready(shared) == (200, "degraded", NOTE)
    assert levels(shared)["workers"] == "note"
    doctor = command(shared, "doctor")
    assert doctor.returncode == 0, "it takes and gives adapters"
    assert f"✗ health       degraded: workers: {NOTE}" in doctor.stdout
    assert NOTE in page(shared, "/admin")
    assert "No worker is running" in page(shared, "/admin/jobs")
    push(shared)
    assert levels(shared)["jobs"] == "error", "the statistics of the adapter wait"
    worker = hire(shared, "one").started()
    eventually(lambda: ready(shared) == (200, "ok", None), 30)
    eventually(lambda: set(levels(shared).values()) == {"ok"}, 60)
    assert "✓ health       ok" in command(shared, "doctor").stdout
    assert NOTE not in page(shared, "/admin")
    worker.kill()
    eventually(lambda: ready(shared)[1] == "degraded", 30)
    assert "No worker is running" in page(shared, "/admin/jobs"), "though its heartbeat is known"


def test_who_waits_for_a_job_is_told(
    on_sqlite: Registry, push: Callable[..., Model], hire: Callable[..., Worker]
) -> None:
    model = push(on_sqlite)
    assert NOTE.capitalize() in page(on_sqlite, "/merges?base=owner/base&adapter1=owner/sql")
    started = command(on_sqlite, "merge", "owner/base", "owner/sql", "--server", "owner/merged", "--no-wait")
    assert started.returncode == 0
    assert NOTE in started.stderr
    [job] = asked(on_sqlite, "/api/lorahub/v1/merges")
    assert job["note"] == NOTE
    assert model.hub.merges.start(model.recipe, "owner/merged").note == NOTE
    assert model.hub.merges.find(job["id"]).note == NOTE
    assert NOTE in command(on_sqlite, "merge-job", job["id"]).stderr
    assert NOTE.capitalize() in page(on_sqlite, f"/merges/{job['id']}")
    assert model.hub.statistics("owner/sql").note == NOTE
    assert NOTE.capitalize() in page(on_sqlite, "/owner/sql/weights/v1")
    overlap = "/api/lorahub/v1/models/owner/sql/overlap/main?with=owner/sql@v1"
    assert asked(on_sqlite, overlap, "POST")["note"] == NOTE
    assert NOTE in page(on_sqlite, "/compare?a=owner/sql&b=owner/sql@v1")
    hire(on_sqlite, "one").started()
    done = model.hub.merges.wait(job["id"])
    assert (done.status, done.note) == ("done", None)
    eventually(lambda: asked(on_sqlite, overlap)["status"] == "done", 60)
    assert asked(on_sqlite, overlap)["note"] is None
    assert NOTE.capitalize() not in page(on_sqlite, f"/merges/{job['id']}")


def test_who_has_a_mirror_run_is_told(tmp_path: Path) -> None:
    settings = {"LORAHUB_OUTBOUND_INTERNAL": '["127.0.0.1:9"]'}
    registry = Registry(tmp_path / "mirrors", settings).start()
    try:
        added = command(registry, "mirror", "add", "owner", "org/adapter", "--from", "http://127.0.0.1:9")
        assert (added.returncode, NOTE in added.stdout) == (0, True), added.stderr
        assert NOTE in command(registry, "mirror", "run", "1").stdout
        assert NOTE in command(registry, "mirror", "ls").stdout
        assert asked(registry, "/api/lorahub/v1/mirrors/1/run", "POST")["note"] == NOTE
    finally:
        registry.kill()


# --- the worker beside `serve` ----------------------------------------------------------------------------------------


@pytest.fixture
def with_its_own(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "own", {"LORAHUB_WORKER": "true"}, log=tmp_path / "log")
    yield registry
    registry.stop()


def said(registry: Registry) -> str:
    assert registry.log is not None
    return registry.log.read_text()


def its_worker(registry: Registry) -> psutil.Process:
    assert registry.process is not None
    [worker] = psutil.Process(registry.process.pid).children()
    return worker


def test_one_that_was_killed_is_started_again_and_that_is_said(with_its_own: Registry) -> None:
    with_its_own.start()
    for pause in (1, 2):
        eventually(lambda: ready(with_its_own)[1] == "ok", 60)
        its_worker(with_its_own).kill()
        expected = f"the worker beside this registry was killed by signal 9; the next one starts in {pause} s"
        eventually(lambda text=expected: text in said(with_its_own), 10)
        assert ready(with_its_own) == (200, "degraded", NOTE)
    eventually(lambda: ready(with_its_own)[1] == "ok", 60)


def test_one_that_can_t_work_says_why_and_the_registry_serves(with_its_own: Registry) -> None:
    with_its_own.start(LORAHUB_WORKER="false")
    with_its_own.stop()
    (with_its_own.home / "jobs.sqlite").write_bytes(b"no database " * 1000)
    with_its_own.start()
    eventually(lambda: "ended with exit status 1; the next one starts in 2 s" in said(with_its_own), 60)
    assert "file is not a database" in said(with_its_own)
    assert ready(with_its_own) == (200, "degraded", NOTE)
    (with_its_own.home / "jobs.sqlite").unlink()
    eventually(lambda: ready(with_its_own)[1] == "ok", 60)
