"""One merge of several files on a registry, by one worker and by two.

    .venv/bin/python benchmarks/workers.py

Real processes, PostgreSQL, a folder. The time is from the request to the published version, with the workers already
running; printed is the best of the rounds, and the ratio. Two workers need two idle cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import lorahub
from jobs.models import write_adapter_for, write_base
from jobs.worker_process import Worker
from lorahub.merging.recipe import recipe_of
from registry_process import Registry
from services import production


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--width", type=int, default=6144, help="of the one square weight of each file")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        base = write_base(folder / "base", files=asked.files, width=asked.width)
        adapter = write_adapter_for(folder / "adapter", "owner/base", files=asked.files, width=asked.width, rank=64)
        print(f"{asked.files} files of {asked.width**2 * 4 / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f} before")
        times = {count: [] for count in (1, 2)}
        for turn in range(asked.rounds):
            for count, taken in times.items():
                taken.append(measure(folder / f"registry-{turn}-{count}", base, adapter, workers=count))
                print(f"{count} at work: {taken[-1]:.1f} s", flush=True)
        one, two = (min(taken) for taken in times.values())
        print(f"one worker {one:.1f} s, two workers {two:.1f} s: {one / two:.2f} times as fast")
    finally:
        production.stop()
        shutil.rmtree(folder)


def measure(home: Path, base: Path, adapter: Path, *, workers: int) -> float:
    settings = {"LORAHUB_DATABASE_URL": production.postgres().new_database(), "LORAHUB_SCRUB_INTERVAL": "PT0S"}
    registry = Registry(home, settings).start()
    hired = [Worker(registry, f"worker-{number}").started() for number in range(workers)]
    try:
        with lorahub.Hub(registry.url, token=registry.token) as hub:
            hub.push(base, "owner/base")
            hub.push(adapter, "owner/sql")
            time.sleep(5)  # statistics are computed, nothing is left to do
            os.sync()
            begun = time.perf_counter()
            job = hub.merges.start(recipe_of({"base": "owner/base", "adapters": ["owner/sql"]}), "owner/merged")
            hub.merges.wait(job.id)
            return time.perf_counter() - begun
    finally:
        for worker in hired:
            worker.kill()
        registry.stop()
        subprocess.run(["rm", "-rf", home], check=True)


if __name__ == "__main__":
    main()
