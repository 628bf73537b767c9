"""What Prometheus reads after a day's work, in numbers that the test knows."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import wire
from builders import weights_of_size
from prometheus_client.parser import text_string_to_metric_families
from registry_process import IN_A_FOLDER, LORAHUB, Registry, eventually
from services.ports import free_port
from services.postgres import Postgres


@pytest.fixture
def measured(tmp_path: Path) -> Iterator[Registry]:
    address = f"127.0.0.1:{free_port()}"
    settings = {"LORAHUB_METRICS_ADDRESS": address, "LORAHUB_QUOTA_REPOSITORIES": "1", **IN_A_FOLDER}
    running = Registry(tmp_path / "measured", settings).start()
    yield running
    running.kill()


def samples(registry: Registry) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, then by the values of its labels in the labels' order of names."""
    answer = httpx2.get(f"http://{registry.settings['LORAHUB_METRICS_ADDRESS']}/metrics")
    text = answer.raise_for_status().text
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_each_thing_that_happens_is_counted_once(measured: Registry) -> None:
    content = weights_of_size(2 << 20)
    resolve = "/{namespace}/{name}/resolve/{rev}/{path:path}"
    with measured.client() as client:
        repo = wire.create_repo(client, "owner/counted")
        wire.upload(client, repo, content)
        target = wire.batch(client, repo, b"never sent")
        assert wire.commit(client, repo, [wire.uploaded("w.safetensors", content)]).status_code == 200
        for _ in range(3):
            assert client.get(f"/{repo}/resolve/main/w.safetensors").content == content
        assert client.get(f"/{repo}/resolve/main/none.txt").status_code == 404
        bad = wire.batch(client, repo, b"other bytes")["actions"]["upload"]["href"]
        assert httpx2.put(bad, content=b"than these!").status_code == 422
    assert "actions" in target
    found = samples(measured)
    assert found["lorahub_pushes_total"][()] == 1
    assert found["lorahub_pulls_total"][()] == 3
    assert found["lorahub_uploads_total"][("kept",)] == 2, ".gitattributes is one"
    assert found["lorahub_uploads_total"][("refused",)] == 1
    assert found["lorahub_request_seconds_count"][("GET", resolve, "2xx")] == 3
    assert found["lorahub_request_seconds_count"][("GET", resolve, "4xx")] == 1
    assert found["lorahub_errors_total"][("EntryNotFound",)] == 1
    assert 3 * len(content) < found["lorahub_sent_bytes_total"][(resolve,)] < 3 * len(content) + 1000
    assert found["lorahub_received_bytes_total"][("/lfs/{credential}/whole",)] == len(content) + len(b"than these!")
    assert found["lorahub_open_uploads"][()] == 1
    assert found["lorahub_open_upload_bytes"][()] == len(b"never sent")
    assert found["lorahub_repositories"][()] == 1
    assert found["lorahub_blobs"][()] == 2
    assert len(content) < found["lorahub_blob_bytes"][()] < len(content) + 10_000
    assert found["lorahub_requests_in_flight"][()] == 0
    assert found["lorahub_database_connections"].keys() == {("busy",), ("idle",)}


def test_refusals_of_quotas_and_workers_are_counted(measured: Registry) -> None:
    with measured.client() as client:
        wire.create_repo(client, "owner/one")
        for _ in range(2):
            assert client.post("/api/repos/create", json={"name": "one-more"}).status_code == 413
    found = samples(measured)
    assert found["lorahub_quota_refusals_total"] == {("repositories",): 2}
    assert found["lorahub_workers"] == {(): 0}


@pytest.fixture
def on_postgres(tmp_path: Path, postgres: Postgres) -> Iterator[Registry]:
    settings = {
        "LORAHUB_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        "LORAHUB_DATABASE_URL": postgres.new_database(),
    }
    running = Registry(tmp_path / "registry", {**settings, **IN_A_FOLDER}).start()
    yield running
    running.kill()


def test_a_database_that_is_away_is_told_and_takes_nothing_else_with_it(
    on_postgres: Registry, postgres: Postgres
) -> None:
    httpx2.get(f"{on_postgres.url}/api/models").raise_for_status()
    found = samples(on_postgres)
    assert (found["lorahub_database_up"][()], found["lorahub_accounts"][()]) == (1, 1)
    with postgres.frozen():
        assert_only_its_absence_is_told(on_postgres)
    postgres.stop()
    assert httpx2.get(f"{on_postgres.url}/api/models").status_code == 503
    assert_only_its_absence_is_told(on_postgres)
    postgres.start()
    eventually(lambda: samples(on_postgres)["lorahub_database_up"][()] == 1)
    assert samples(on_postgres)["lorahub_accounts"][()] == 1


def assert_only_its_absence_is_told(registry: Registry) -> None:
    found = samples(registry)
    assert found["lorahub_database_up"][()] == 0
    assert "lorahub_accounts" not in found, "nobody knows how many there are"
    assert found["lorahub_request_seconds_count"][("GET", "/api/models", "2xx")] == 1


def test_no_name_that_somebody_chose_becomes_a_label(measured: Registry) -> None:
    with measured.client() as client:
        wire.create_repo(client, "owner/chosen-name")
        for path in ("/chosen-name", "/chosen/name/is/none", "/api/models/owner/chosen-name?chosen=name"):
            client.get(path)
        client.request("CHOSEN-METHOD", "/api/models/owner/chosen-name")
    text = httpx2.get(f"http://{measured.settings['LORAHUB_METRICS_ADDRESS']}/metrics").text
    assert "lorahub_request_seconds_count" in text
    assert "chosen" not in text.lower()
    assert "owner" not in text


def test_metrics_are_not_where_everybody_asks(measured: Registry) -> None:
    assert httpx2.get(f"{measured.url}/metrics").status_code == 404


def test_a_taken_port_is_said(measured: Registry, tmp_path: Path) -> None:
    import os
    import subprocess

    command = [LORAHUB, "serve", "--home", str(tmp_path / "second"), "--port", "0"]
    environment = {**os.environ, **measured.settings, "LORAHUB_WORKER": "false"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "can't serve metrics at" in result.stderr
