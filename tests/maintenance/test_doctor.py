"""`lorahub admin doctor`: what a registry stands on, tried out."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from registry_process import LORAHUB, Registry
from services import production


def doctor(registry: Registry, **settings: str) -> tuple[int, str]:
    """Exit status, and what people read."""
    result = subprocess.run(
        [LORAHUB, "admin", "doctor", "--home", str(registry.home)],
        env={**os.environ, **registry.settings, **settings},
        capture_output=True,
        text=True,
        check=False,
        cwd=registry.home,
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout


def by_subject(report: Any) -> dict[str, str]:
    return {one["subject"]: one["level"] for one in report["observations"]}


def test_a_registry_on_a_folder_is_healthy(folder_registry: Registry) -> None:
    report = folder_registry.admin_command("doctor")
    assert report["ok"]
    assert {subject for subject, level in by_subject(report).items() if level != "ok"} == {"workers"}
    assert {"database schema", "storage range", "storage space"} <= set(by_subject(report))
    assert folder_registry.objects.list("doctor/") == []
    status, shown = doctor(folder_registry)
    assert status == 0
    assert "✓ storage move" in shown
    assert "✓ merge device" in shown


@pytest.fixture
def on_bucket(tmp_path: Path) -> Registry:
    found = Registry(tmp_path / "on-bucket", settings=production.storage_settings(production.s3()))
    migrate = [LORAHUB, "admin", "migrate", "--home", str(found.home)]
    subprocess.run(migrate, env={**os.environ, **found.settings}, check=True, capture_output=True)
    return found


def test_a_bucket_is_tried_out_and_nothing_stays(on_bucket: Registry) -> None:
    report = on_bucket.admin_command("doctor")
    assert report["ok"], report
    found = by_subject(report)
    assert found["address to write"] == found["storage abort of parts"] == found["storage clock"] == "ok"
    assert found["storage wrong checksum"] == found["storage conditional put"] == "ok"
    assert on_bucket.objects.list() == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another"}, "SignatureDoesNotMatch"),
        ({"LORAHUB_STORAGE": "s3://no-such-bucket/x"}, "NoSuchBucket"),
        ({"LORAHUB_STORAGE_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1:9"),
        ({"LORAHUB_STORAGE_PUBLIC_ENDPOINT": "http://127.0.0.1:9"}, "✗ address to read"),
        ({"LORAHUB_DATABASE_URL": "postgresql+psycopg://x@127.0.0.1:9/x"}, "✗ database"),
        ({"LORAHUB_DATABASE_URL": "sqlite:///empty.db"}, "run lorahub admin migrate"),
    ],
    ids=["secret", "bucket", "endpoint", "public endpoint", "database", "schema"],
)
def test_what_is_wrong_is_said_and_is_an_exit_status(on_bucket: Registry, settings: dict[str, str], says: str) -> None:
    status, shown = doctor(on_bucket, **settings)
    assert status == 8
    assert says in shown
