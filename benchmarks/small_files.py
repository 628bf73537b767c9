"""A push of many small files, by `lorahub push` and by `hf upload`, beside `cp` and a sync of the same files.

All in one run, each time with bytes that the registry doesn't have. The registry is one process without its worker.
FILES are small texts, 50 in each folder. CPU is what to compare on a machine that does other things too.

    python benchmarks/small_files.py [FILES …]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
FILES = [int(count) for count in sys.argv[1:]] or [1000, 10_000]
SIZE = 1000  # bytes of a file


@dataclass(frozen=True)
class Taken:
    """Seconds: of the wall, and of CPU."""

    what: str
    wall: float
    client: float
    registry: float


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder:
        work = Path(folder)
        os.environ.update(
            LORAHUB_HOME=str(work / "home"), HF_HOME=str(work / "hf"), HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1", LORAHUB_PROGRESS="none", LORAHUB_WORKER="false",
            LORAHUB_RATE_LIMIT_API="0", LORAHUB_RATE_LIMIT_RESOLVE="0",
        )  # fmt: skip
        command = [str(BIN / "lorahub"), "serve", "--home", str(work / "registry"), "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as registry:
            assert registry.stdout is not None
            said = json.loads(registry.stdout.readline())
            os.environ.update(LORAHUB_ENDPOINT=said["url"], LORAHUB_TOKEN=said["token"])
            os.environ.update(HF_ENDPOINT=said["url"], HF_TOKEN=said["token"])
            try:
                for count in FILES:
                    report(work / str(count), count, registry.pid)
            finally:
                registry.terminate()


def report(work: Path, count: int, registry: int) -> None:
    rows = [
        measured("`cp -r` and `sync`", registry, copy(fresh_folder(work / "a", count), work / "copy")),
        measured("`lorahub push`", registry, push(fresh_folder(work / "b", count), f"owner/ours{count}")),
        measured("again, one file changed", registry, push(changed(work / "b"), f"owner/ours{count}")),
        measured("`hf upload`", registry, hf_upload(fresh_folder(work / "c", count), f"owner/theirs{count}")),
    ]
    print(f"\n{count} files of {SIZE} bytes; load {os.getloadavg()[0]:.1f}\n")
    print("| what | s | × `cp` | client, CPU ms a file | registry, CPU ms a file |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        shown = [row.wall, row.wall / rows[0].wall, 1000 * row.client / count, 1000 * row.registry / count]
        print(f"| {row.what} | {' | '.join(f'{figure:.2f}' for figure in shown)} |", flush=True)


def measured(what: str, registry: int, act: Callable[[], None]) -> Taken:
    os.sync()
    begun, own, registrys = time.perf_counter(), own_cpu(), cpu_of(registry)
    act()
    return Taken(what, time.perf_counter() - begun, own_cpu() - own, cpu_of(registry) - registrys)


def own_cpu() -> float:
    """With that of the commands that were run."""
    return sum(os.times()[:4])


def cpu_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fresh_folder(folder: Path, count: int) -> Path:
    """Files that nobody had before."""
    for number in range(count):
        path = folder / f"d{number // 50}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(os.urandom(SIZE // 2).hex())
    return folder


def changed(folder: Path) -> Path:
    (folder / "d0" / "f0.txt").write_text("changed")
    return folder


def copy(source: Path, target: Path) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(["cp", "-r", str(source), str(target)], check=True)
        os.sync()

    return run


def push(folder: Path, repository: str) -> Callable[[], None]:
    return command_of("lorahub", "push", str(folder), repository)


def hf_upload(folder: Path, repository: str) -> Callable[[], None]:
    return command_of("hf", "upload", repository, str(folder), ".")


def command_of(name: str, *arguments: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([str(BIN / name), *arguments], check=True, stdout=subprocess.DEVNULL)

    return run


if __name__ == "__main__":
    main()
