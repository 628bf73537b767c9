"""Clients that send half of a request, or all of it slowly, or don't take their answer: they hold up nobody else."""

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
import wire
from builders import weights_of_size
from registry_process import IN_A_FOLDER, Registry, eventually
from services.nginx import Nginx

HALF = b"GET /api/models HTTP/1.1\r\nHost: localhost\r\nX-Half: "
HEADER_SECONDS, STALL_SECONDS, LEAST = 2, 3, 2000
IMPATIENT = {
    "LORAHUB_HEADER_SECONDS": str(HEADER_SECONDS),
    "LORAHUB_STALL_SECONDS": str(STALL_SECONDS),
    "LORAHUB_LEAST_BYTES_PER_SECOND": str(LEAST),
    **IN_A_FOLDER,
}
SLOW_CLIENT_SIZE = 24 << 20  # more than all the buffers between the two processes hold

Starter = Callable[..., Registry]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Starter]:
    """Starts the registry of this test."""
    registry = Registry(tmp_path / "registry", IMPATIENT)

    def start(*, open_files: int | None = None, **settings: str) -> Registry:
        return registry.start(open_files=open_files, **{f"LORAHUB_{name}": value for name, value in settings.items()})

    yield start
    registry.kill()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One for all that need no other settings; each leaves it as it was."""
    registry = Registry(tmp_path_factory.mktemp("impatient") / "registry", IMPATIENT).start()
    yield registry
    registry.kill()


# --- a client by hand -------------------------------------------------------------------------------------------------


_opened: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _hung_up() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def connect(
    registry: Registry, sent: bytes = b"", *, source: str = "127.0.0.1", port: int | None = None, room: int = 0
) -> socket.socket:
    """`room` is what the system takes for us before we have asked for it, in bytes; 0: as much as it likes."""
    connection = socket.socket()
    _opened.append(connection)
    if room:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    connection.settimeout(30)
    connection.bind((source, 0))
    connection.connect(("127.0.0.1", port or registry.port))
    connection.sendall(sent)
    return connection


def heard(connection: socket.socket) -> bytes:
    """All that the registry says until it ends the connection."""
    found = b""
    try:
        while piece := connection.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    return found


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer that is an error."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head, head
    return int(head.split()[1]), json.loads(body)["code"]


def is_over(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1 << 16) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def is_alive(registry: Registry, source: str = "127.0.0.1") -> int:
    transport = httpx2.HTTPTransport(local_address=source)
    with httpx2.Client(base_url=registry.url, transport=transport, timeout=30) as client:
        return client.get("/api/models?limit=1").status_code


def descriptors(registry: Registry) -> int:
    assert registry.process is not None
    return int(psutil.Process(registry.process.pid).num_fds())


def is_held(registry: Registry, connection: socket.socket) -> bool:
    """Whether the registry has the other end of it."""
    assert registry.process is not None
    port = connection.getsockname()[1]
    ends = psutil.Process(registry.process.pid).net_connections("tcp")
    return any(end.raddr and end.raddr.port == port for end in ends)


def upload(registry: Registry, size: int, seed: int = 0) -> tuple[bytes, bytes]:
    """The head of a request that brings a file of `size` bytes, and the file."""
    content = weights_of_size(size, seed=seed)
    with registry.client() as client:
        client.post("/api/repos/create", json={"name": "slow", "organization": "owner"})
        target = wire.batch(client, "owner/slow", content)["actions"]["upload"]["href"]
    length = f"Content-Length: {len(content)}\r\n"
    return f"PUT {urlsplit(target).path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode(), content


@contextmanager
def at_work(registry: Registry, count: int, source: str = "127.0.0.1", header: str = "") -> Iterator[None]:
    """So many uploads are under way, and go on for as long as this lasts."""
    head, content = upload(registry, 1 << 20)
    head = head.replace(b"\r\n\r\n", f"\r\n{header}\r\n".encode() if header else b"\r\n\r\n")
    connections = [connect(registry, head + content[:1000], source=source) for _ in range(count)]
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(0.2):
            for connection in connections:
                connection.sendall(bytes(LEAST))

    sender = threading.Thread(target=go_on)
    sender.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        over.set()
        sender.join()
        for connection in connections:
            connection.close()


# --- half a request ---------------------------------------------------------------------------------------------------


def test_half_sent_requests_take_no_place_of_whole_ones(started: Starter) -> None:
    registry = started(open_files=1024)
    halves = []
    for _ in range(11):
        halves += [connect(registry, HALF) for _ in range(100)]
        assert is_alive(registry) == 200
    assert descriptors(registry) < 1024
    eventually(lambda: all(is_over(half) for half in halves), seconds=HEADER_SECONDS + 15)
    assert is_alive(registry) == 200
    assert descriptors(registry) < 100


@pytest.mark.parametrize(
    "before", [b"", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["at once", "after a whole one"]
)
def test_a_request_has_to_begin_and_be_whole_in_time(impatient: Registry, before: bytes) -> None:
    connection = connect(impatient, before)
    if before:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    began = time.monotonic()
    connection.sendall(HALF)
    while not is_over_after_a_letter(connection):
        assert time.monotonic() < began + HEADER_SECONDS + 15
        time.sleep(0.2)


def is_over_after_a_letter(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"a")
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def test_who_is_too_late_is_told_so(impatient: Registry) -> None:
    half, silent = connect(impatient, HALF), connect(impatient)
    assert error_of(heard(half)) == (408, "TooSlow")
    assert heard(silent) == b""


@pytest.mark.parametrize(
    "sent",
    [
        HALF + b"a" * (1 << 20),
        b"GET /" + b"a" * (1 << 20),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
    ids=["one line", "an address", "many lines", "a whole request"],
)
def test_a_header_without_an_end_is_refused(impatient: Registry, sent: bytes) -> None:
    connection = connect(impatient)
    try:
        connection.sendall(sent)
    except (BrokenPipeError, ConnectionResetError):
        return  # it was told before it had sent it all
    answer = heard(connection)
    assert not answer or error_of(answer) == (431, "HeaderTooLong")


def test_lines_behind_a_body_count_too(impatient: Registry) -> None:
    head = b"POST /api/repos/create HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    connection = connect(impatient, head)
    try:
        for _ in range(2000):
            connection.sendall(b"X: y\r\n" * 1000)
    except (BrokenPipeError, ConnectionResetError):
        pass
    else:
        pytest.fail("12 MB of lines were taken")
    assert is_alive(impatient) == 200


def test_requests_that_are_sent_ahead_are_bounded(impatient: Registry) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    few = connect(impatient, one * 10 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert heard(few).count(b"HTTP/1.1 200") == 11
    many = connect(impatient, one * 5000)
    assert heard(many).count(b"HTTP/1.1 200") < 100


def test_who_asks_for_another_protocol_is_answered_in_this_one(impatient: Registry) -> None:
    for wanted in ("websocket", "h2c"):
        lines = f"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {wanted}\r\n\r\n"
        assert connect(impatient, lines.encode()).recv(1 << 16).startswith(b"HTTP/1.1 200")


# --- slow bodies, slow readers ----------------------------------------------------------------------------------------


def test_a_slow_upload_is_ended_and_leaves_nothing(impatient: Registry) -> None:
    head, content = upload(impatient, 1 << 20)
    connection = connect(impatient, head)
    connection.settimeout(0.2)
    answer, at = b"", 0
    while not answer:
        connection.sendall(content[at : at + 20])
        at += 20
        try:
            answer = connection.recv(1 << 16)
        except TimeoutError:
            assert at < 20 * 5 * 60, "it was never ended"
    assert error_of(answer) == (408, "TooSlow")
    eventually(lambda: not impatient.objects.list("staging"))


def test_a_bad_line_is_no_slow_client(impatient: Registry) -> None:
    """It is far above the least rate, if far below what others do, and longer under way than anybody may stall."""
    head, content = upload(impatient, 100_000)
    seconds, began = 2 * STALL_SECONDS, time.monotonic()
    connection = connect(impatient, head)
    at = 0
    while at < len(content):
        upto = min(int((time.monotonic() - began) / seconds * len(content)), len(content))
        connection.sendall(content[at:upto])
        at = upto
        time.sleep(0.05)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.fixture(scope="module")
def large(impatient: Registry) -> tuple[Registry, str, bytes]:
    """A file that can be asked for, by its address."""
    content = weights_of_size(SLOW_CLIENT_SIZE, seed=1)
    with impatient.client() as client:
        repo = wire.create_repo(client, "owner/large")
        wire.upload(client, repo, content)
        wire.require(wire.commit(client, repo, [wire.uploaded("large.safetensors", content)]))
    return impatient, f"/{repo}/resolve/main/large.safetensors", content


def asked_for(registry: Registry, address: str) -> socket.socket:
    request = f"GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return connect(registry, request.encode(), room=8192)


def test_who_doesn_t_take_the_answer_is_let_go(large: tuple[Registry, str, bytes]) -> None:
    registry, address, content = large
    connection = asked_for(registry, address)
    assert connection.recv(1000)
    assert is_held(registry, connection)
    eventually(lambda: not is_held(registry, connection), seconds=STALL_SECONDS + 15)
    assert len(heard(connection)) < len(content)


def test_a_slow_reader_gets_the_whole_file(large: tuple[Registry, str, bytes]) -> None:
    """Far above the least rate, and slowly for longer than anybody may stall, it loses nothing."""
    registry, address, content = large
    connection = asked_for(registry, address)
    found, end = connection.recv(1000), time.monotonic() + 2 * STALL_SECONDS
    while time.monotonic() < end:
        found += connection.recv(4096)
        time.sleep(0.1)
    assert len(found) < 1 << 20
    found += heard(connection)
    assert hashlib.sha256(found.partition(b"\r\n\r\n")[2]).digest() == hashlib.sha256(content).digest()


# --- many -------------------------------------------------------------------------------------------------------------


def test_an_address_has_so_many_connections(started: Starter) -> None:
    registry = started(CONNECTIONS_PER_ADDRESS="6")
    with at_work(registry, 4):
        idle = [connect(registry) for _ in range(2)]
        assert is_alive(registry) == 200, "idle ones give their place to a new one"
        eventually(lambda: is_over(idle[0]), seconds=2)
        with at_work(registry, 2):
            assert error_of(heard(connect(registry))) == (429, "TooManyRequests")
            assert is_alive(registry, source="127.0.0.2") == 200, "another address has its own"
    assert is_alive(registry) == 200


def test_a_process_has_so_many_connections(started: Starter) -> None:
    registry = started(CONNECTIONS="6")
    idle = [connect(registry, source="127.0.0.3") for _ in range(6)]
    assert is_alive(registry) == 200
    assert sum(is_over(one) for one in idle) == 1, "the one that waited longest"
    with at_work(registry, 6):
        assert error_of(heard(connect(registry))) == (503, "Unavailable")
    eventually(lambda: is_alive(registry) == 200)


def test_a_process_has_so_many_requests_at_once(started: Starter) -> None:
    registry = started(REQUESTS_AT_ONCE="3")
    with at_work(registry, 3):
        refused = httpx2.get(f"{registry.url}/api/models")
        assert (refused.status_code, refused.json()["code"]) == (503, "Unavailable")
        assert refused.headers["Retry-After"]
        assert refused.headers["X-Request-Id"]
        assert httpx2.get(f"{registry.url}/livez").status_code == 200
        assert httpx2.get(f"{registry.url}/readyz").status_code == 200
    eventually(lambda: is_alive(registry) == 200)


def test_many_of_each_kind_at_once_hold_up_nobody(large: tuple[Registry, str, bytes]) -> None:
    registry, address, _ = large
    for _ in range(20):
        asked_for(registry, address)
    with at_work(registry, 20):
        statuses = []
        for _ in range(20):
            for _ in range(15):
                connect(registry, HALF)
            statuses += [is_alive(registry), httpx2.get(f"{registry.url}/livez").status_code]
    assert set(statuses) == {200}
    assert registry.rss_bytes() < 600 << 20


# --- behind a proxy ---------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(started: Starter, tmp_path: Path) -> Iterator[tuple[Registry, int]]:
    """A registry behind nginx, by nginx's port; two requests of an address are all it takes."""
    registry = started(TRUSTED_PROXIES="127.0.0.1", CONNECTIONS_PER_ADDRESS="2")
    nginx = Nginx(tmp_path / "nginx").start([registry.port])
    yield registry, nginx.port
    nginx.end()


def test_behind_nginx_a_slow_upload_is_ended_too(proxied: tuple[Registry, int]) -> None:
    registry, port = proxied
    head, content = upload(registry, 1 << 20)
    connection = connect(registry, head + content[:100], port=port)
    answer = connection.recv(1 << 16)
    assert re.match(rb"HTTP/1.1 (408|502)", answer), answer


def test_behind_a_proxy_its_clients_are_told_apart(proxied: tuple[Registry, int]) -> None:
    registry, port = proxied
    ask = f"http://127.0.0.1:{port}/api/models"
    with at_work(registry, 2, header="X-Forwarded-For: 203.0.113.7\r\n"):
        mine, other = ({"X-Forwarded-For": address} for address in ("203.0.113.7", "203.0.113.8"))
        refused = httpx2.get(f"{registry.url}/api/models", headers=mine)
        assert (refused.status_code, refused.json()["code"]) == (429, "TooManyRequests")
        assert httpx2.get(f"{registry.url}/api/models", headers=other).status_code == 200
        assert httpx2.get(ask).status_code == 200, "nginx says who asks it"
    eventually(lambda: httpx2.get(f"{registry.url}/api/models", headers=mine).status_code == 200)
