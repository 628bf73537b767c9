"""A file of another hub through the registry: one cold client, eight at once, and the second read, beside a file that
was always here. A second registry is the hub, curl the client; all in one run, the best of three, on one machine.

    .venv/bin/python benchmarks/upstreams.py        (BYTES=… for another size)
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import HfApi

BIN = Path(sys.executable).parent
SIZE = int(os.environ.get("BYTES", "200000000"))
ROUNDS = 3
MOST_CLIENTS = 8


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder, ExitStack() as running:
        work = Path(folder)
        os.environ.update(HF_HOME=str(work / "hf"), HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
        hub = running.enter_context(registry(work / "hub"))
        place = hub["url"].removeprefix("http://")
        upstreams = [{"name": "hub", "endpoint": hub["url"], "allow": ["*"]}]
        settings = {
            "LORAHUB_UPSTREAMS": json.dumps(upstreams),
            "LORAHUB_OUTBOUND_INTERNAL": json.dumps([place]),
        }
        here = running.enter_context(registry(work / "here", settings))
        report(HfApi(hub["url"], token=hub["token"]), HfApi(here["url"], token=here["token"]), work)


@contextmanager
def registry(home: Path, settings: dict[str, str] | None = None) -> Iterator[dict[str, str]]:
    command = [str(BIN / "lorahub"), "serve", "--home", str(home), "--port", "0", "--json"]
    environment = {**os.environ, "LORAHUB_WORKER": "false", **(settings or {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def report(hub: HfApi, here: HfApi, work: Path) -> None:
    make_organisation(hub)
    for number in range(2 * ROUNDS):
        put(hub, f"maker/cold{number}", work)
    put(here, "owner/stored", work)
    stored = best(lambda _: fetch(here, "owner/stored", 1))
    one = best(lambda number: fetch(here, f"maker/cold{number}", 1))
    eight = best(lambda number: fetch(here, f"maker/cold{ROUNDS + number}", MOST_CLIENTS))
    second = best(lambda number: fetch(here, f"maker/cold{number}", 1))
    print(
        f"\n{SIZE / 1e6:.0f} MB, best of {ROUNDS}\n\n| what | s | MB/s of each client | × |\n| --- | --- | --- | --- |"
    )
    rows = [("a file that was always here", stored, stored), ("the second read", second, stored)]
    rows += [("one cold client", one, stored), (f"{MOST_CLIENTS} cold clients at once, the last one", eight, one)]
    for what, seconds, base in rows:
        print(f"| {what} | {seconds:.2f} | {SIZE / 1e6 / seconds:.0f} | {seconds / base:.2f} |")


def make_organisation(hub: HfApi) -> None:
    headers = {"Authorization": f"Bearer {hub.token}"}
    address = f"{hub.endpoint}/api/lorahub/v1/organisations"
    httpx2.post(address, json={"name": "maker"}, headers=headers).raise_for_status()


def put(hub: HfApi, repo: str, work: Path) -> None:
    path = work / "model.bin"
    header = json.dumps({"w": {"dtype": "U8", "shape": [SIZE], "data_offsets": [0, SIZE]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, SIZE, 1 << 20):
            file.write(os.urandom(min(1 << 20, SIZE - start)))
    hub.create_repo(repo, exist_ok=True)
    hub.upload_file(path_or_fileobj=str(path), path_in_repo="model.safetensors", repo_id=repo)


def fetch(hub: HfApi, repo: str, clients: int) -> float:
    address = f"{hub.endpoint}/{repo}/resolve/main/model.safetensors"
    command = ["curl", "-sS", "--fail", "-o", "/dev/null", "-w", "%{size_download}\n", address]
    started = time.perf_counter()
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(clients)]
    sizes = [int(process.communicate()[0]) for process in running]
    took = time.perf_counter() - started
    assert min(sizes) >= SIZE, sizes
    return took


def best(act: Callable[[int], float]) -> float:
    return min(act(number) for number in range(ROUNDS))


if __name__ == "__main__":
    main()
