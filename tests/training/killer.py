"""Kills a run again and again while it saves, as the out-of-memory killer would: `killer BASE ROWS OUT ROUNDS`.

Forks before torch has computed anything, so that no round pays for the imports.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from lorahub import TrainConfig, train
from lorahub.training.checkpoint import read_checkpoint
from safetensors.torch import load_file

CONFIG = TrainConfig(
    rank=64, lr=1e-3, max_len=96, batch_tokens=192, steps=100_000, save_every=1, eval_split=0.0, base_name="acme/tiny"
)


def main(base: str, rows: str, out: Path, rounds: int) -> None:
    kept = out / ".training"
    for number in range(rounds):
        before = steps_of(out)
        child = os.fork()
        if not child:
            train(base, rows, CONFIG, output=out, resume="auto")
        while steps_of(out)[-1:] == before[-1:] or not list(out.glob("last-*")):
            time.sleep(0.002)
        time.sleep(0.0037 * number)
        while not list(kept.glob("*.part")):  # a save has begun
            time.sleep(0.0002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole = [read_checkpoint(path).progress.step for path in kept.glob("*.safetensors")]
        adapters = [len(load_file(path / "adapter_model.safetensors")) for path in out.glob("last-*")]
        parts = len(list(kept.glob("*.part")))
        print(json.dumps({"reached": max(whole), "parts": parts, "adapters": adapters}), flush=True)


def steps_of(out: Path) -> list[str]:
    history = out / "history.jsonl"
    return history.read_text().splitlines() if history.is_file() else []


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
