"""What everybody else notices while some want much of a registry: latencies of requests that need none of it.

    .venv/bin/python benchmarks/bystanders.py

Calm; sixty who read a merged file slowly; sixty at once, every second, who want a byte of a tensor
that TIES needs whole; sixty commits to a
bucket that takes three seconds for each write.
"""

import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import wire
from builders import lora_config, safetensors_bytes
from registry_process import Registry
from services import production
from services.fault_proxy import Fault, FaultProxy

AT_ONCE, SECONDS, WIDTH = 60, 20, 4096
ADDRESSES = ("/livez", "/readyz", "/api/models?limit=10")
WEIGHT = "model.layers.0.self_attn.q_proj"
FILE = "resolve/merged/model.safetensors"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder:
        registry = Registry(Path(folder) / "registry").start()
        try:
            _publish_models(registry)
            _report("calm", registry, lambda: time.sleep(SECONDS))
            with _slow_readers(registry):
                _report(f"{AT_ONCE} slow readers of a merged file", registry, lambda: time.sleep(SECONDS))
            _report(f"{AT_ONCE} at a byte of TIES", registry, lambda: _bytes_of_ties(registry))
        finally:
            registry.stop()
        _commits_to_a_slow_bucket(Path(folder))
        production.stop()


def _report(what: str, registry: Registry, work: Callable[[], None]) -> None:
    """Asks each address every tenth of a second while `work` runs."""
    found: dict[str, list[tuple[float, int]]] = {address: [] for address in ADDRESSES}
    is_over = threading.Event()
    asking = [threading.Thread(target=_ask, args=(registry, one, found[one], is_over)) for one in ADDRESSES]
    peak: list[int] = []
    asking.append(threading.Thread(target=_watch, args=(registry, peak, is_over)))
    for thread in asking:
        thread.start()
    work()
    is_over.set()
    for thread in asking:
        thread.join()
    for address, answers in found.items():
        times = sorted(seconds for seconds, _ in answers)
        p50, p95, p99 = (1000 * times[min(len(times) - 1, int(share * len(times)))] for share in (0.5, 0.95, 0.99))
        statuses = sorted({status for _, status in answers})
        row = (what, f"`{address}`", *(f"{time:.0f}" for time in (p50, p95, p99)), statuses, max(peak) >> 20)
        print("|", " | ".join(map(str, row)), "|", flush=True)


def _ask(registry: Registry, address: str, answers: list[tuple[float, int]], is_over: threading.Event) -> None:
    with registry.client() as client:
        while not is_over.is_set():
            begun = time.perf_counter()
            status = client.get(address).status_code
            answers.append((time.perf_counter() - begun, status))
            time.sleep(0.1)


def _watch(registry: Registry, peak: list[int], is_over: threading.Event) -> None:
    while not is_over.is_set():
        peak.append(registry.rss_bytes())
        time.sleep(0.1)


def _publish_models(registry: Registry) -> None:
    numbers = np.random.default_rng(0)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    base = safetensors_bytes({f"{WEIGHT}.weight": numbers.standard_normal((WIDTH, WIDTH), np.float32)})
    factors = {"A": (16, WIDTH), "B": (WIDTH, 16)}
    name = f"base_model.model.{WEIGHT}.lora"
    adapter = {f"{name}_{side}.weight": numbers.standard_normal(shape, np.float32) for side, shape in factors.items()}
    settings = json.dumps(lora_config(base="owner/base", rank=16)).encode()
    recipe = {"base": "owner/base", "adapters": ["owner/sql", "owner/sql"], "method": "ties", "density": 0.5}
    with registry.client(timeout=300) as client:
        _publish(client, "owner/base", {"config.json": json.dumps(config).encode()}, base, "model.safetensors")
        weights = safetensors_bytes(adapter)
        _publish(client, "owner/sql", {"adapter_config.json": settings}, weights, "adapter_model.safetensors")
        _publish(client, "owner/mix", {"lorahub-merge.yaml": json.dumps(recipe).encode()})


def _publish(client: httpx2.Client, repo: str, small: dict[str, bytes], large: bytes = b"", path: str = "") -> None:
    wire.create_repo(client, repo)
    lines = [wire.inline(name, content) for name, content in small.items()]
    if large:
        wire.upload(client, repo, large)
        lines.append(wire.uploaded(path, large))
    wire.require(wire.commit(client, repo, lines))


@contextmanager
def _slow_readers(registry: Registry) -> Iterator[None]:
    """Each takes 64 KiB of the answer every tenth of a second."""
    is_over = threading.Event()

    def read() -> None:
        with socket.create_connection(("127.0.0.1", registry.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            connection.sendall(
                f"GET /owner/sql/{FILE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {registry.token}\r\n\r\n".encode()
            )
            while not is_over.is_set() and connection.recv(1 << 16):
                time.sleep(0.1)

    readers = [threading.Thread(target=read) for _ in range(AT_ONCE)]
    for reader in readers:
        reader.start()
    yield
    is_over.set()
    for reader in readers:
        reader.join()


def _bytes_of_ties(registry: Registry) -> None:
    def ask(_: int) -> None:
        with registry.client() as client:
            client.get(f"/owner/mix/{FILE}", headers={"Range": "bytes=-1"})

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(SECONDS):
            begun = time.monotonic()
            list(pool.map(ask, range(AT_ONCE)))
            time.sleep(max(0, begun + 1 - time.monotonic()))


def _commits_to_a_slow_bucket(folder: Path) -> None:
    with FaultProxy(int(production.s3().endpoint.rpartition(":")[2])) as proxy:
        place = {**production.storage_settings(production.s3()), "LORAHUB_STORAGE_ENDPOINT": proxy.endpoint}
        registry = Registry(folder / "slow", place).start()
        try:
            with registry.client() as client:
                for number in range(AT_ONCE):
                    wire.create_repo(client, f"owner/r{number}")
            proxy.faults.append(Fault("late", "PUT", times=1_000_000))
            _report(f"{AT_ONCE} commits, 3 s a write", registry, lambda: _commits(registry))
        finally:
            registry.stop()


def _commits(registry: Registry) -> None:
    def commit(number: int) -> int:
        with registry.client(timeout=300) as client:
            lines = [wire.inline(f"{one}.txt", f"{number} {one}".encode()) for one in range(3)]
            return wire.commit(client, f"owner/r{number}", lines).status_code

    begun = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(commit, range(AT_ONCE)))
    print(f"{AT_ONCE} commits took {time.monotonic() - begun:.0f} s: {sorted(set(answers))}")


if __name__ == "__main__":
    main()
