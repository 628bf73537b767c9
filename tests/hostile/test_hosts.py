"""Whose name a request is for: a page elsewhere whose name leads here (DNS rebinding) reads and writes nothing."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import wire
from registry_process import IN_A_FOLDER, Registry

STRANGE = [
    "evil.example",
    "evil.example:8017",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "hub.example.com.evil.example",
    "evil-hub.example.com",
    "a.b.evil.example.",
    "localhost@evil.example",
    "localhost evil.example",
    "[::1",
    "127.0.0.1:8017:1",
    "2130706433",
    "127.1",
    "",
]
OURS = [
    "localhost",
    "LOCALHOST:8017",
    "localhost.",
    "a.localhost",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]:8017",
    "10.1.2.3",
]


def asked(registry: Registry, host: str, path: str = "/api/models", **headers: str) -> httpx2.Response:
    return httpx2.get(registry.url + path, headers={"Host": host, **headers})


@pytest.mark.parametrize("host", STRANGE)
def test_a_strange_name_is_refused(registry: Registry, host: str) -> None:
    answer = asked(registry, host)
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (421, "UnknownHost")
    assert "evil" not in host or "evil" in answer.json()["error"]
    assert "LORAHUB_PUBLIC_URL" in answer.json()["hint"]
    assert "LORAHUB_ALLOWED_HOSTS" in answer.json()["hint"]
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("host", [*OURS, socket.gethostname(), f"{socket.gethostname()}.local:80"])
def test_our_own_names_are_known(registry: Registry, host: str) -> None:
    assert asked(registry, host).status_code == 200


def test_a_second_host_is_looked_at_too(registry: Registry) -> None:
    with socket.create_connection(("127.0.0.1", registry.port), 30) as connection:
        lines = b"GET /api/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        connection.sendall(lines)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 421")


def test_a_page_of_somebody_else_s_gets_and_changes_nothing(folder_registry: Registry) -> None:
    """What a browser does for such a page: it has the visitor's cookies of that name, and says that name."""
    evil = {"Host": "evil.example", "Origin": "http://evil.example", "Accept": "text/html"}
    with folder_registry.client() as client:
        wire.create_repo(client, "owner/here")
        for method, path in (("GET", "/"), ("GET", "/owner/here"), ("POST", "/login"), ("POST", "/api/repos/create")):
            answer = client.request(method, path, headers=evil, data={} if method == "POST" else None)
            assert answer.status_code == 421, path
            assert "owner/here" not in answer.text
        form = {"token": folder_registry.token}
        kept = httpx2.post(f"{folder_registry.url}/login", data=form, headers=evil).headers.get("set-cookie")
    assert kept is None
    assert folder_registry.sql("SELECT count(*) FROM web_sessions") == [(0,)]


def test_no_address_of_ours_is_one_that_a_stranger_made_up(folder_registry: Registry) -> None:
    content = b"some bytes that are no file yet"
    with folder_registry.client() as client:
        repo = wire.create_repo(client, "owner/addresses")
        body = {"operation": "upload", "objects": [{"oid": wire.sha256(content), "size": len(content)}]}
        address = f"/{repo}.git/info/lfs/objects/batch"
        assert client.post(address, json=body, headers={"Host": "evil.example"}).status_code == 421
        mine = client.post(address, json=body, headers={"Host": "localhost:99"}).json()["objects"][0]
    assert mine["actions"]["upload"]["href"].startswith("http://localhost:99/")


def test_probes_answer_to_any_name(registry: Registry) -> None:
    for path in ("/livez", "/readyz", "/startupz"):
        assert asked(registry, "balancer.internal", path).status_code == 200


@pytest.fixture
def named(tmp_path: Path) -> Iterator[Registry]:
    settings = {
        "LORAHUB_PUBLIC_URL": "https://Hub.example.com/registry",
        "LORAHUB_ALLOWED_HOSTS": '["lorahub", "*.svc.cluster.local"]',
        **IN_A_FOLDER,
    }
    running = Registry(tmp_path / "named", settings).start()
    yield running
    running.kill()


def test_names_are_given_by_settings(named: Registry) -> None:
    for host in ("hub.example.com", "lorahub:80", "lorahub.team.svc.cluster.local", "127.0.0.1"):
        assert asked(named, host).status_code == 200, host
    for host in ("example.com", "a.hub.example.com", "lorahub.team", "svc.cluster.local"):
        assert asked(named, host).status_code == 421, host
