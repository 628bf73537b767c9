"""A file of another hub through the registry: one cold client, eight at once, and the second read, beside a file that
was always here. The hub of the tests answers, as fast as it can or at PACE seconds for each MiB; curl is the client.
All in one run, the best of three, on one machine.

    PYTHONPATH=tests .venv/bin/python benchmarks/upstreams.py        (BYTES=… and PACE=… for others)
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hub_stand_in import StandIn
from huggingface_hub import HfApi

BIN = Path(sys.executable).parent
SIZE = int(os.environ.get("BYTES", "100000000"))
PACE = float(os.environ.get("PACE", "0"))
ROUNDS = 3
MOST_CLIENTS = 8


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder, ExitStack() as running:
        work = Path(folder)
        os.environ.update(HF_HOME=str(work / "hf"), HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
        hub = running.enter_context(StandIn(pace=PACE))
        settings = {
            "LORAHUB_UPSTREAMS": json.dumps([{"name": "hub", "endpoint": hub.url, "allow": ["*"], "hosts": hub.hosts}]),
            "LORAHUB_OUTBOUND_INTERNAL": json.dumps(hub.hosts),
        }
        here = running.enter_context(registry(work / "here", settings))
        report(hub, HfApi(here["url"], token=here["token"]), work)


@contextmanager
def registry(home: Path, settings: dict[str, str]) -> Iterator[dict[str, str]]:
    command = [str(BIN / "lorahub"), "serve", "--home", str(home), "--port", "0", "--json"]
    environment = {**os.environ, "LORAHUB_WORKER": "false", **settings}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def report(hub: StandIn, here: HfApi, work: Path) -> None:
    put(here, "owner/stored", work)
    rounds = []
    for number in range(ROUNDS):  # one after the other, so that all of them have the same machine
        for kind in ("one", "eight"):
            hub.put(f"maker/{kind}{number}", {"model.safetensors": os.urandom(SIZE)})
        stored = fetch(here, "owner/stored", 1)
        one = fetch(here, f"maker/one{number}", 1)
        eight = fetch(here, f"maker/eight{number}", MOST_CLIENTS)
        time.sleep(2)  # until both are joined and verified
        rounds.append((stored, fetch(here, f"maker/one{number}", 1), one, eight))
        hub.repos.clear()
    stored, second, one, eight = (min(found) for found in zip(*rounds, strict=True))
    print(f"\n{SIZE / 1e6:.0f} MB, best of {ROUNDS}, {PACE} s for each MiB of the hub\n")
    print("| what | s | MB/s of each client | × |\n| --- | --- | --- | --- |")
    rows = [("a file that was always here", stored, stored), ("the second read", second, stored)]
    rows += [("one cold client", one, one), (f"{MOST_CLIENTS} cold clients at once, the last one", eight, one)]
    for what, seconds, base in rows:
        print(f"| {what} | {seconds:.2f} | {SIZE / 1e6 / seconds:.0f} | {seconds / base:.2f} |")
    assert hub.sent["model.safetensors"] == 2 * ROUNDS * SIZE, "one transfer of each file"


def put(here: HfApi, repo: str, work: Path) -> None:
    path = work / "weights.bin"
    path.write_bytes(os.urandom(SIZE))
    here.create_repo(repo, exist_ok=True)
    here.upload_file(path_or_fileobj=str(path), path_in_repo="model.bin", repo_id=repo)
    path.unlink()


def fetch(here: HfApi, repo: str, clients: int) -> float:
    name = "model.bin" if repo == "owner/stored" else "model.safetensors"
    address = f"{here.endpoint}/{repo}/resolve/main/{name}"
    command = ["curl", "-sS", "--fail", "-o", "/dev/null", "-w", "%{size_download}\n", address]
    started = time.perf_counter()
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(clients)]
    sizes = [int(process.communicate()[0]) for process in running]
    took = time.perf_counter() - started
    assert min(sizes) == SIZE, sizes
    return took


if __name__ == "__main__":
    main()
