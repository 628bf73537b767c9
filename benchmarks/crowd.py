"""A crowd at one registry: slow readers of merged files, slow uploads, half-sent requests and pushers, all at once.

    python benchmarks/crowd.py [--seconds 30] [--readers 60] [--uploads 50] [--half 1100] [--pushers 30] [--json]

What is measured is what everybody else sees meanwhile: `/livez` ten times a second, a page of `/api/models` five times
a second, and the server's resident memory. Each client has an address of its own on loopback, but for the half-sent
requests, which all come from one. Linux only. The pass line: `/livez` p99 100 ms, `/api/models` p95 200 ms, 600 MiB.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import lorahub
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import builders  # noqa: E402
import wire  # noqa: E402
from registry_process import Registry  # noqa: E402

BASE, ADAPTER = "crowd/base", "crowd/adapter"
WIDTH, LAYERS, RANK = 1024, 8, 16
SLOWLY = 0.25  # seconds between two pieces
LIVEZ, MODELS, MEMORY = 0.100, 0.200, 600 << 20


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    options.add_argument("--as-crowd", help=argparse.SUPPRESS)
    for name, default in (("seconds", 30), ("readers", 60), ("uploads", 50), ("half", 1100), ("pushers", 30)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    if chosen.as_crowd:
        asyncio.run(crowd(json.loads(chosen.as_crowd)))
        return
    with tempfile.TemporaryDirectory(prefix="lorahub-crowd-") as folder:
        registry = Registry(Path(folder) / "home").start()
        try:
            found = measured(registry, Path(folder), chosen)
        finally:
            registry.stop()
    if chosen.json:
        print(json.dumps(found))
    else:
        print("| what | measured | pass line |\n| --- | --- | --- |")
        for path, what, limit in (("/livez", "livez_p99", LIVEZ), ("/api/models", "models_p95", MODELS)):
            print(f"| `{path}`, {what[-3:]} | {found[what] * 1000:.0f} ms | {limit * 1000:.0f} ms |")
        print(f"| resident memory | {found['memory'] >> 20} MiB | {MEMORY >> 20} MiB |")
        print(f"| commits meanwhile | {found['commits']} | |")


def measured(registry: Registry, folder: Path, chosen: argparse.Namespace) -> dict[str, float]:
    owner = registry.add_user("crowd")
    fill(registry, owner, folder)
    pushers = [(registry.add_user(f"pusher{n}"), f"pusher{n}/adapter") for n in range(chosen.pushers)]
    uploads = [upload_address(registry, owner, number) for number in range(chosen.uploads)]
    told = {
        "url": registry.url, "seconds": chosen.seconds, "readers": chosen.readers, "half": chosen.half,
        "uploads": uploads, "pushers": pushers, "token": owner,
    }  # fmt: skip
    command = [sys.executable, __file__, "--as-crowd", json.dumps(told)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as others:
        assert others.stdout is not None
        assert others.stdout.readline() == "there\n"
        end = time.monotonic() + chosen.seconds
        found: dict[str, float] = {"memory": 0}
        watching = threading.Thread(target=watch_memory, args=(registry, end, found))
        watching.start()
        lives: list[float] = []
        models: list[float] = []
        asking = threading.Thread(target=ask, args=(registry.url, "/api/models?limit=100", 0.2, end, models))
        asking.start()
        ask(registry.url, "/livez", 0.1, end, lives)
        asking.join()
        watching.join()
        found["commits"] = int(others.stdout.readline() or 0)
    found |= {"livez": len(lives), "models": len(models)}
    found |= {"livez_p99": quantile(lives, 99), "models_p95": quantile(models, 95)}
    return found


def quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def fill(registry: Registry, owner: str, folder: Path) -> None:
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    names = [f"model.layers.{n}.self_attn.q_proj.weight" for n in range(LAYERS)]
    (base / "model.safetensors").write_bytes(
        builders.safetensors_bytes({name: np.ones((WIDTH, WIDTH), np.float32) for name in names})
    )
    adapter = builders.write_adapter(folder / "adapter", base=BASE, rank=RANK)
    (adapter / "adapter_model.safetensors").write_bytes(builders.lora_weights(rank=RANK, width=WIDTH, layers=LAYERS))
    with lorahub.Hub(registry.url, token=owner) as hub:
        hub.push(base, BASE)
        hub.push(adapter, ADAPTER)


def upload_address(registry: Registry, owner: str, number: int) -> tuple[str, int]:
    content = builders.weights_of_size(1 << 20, seed=number)
    with registry.client(owner) as client:
        return wire.batch(client, ADAPTER, content)["actions"]["upload"]["href"], number


# --- who asks ---------------------------------------------------------------------------------------------------------


def ask(url: str, path: str, every: float, end: float, found: list[float]) -> None:
    """Each on a connection of its own; one that isn't answered counts as ten seconds."""
    with httpx2.Client(base_url=url, headers={"Connection": "close"}, timeout=10) as client:
        while (start := time.monotonic()) < end:
            try:
                client.get(path).raise_for_status()
                found.append(time.monotonic() - start)
            except httpx2.HTTPError:
                found.append(10.0)
            time.sleep(max(0.0, every - (time.monotonic() - start)))


def watch_memory(registry: Registry, end: float, found: dict[str, float]) -> None:
    while time.monotonic() < end:
        found["memory"] = max(found["memory"], registry.rss_bytes())
        time.sleep(0.2)


# --- the crowd --------------------------------------------------------------------------------------------------------


async def crowd(told: dict) -> None:  # type: ignore[type-arg]
    place, end = urlsplit(told["url"]), time.monotonic() + told["seconds"] + 5
    address = (place.hostname, place.port)
    commits: list[int] = []
    clients = [half_sent(address, end) for _ in range(told["half"])]
    clients += [slow_reader(address, number, end) for number in range(told["readers"])]
    clients += [slow_upload(address, href, number, end) for href, number in told["uploads"]]
    going = [asyncio.create_task(client) for client in clients]
    threads = [
        threading.Thread(target=pusher, args=(told["url"], token, repo, number, end - 5, commits))
        for number, (token, repo) in enumerate(told["pushers"])
    ]
    for thread in threads:
        thread.start()
    await asyncio.sleep(2)
    print("there", flush=True)
    await asyncio.gather(*going, return_exceptions=True)
    for thread in threads:
        thread.join()
    print(len(commits), flush=True)


async def half_sent(address: tuple[str, int], end: float) -> None:
    """Half a request, again whenever the server has closed."""
    while time.monotonic() < end:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0))
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.1, end - time.monotonic())):
                    await reader.read()
            writer.close()
        await asyncio.sleep(0.5)


async def slow_reader(address: tuple[str, int], number: int, end: float) -> None:
    while time.monotonic() < end:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(
                *address, local_addr=(f"127.0.1.{number + 1}", 0), limit=8192
            )
            writer.write(
                f"GET /{ADAPTER}/resolve/merged/model.safetensors HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            while time.monotonic() < end and await reader.read(4096):  # noqa: ASYNC110 (a slow client)
                await asyncio.sleep(SLOWLY)
            writer.close()
        await asyncio.sleep(0.5)


async def slow_upload(address: tuple[str, int], href: str, number: int, end: float) -> None:
    content = builders.weights_of_size(1 << 20, seed=number)
    while time.monotonic() < end:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(*address, local_addr=(f"127.0.2.{number + 1}", 0))
            writer.write(
                f"PUT {urlsplit(href).path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                f"Content-Length: {len(content)}\r\n\r\n".encode()
            )
            for at in range(0, len(content), 2048):
                writer.write(content[at : at + 2048])
                await writer.drain()
                await asyncio.sleep(SLOWLY)
                if time.monotonic() > end:
                    break
            writer.close()
        await asyncio.sleep(0.5)


def pusher(url: str, token: str, repo: str, number: int, end: float, commits: list[int]) -> None:
    """A new version of a small adapter, again and again."""
    transport = httpx2.HTTPTransport(local_address=f"127.0.3.{number + 1}")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=60, transport=transport) as client:
        wire.create_repo(client, repo)
        turn = 0
        while time.monotonic() < end:
            turn += 1
            weights = builders.lora_weights(seed=number * 1000 + turn)
            config = json.dumps(builders.lora_config()).encode()
            lines = [wire.inline("adapter_config.json", config), wire.inline("adapter_model.safetensors", weights)]
            with suppress(httpx2.HTTPError):
                if wire.commit(client, repo, lines).status_code == 200:
                    commits.append(turn)


if __name__ == "__main__":
    main()
