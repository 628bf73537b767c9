"""Spans of requests, as a collector receives them; and none where nobody asks for them."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import wire
from builders import lora_config, lora_weights
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from registry_process import Registry, eventually


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP receiver: its address, and what was sent to it."""
    received: list[bytes] = []

    class Sink(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    server.server_close()


def test_requests_are_spans_without_secrets(collector: tuple[str, list[bytes]], tmp_path: Path) -> None:
    address, received = collector
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    registry = Registry(tmp_path / "traced", settings).start()
    with registry.client() as client:
        repo = wire.create_repo(client, "owner/traced")
        target = wire.batch(client, repo, lora_weights(seed=1))["actions"]["upload"]["href"]
        httpx2.put(target, content=lora_weights(seed=1))
        client.get(f"/api/models/{repo}")
        client.get("/readyz")
    registry.stop()
    names = {span.name for span in spans_of(received)}
    assert "GET /api/models/{namespace}/{name}" in names, names
    told = b"".join(received)
    assert registry.token.encode() not in told
    assert target.rpartition("/lfs/")[2].encode() not in told, "a signed address is a credential"
    assert b"/readyz" not in told
    assert_statements_belong_to_requests(received)


def spans_of(received: list[bytes]) -> list[Any]:
    return [
        span
        for body in received
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def assert_statements_belong_to_requests(received: list[bytes]) -> None:
    spans = spans_of(received)
    known = {span.span_id for span in spans}
    statements = [span for span in spans if any(each.key == "db.query.text" for each in span.attributes)]
    assert {"SELECT", "INSERT"} <= {span.name for span in statements}
    assert all(span.parent_span_id in known for span in statements)
    assert b"owner/traced" not in b"".join(span.SerializeToString() for span in statements), "values aren't told"


def test_steps_of_jobs_are_spans_with_their_statements(collector: tuple[str, list[bytes]], tmp_path: Path) -> None:
    address, received = collector
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    worker = {"LORAHUB_WORKER": "true", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    registry = Registry(tmp_path / "traced", settings | worker).start()
    with registry.client() as client:
        repo, weights = wire.create_repo(client, "owner/counted"), lora_weights(seed=1)
        wire.upload(client, repo, weights)
        config = wire.inline("adapter_config.json", json.dumps(lora_config()).encode())
        wire.require(wire.commit(client, repo, [config, wire.uploaded("adapter_model.safetensors", weights)]))
        address = f"/api/lorahub/v1/models/{repo}/statistics/main"
        eventually(lambda: client.get(address).json()["status"] == "done", seconds=60)
    eventually(lambda: any(span.name == "statistics.fulfil" for span in spans_of(received)))
    registry.stop()
    step = next(span for span in spans_of(received) if span.name == "statistics.fulfil")
    below = {span.name for span in spans_of(received) if span.parent_span_id == step.span_id}
    assert "SELECT" in below, below


def test_nothing_of_it_is_imported_unless_it_is_asked_for() -> None:
    asked = "import sys, lorahub_registry.app; assert not [m for m in sys.modules if m.startswith('opentelemetry.sdk')]"
    subprocess.run([sys.executable, "-c", asked], check=True)
