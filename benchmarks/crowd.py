"""How long others wait while clients do what they can to hold a registry up: half-sent requests, uploads that crawl,
readers that don't read, and pushers beside them.

`/livez` and `/api/models` are asked all the while, one after the other, from an address of their own; the crowd has
another. Prints medians and tails without a crowd and with it, and what the process has taken.

    PYTHONPATH=tests .venv/bin/python benchmarks/crowd.py
"""

import os
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import wire
from builders import weights_of_size
from registry_process import Registry

HALVES, UPLOADS, READERS, PUSHERS = 1100, 50, 60, 30
SECONDS = 20
SIZE = 24 << 20
CROWD, OTHERS = "127.0.0.1", "127.0.0.2"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder:
        registry = Registry(Path(folder) / "registry").start()
        try:
            address, targets = prepare(registry)
            calm = asked(registry, 5)
            with_crowd = beside(registry, address, targets)
            print("| | calm, ms | crowded, ms |\n| --- | --- | --- |")
            for path in calm:
                print(f"| `{path}` p50 / p99 | {tail(calm[path])} | {tail(with_crowd[path])} |")
            assert registry.process is not None
            process = psutil.Process(registry.process.pid)
            print(f"\nRSS {process.memory_info().rss >> 20} MiB, {process.num_fds()} descriptors")
        finally:
            registry.kill()


def prepare(registry: Registry) -> tuple[str, list[str]]:
    """The address of a file, and the paths at which uploads are taken."""
    content = weights_of_size(SIZE, seed=0)
    with registry.client() as client:
        repo = wire.create_repo(client, "owner/crowded")
        wire.upload(client, repo, content)
        wire.require(wire.commit(client, repo, [wire.uploaded("large.safetensors", content)]))
        batches = [wire.batch(client, repo, weights_of_size(SIZE, seed=number + 1)) for number in range(UPLOADS)]
    return f"/{repo}/resolve/main/large.safetensors", [
        urlsplit(batch["actions"]["upload"]["href"]).path for batch in batches
    ]


def beside(registry: Registry, address: str, targets: list[str]) -> dict[str, list[float]]:
    over = threading.Event()
    crowd = [
        threading.Thread(target=half_sent, args=(registry, over)),
        threading.Thread(target=crawling, args=(registry, targets, over)),
        threading.Thread(target=not_reading, args=(registry, address, over)),
        *(threading.Thread(target=pushing, args=(registry, number, over)) for number in range(PUSHERS)),
    ]
    for one in crowd:
        one.start()
    time.sleep(3)
    found = asked(registry, SECONDS)
    over.set()
    for one in crowd:
        one.join()
    return found


def asked(registry: Registry, seconds: float) -> dict[str, list[float]]:
    """Milliseconds, by path."""
    found: dict[str, list[float]] = {"/livez": [], "/api/models?limit=20": []}
    transport = httpx2.HTTPTransport(local_address=OTHERS)
    end = time.monotonic() + seconds
    with httpx2.Client(base_url=registry.url, transport=transport, timeout=60) as client:
        while time.monotonic() < end:
            for path, times in found.items():
                began = time.perf_counter()
                assert client.get(path).status_code == 200
                times.append(1000 * (time.perf_counter() - began))
            time.sleep(0.02)
    return found


def connected(registry: Registry, sent: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.bind((CROWD, 0))
    connection.connect(("127.0.0.1", registry.port))
    connection.sendall(sent.encode())
    return connection


def half_sent(registry: Registry, over: threading.Event) -> None:
    """As many as ever, each again when it is ended."""
    while not over.is_set():
        halves = [connected(registry, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Half: ") for _ in range(HALVES)]
        over.wait(5)
        for half in halves:
            half.close()


def crawling(registry: Registry, targets: list[str], over: threading.Event) -> None:
    """40 kB a second each."""
    head = f"HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIZE}\r\n\r\n"
    uploads = [connected(registry, f"PUT {target} {head}") for target in targets]
    while not over.wait(0.05):
        for upload in uploads:
            upload.sendall(bytes(2048))
    for upload in uploads:
        upload.close()


def not_reading(registry: Registry, address: str, over: threading.Event) -> None:
    """1,500 bytes a second each."""
    readers = [connected(registry, f"GET {address} HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(READERS)]
    while not over.wait(0.3):
        for reader in readers:
            reader.recv(450)
    for reader in readers:
        reader.close()


def pushing(registry: Registry, number: int, over: threading.Event) -> None:
    transport = httpx2.HTTPTransport(local_address=CROWD)
    headers = {"Authorization": f"Bearer {registry.token}"}
    with httpx2.Client(base_url=registry.url, transport=transport, headers=headers, timeout=60) as client:
        repo = wire.create_repo(client, f"owner/pushed-{number}")
        while not over.wait(1):
            wire.commit(client, repo, [wire.inline("notes.txt", os.urandom(2000))])


def tail(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} / {statistics.quantiles(times, n=100)[98]:.1f}"


if __name__ == "__main__":
    main()
