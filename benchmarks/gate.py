"""A lock of many adapters against three bases of a registry on the same machine, as `lorahub check` asks it.

Adapters have the tensors of a rank-8 LoRA on q_proj and v_proj of a Llama of LAYERS layers, of which the bases have the
layout; nobody's weights are read. Cold: neither the registry nor the client has seen a pair; warm: both have. Beside it
what was asked before there was one request for all, with the registry as warm: every adapter read by the client.

    python benchmarks/gate.py [ADAPTERS]
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BIN = Path(sys.executable).parent
ADAPTERS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
LAYERS, WIDTH, RANK = 32, 64, 8

MEASURED = """
import json, sys, time
import httpx2
from lorahub.hub import registry_rows
from lorahub.hub.checking import Checker, asked_in
from lorahub.hub.hub import Hub
from pathlib import Path
count = {"requests": 0, "bytes": 0}
def counted(response):
    count["requests"] += 1
    count["bytes"] += int(response.headers.get("content-length", 0))
if sys.argv[1] == "alone":
    registry_rows.MANY = 10**9
    import lorahub.hub.checking
    lorahub.hub.checking.MANY = 10**9
started, cpu = time.perf_counter(), time.process_time()
with Hub() as hub:
    hub.transport._client.event_hooks = {"response": [counted]}
    _, entries = asked_in(Path("lorahub.lock"), hub.sources, sys.argv[2:])
    rows = Checker(hub.sources).rows(entries)
verdicts = [row.verdict.value for row in rows]
told = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "rows": len(rows), **count}
print(json.dumps({**told, "verdicts": {one: verdicts.count(one) for one in set(verdicts)}}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder:
        work = Path(folder)
        os.environ.update(LORAHUB_HOME=str(work / "home"), LORAHUB_PROGRESS="none", LORAHUB_WORKER="false")
        os.environ.update(LORAHUB_RATE_LIMIT_API="0", LORAHUB_RATE_LIMIT_RESOLVE="0")
        with serving(work / "registry") as registry:
            publish(work)
            bases = [f"owner/llama@{name}" for name in ("one", "two", "three")]
            print(f"{ADAPTERS} adapters × {len(bases)} bases; load {os.getloadavg()[0]:.1f}\n")
            print("| what | s | CPU of the client, s | of the registry, s | requests | kB |")
            print("| --- | --- | --- | --- | --- | --- |")
            for what, how in (("cold", "one"), ("warm", "one"), ("warm, each adapter read by the client", "alone")):
                os.environ["LORAHUB_CACHE"] = str(work / how)
                before = cpu_of(registry)
                taken = measured(work, how, bases)
                taken["registry"] = cpu_of(registry) - before
                figures = (
                    f"{taken['seconds']:.2f} | {taken['cpu']:.2f} | {taken['registry']:.2f} | {taken['requests']} | "
                    f"{taken['bytes'] / 1000:.0f}"
                )
                print(f"| {what} | {figures} |", flush=True)
                assert taken["rows"] == ADAPTERS * len(bases)
                assert taken["verdicts"] == {"compatible": ADAPTERS, "fits": ADAPTERS, "incompatible": ADAPTERS}, taken


@contextmanager
def serving(home: Path) -> Iterator[int]:
    """Its process."""
    command = [str(BIN / "lorahub"), "serve", "--home", str(home), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as registry:
        assert registry.stdout is not None
        said = json.loads(registry.stdout.readline())
        os.environ.update(LORAHUB_ENDPOINT=said["url"], LORAHUB_TOKEN=said["token"])
        try:
            yield registry.pid
        finally:
            registry.terminate()


def cpu_of(process: int) -> float:
    """Seconds so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def publish(work: Path) -> None:
    """Three bases, of which the third is wider, and a lock of adapters of the first."""
    from lorahub.hub.bases import hash_folder
    from lorahub.hub.hub import Hub
    from lorahub.hub.lock import LockedAdapter, locked, write_lock
    from lorahub.hub.progress import Silence

    random = np.random.default_rng(0)
    with Hub() as hub:
        for name, width in (("one", WIDTH), ("two", WIDTH), ("three", 2 * WIDTH)):
            folder = work / name
            folder.mkdir()
            tensors = {f"{module}.weight": random.standard_normal((width, width)) for module in modules()}
            (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
            (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
            hub.bases.add(hash_folder(folder, Silence()), "owner/llama", revision=name)
        entries = []
        for number in range(ADAPTERS):
            folder = write_adapter(work / "adapter", random)
            pushed = hub.push(folder, f"owner/adapter-{number}", base="owner/llama@one")
            entries.append(LockedAdapter(f"owner/adapter-{number}@v1", pushed.commit, pushed.digest))
    write_lock(work / "lorahub.lock", locked(entries, registry=os.environ["LORAHUB_ENDPOINT"]))


def modules() -> list[str]:
    return [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(LAYERS) for name in "qv"]


def write_adapter(folder: Path, random: np.random.Generator) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {}
    for module in modules():
        tensors[f"base_model.model.{module}.lora_A.weight"] = random.standard_normal((RANK, WIDTH))
        tensors[f"base_model.model.{module}.lora_B.weight"] = random.standard_normal((WIDTH, RANK))
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "owner/llama", "r": RANK,
        "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def safetensors_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    header, data = {}, bytearray()
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array, np.float32).tobytes()
        places = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": places}
        data += raw
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + bytes(data)


def measured(work: Path, how: str, bases: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-c", MEASURED, how, *bases]
    said = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
