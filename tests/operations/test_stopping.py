"""SIGTERM while requests are under way: they end as if nothing had happened."""

import hashlib
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import wire
from builders import weights_of_size
from registry_process import IN_A_FOLDER, Registry, eventually

SIZE = 24 << 20  # more than all the buffers between the two processes hold


@pytest.fixture
def draining(tmp_path: Path) -> Iterator[Registry]:
    """It answers for a while after it was told to stop."""
    running = Registry(tmp_path / "draining", {"LORAHUB_DRAIN_SECONDS": "3", **IN_A_FOLDER}).start()
    yield running
    running.kill()


def slowly(content: bytes, half: threading.Event, go_on: threading.Event) -> Iterator[bytes]:
    """Says when half of it was sent, and waits to be told to send the rest."""
    middle = len(content) // 2
    yield content[:middle]
    half.set()
    assert go_on.wait(60)
    yield content[middle:]


def upload(address: str, content: bytes, half: threading.Event, go_on: threading.Event) -> int:
    body = slowly(content, half, go_on)
    headers = {"Content-Length": str(len(content))}
    return httpx2.put(address, content=body, headers=headers, timeout=60).status_code


def download(address: str, half: threading.Event, go_on: threading.Event) -> str:
    digest = hashlib.sha256()
    with httpx2.stream("GET", address, timeout=60) as response:
        for piece in response.iter_bytes():
            digest.update(piece)
            if not half.is_set():
                half.set()
                assert go_on.wait(60)
    return digest.hexdigest()


def readiness(registry: Registry) -> int:
    return httpx2.get(f"{registry.url}/readyz").status_code


def test_what_is_under_way_ends_well_and_a_balancer_is_told_at_once(draining: Registry) -> None:
    here, coming = weights_of_size(SIZE, seed=1), weights_of_size(SIZE, seed=2)
    with draining.client() as client:
        repo = wire.create_repo(client, "owner/busy")
        wire.upload(client, repo, here)
        assert wire.commit(client, repo, [wire.uploaded("here.safetensors", here)]).status_code == 200
        target = wire.batch(client, repo, coming)["actions"]["upload"]["href"]
    halves, go_on = [threading.Event(), threading.Event()], threading.Event()
    with ThreadPoolExecutor() as threads:
        sent = threads.submit(upload, target, coming, halves[0], go_on)
        read = threads.submit(download, f"{draining.url}/{repo}/resolve/main/here.safetensors", halves[1], go_on)
        assert all(half.wait(60) for half in halves)
        assert draining.process is not None
        draining.process.send_signal(signal.SIGTERM)
        eventually(lambda: readiness(draining) == 503)
        with draining.client() as client:
            late = client.get(f"/api/models/{repo}")
            assert (late.status_code, late.headers["Connection"]) == (200, "close"), (
                "a balancer that has not looked yet"
            )
        eventually(lambda: not accepts(draining), seconds=30)
        go_on.set()
        assert sent.result() == 200
        assert read.result() == hashlib.sha256(here).hexdigest()
    draining.wait_until_dead()
    draining.start()
    with draining.client() as client:
        assert "actions" not in wire.batch(client, repo, coming), "what was received while it stopped is kept"
    draining.stop()
    draining.assert_sound()


def accepts(registry: Registry) -> bool:
    try:
        return readiness(registry) > 0
    except (httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError):
        return False


def test_a_request_that_was_on_its_way_is_answered(own_registry: Registry) -> None:
    """Its connection was taken before the process was told to end."""
    lines = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", own_registry.port), 30) as connection:
        assert httpx2.get(f"{own_registry.url}/livez").status_code == 200  # so the one before it is taken too
        assert own_registry.process is not None
        own_registry.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(own_registry))
        connection.sendall(lines)
        answer = connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()
    own_registry.wait_until_dead(15)


def test_without_time_to_drain_it_ends_at_once(own_registry: Registry) -> None:
    with own_registry.client() as client:
        assert client.get("/livez").status_code == 200  # the connection stays open, idle
        assert own_registry.process is not None
        own_registry.process.send_signal(signal.SIGTERM)
        own_registry.wait_until_dead(15)
