"""Push and pull of one large file, as ratios to what the machine takes for the same bytes with `cp` and sha256.

The floor of a push: read the file once to know its digest, write it once, read it once to verify what was written.
The floor of a pull: read it once, write it once, hash it once. All in one run, the best of three, on one machine.

    make bench        (BYTES=… for another size, in bytes)
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent
SIZE = int(os.environ.get("BYTES", "1000000000"))
ROUNDS = 3


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder:
        work = Path(folder)
        os.environ.update(
            LORAHUB_HOME=str(work / "home"), HF_HOME=str(work / "hf"), HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1", LORAHUB_PROGRESS="none",
        )  # fmt: skip
        command = [str(BIN / "lorahub"), "serve", "--home", str(work / "registry"), "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as registry:
            assert registry.stdout is not None
            said = json.loads(registry.stdout.readline())
            os.environ.update(LORAHUB_ENDPOINT=said["url"], LORAHUB_TOKEN=said["token"])
            os.environ.update(HF_ENDPOINT=said["url"], HF_TOKEN=said["token"])
            try:
                report(work)
            finally:
                registry.terminate()


def report(work: Path) -> None:
    floor = best(lambda number: floor_of(work, number))
    rows = [("cp + sha256 (the floor)", floor, None)]
    rows.append(("lorahub push", best(lambda number: push(work, number)), floor))
    rows.append(("lorahub pull", best(lambda number: pull(work, number)), floor))
    rows.append(("hf upload (Xet)", best(lambda number: hf_upload(work, number)), floor))
    rows.append(("hf download (no digest checked)", best(lambda number: hf_download(work, number)), floor))
    print(f"\n{SIZE / 1e6:.0f} MB, best of {ROUNDS}\n\n| what | s | MB/s | × floor |\n| --- | --- | --- | --- |")
    for what, seconds, base in rows:
        ratio = "1" if base is None else f"{seconds / base:.2f}"
        print(f"| {what} | {seconds:.2f} | {SIZE / 1e6 / seconds:.0f} | {ratio} |")


def best(act: Callable[[int], float]) -> float:
    return min(act(number) for number in range(ROUNDS))


def timed(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([str(BIN / command[0]), *command[1:]], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def fresh_file(folder: Path) -> Path:
    """A safetensors file that no round before had."""
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "U8", "shape": [SIZE], "data_offsets": [0, SIZE]}}).encode()
    with (folder / "w.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, SIZE, 1 << 20):
            file.write(os.urandom(min(1 << 20, SIZE - start)))  # weights neither compress nor repeat
    return folder


def floor_of(work: Path, number: int) -> float:
    source = fresh_file(work / f"floor{number}") / "w.safetensors"
    started = time.perf_counter()
    copy = source.with_suffix(".copy")
    shutil.copyfile(source, copy)
    with copy.open("rb") as file:
        os.fsync(file.fileno())
        hashlib.file_digest(file, "sha256")
    took = time.perf_counter() - started
    shutil.rmtree(source.parent)
    return took


def push(work: Path, number: int) -> float:
    folder = fresh_file(work / f"push{number}")
    took = timed("lorahub", "push", str(folder), f"owner/bench{number}")
    shutil.rmtree(folder)
    return took


def pull(work: Path, number: int) -> float:
    target = work / f"pull{number}"
    took = timed("lorahub", "pull", f"owner/bench{number}", str(target))
    shutil.rmtree(target)
    shutil.rmtree(work / "home" / "cache", ignore_errors=True)
    return took


def hf_upload(work: Path, number: int) -> float:
    folder = fresh_file(work / f"hf{number}")
    took = timed("hf", "upload", f"owner/hf{number}", str(folder), ".")
    shutil.rmtree(folder)
    return took


def hf_download(work: Path, number: int) -> float:
    target = work / f"hfpull{number}"
    took = timed("hf", "download", f"owner/hf{number}", "--local-dir", str(target))
    shutil.rmtree(target)
    return took


if __name__ == "__main__":
    main()
