"""What a balancer is told: the process lives, and whether what it stands on answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from registry_process import Registry, eventually
from services.postgres import Postgres

NEEDED = {"database", "migrations", "storage"}


def ready(registry: Registry) -> httpx2.Response:
    return httpx2.get(f"{registry.url}/readyz", timeout=10)


def faults(registry: Registry) -> dict[str, Any]:
    """By name of what failed that it needs; these registries have no worker, which they can do without."""
    response = ready(registry)
    checks = response.json()["checks"]
    assert not checks.pop("workers")["ok"]
    assert set(checks) == NEEDED
    found = {name: check["fault"] for name, check in checks.items() if not check["ok"]}
    assert (response.status_code, response.json()["status"]) == ((503, "unavailable") if found else (200, "degraded"))
    assert "postgresql" not in response.text
    assert str(registry.home) not in response.text
    return found


@pytest.fixture
def on_a_folder(tmp_path: Path) -> Iterator[Registry]:
    """Whatever the run is on: the test takes the folder away."""
    running = Registry(tmp_path / "registry")
    running.settings = {name: value for name, value in running.settings.items() if "STORAGE" not in name}
    yield running.start()
    running.kill()


def test_a_sound_registry_is_alive_ready_and_started(registry: Registry) -> None:
    assert faults(registry) == {}
    assert httpx2.get(registry.url + "/livez").json()["status"] == "ok"
    assert httpx2.get(registry.url + "/startupz").json()["status"] in ("ok", "degraded")


def test_without_its_storage_it_is_alive_and_not_ready(on_a_folder: Registry) -> None:
    storage, away = on_a_folder.home / "storage", on_a_folder.home / "away"
    assert httpx2.get(f"{on_a_folder.url}/startupz").status_code == 200
    storage.rename(away)
    assert set(faults(on_a_folder)) == {"storage"}
    assert httpx2.get(f"{on_a_folder.url}/livez").status_code == 200
    assert httpx2.get(f"{on_a_folder.url}/startupz").status_code == 200, "it had started"
    away.rename(storage)
    assert faults(on_a_folder) == {}


def test_on_another_schema_it_is_not_ready(own_registry: Registry) -> None:
    with own_registry.database() as database:
        database.exec_driver_sql("UPDATE alembic_version SET version_num = '0123456789ab'")
        database.exec_driver_sql("UPDATE schema_floor SET revision = '0123456789ab'")
    assert faults(own_registry) == {"migrations": "OutdatedSchema"}


def test_without_its_database_it_is_alive_and_not_ready(tmp_path: Path, postgres: Postgres) -> None:
    registry = Registry(tmp_path / "registry", {"LORAHUB_DATABASE_URL": postgres.new_database()}).start()
    try:
        assert faults(registry) == {}
        postgres.stop()
        assert set(faults(registry)) == {"database", "migrations"}
        assert httpx2.get(f"{registry.url}/livez").status_code == 200
        postgres.start()
        eventually(lambda: ready(registry).status_code == 200)
    finally:
        registry.kill()


def test_a_database_that_hangs_is_named_within_the_time_out(tmp_path: Path, postgres: Postgres) -> None:
    registry = Registry(tmp_path / "registry", {"LORAHUB_DATABASE_URL": postgres.new_database()}).start()
    try:
        assert faults(registry) == {}
        with postgres.frozen():
            for _ in range(3):
                assert "no answer within" in faults(registry)["database"]
            assert httpx2.get(f"{registry.url}/livez").status_code == 200
        eventually(lambda: ready(registry).status_code == 200)
    finally:
        registry.kill()
