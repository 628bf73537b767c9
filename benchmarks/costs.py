"""What one GET or POST costs the server: CPU, memory, disk and descriptors, for every one that /api/openapi.json has.

    python benchmarks/costs.py [--json] [--rounds 5] [--write]

A real registry with 2,000 adapters, one repository of 2,000 files and another of 200 branches is asked by its owner,
one request at a time; for operations that a good request doesn't make dear, `DEAR` has the dearest that is known. CPU
is the server process's own, at the pace of a quiet machine (`pace`), memory its highest resident set above the one at
rest, disk what its home has grown by, descriptors those that stay open. `--write` puts the table into docs/costs.md.
Linux only: it reads /proc.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lorahub
import numpy as np
import psutil
import scale
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database.migrate import upgrade
from lorahub_registry.settings import Settings

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import builders  # noqa: E402
import wire  # noqa: E402
from accounts.operations import MODEL, OPERATIONS, OWN, SETTINGS, V1, Request, Stage, address, build_stage  # noqa: E402
from pace import pace  # noqa: E402
from registry_process import Registry  # noqa: E402
from services.ports import free_port  # noqa: E402
from xet_wire import XetUpload, lz4_frame, segment, shard  # noqa: E402

ADAPTERS, FILES, BRANCHES, COMMITS = 2_000, 2_000, 200, 100
MANY, BUSY, WIDE, WIDE_BASE = (f"stage-org/{name}" for name in ("many-files", "busy", "wide", "wide-base"))
WIDTH, RANK = 1024, 64
CPU_LIMIT, CPU_OF_A_UNIT = 0.100, 0.005  # seconds; a unit is what a request names one by one
MEMORY_LIMIT = 64 << 20  # bytes
TABLE = ROOT / "docs/costs.md"


@dataclass(frozen=True)
class Asked:
    request: Request
    units: int = 1
    """What it names one by one, each of which costs: files, digests."""
    token: str | None = None
    """Whose, where it isn't the owner's."""


@dataclass(frozen=True)
class Cost:
    operation: str
    what: str
    units: int
    status: int
    sent: int
    """Bytes of address and body."""
    cpu: float
    """Seconds of the server's process, user and system, at the pace of a quiet machine; the mean of the rounds."""
    memory: int
    disk: int
    descriptors: int

    @property
    def cpu_limit(self) -> float:
        return CPU_LIMIT + CPU_OF_A_UNIT * (self.units - 1)

    def faults(self) -> Iterator[str]:
        if self.status >= 500 and self.status not in (501, 503):
            yield f"answered {self.status}"
        if self.cpu > self.cpu_limit:
            yield f"took {self.cpu * 1000:.0f} ms of CPU, {self.cpu_limit * 1000:.0f} at most"
        if self.memory > MEMORY_LIMIT:
            yield f"took {self.memory >> 20} MiB, {MEMORY_LIMIT >> 20} at most"
        if self.descriptors > 2:  # SQLite opens one more for a connection that it keeps
            yield f"left {self.descriptors} descriptors open"


# --- the dearest requests ---------------------------------------------------------------------------------------------

Make = Callable[[Stage], Asked]


def asks(query: str = "", body: Any = None, *, repo: str | None = None, units: int = 1, **values: str) -> Make:
    return lambda _: Asked(Request(values, body, query=query, repository=repo), units)


def _commit_of_files(stage: Stage) -> Asked:
    files = [wire.inline(f"{stage.fresh('d')}/f.txt", stage.fresh("x").encode()) for _ in range(100)]
    lines = [{"key": "header", "value": {"summary": "many"}}, *files]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return Asked(Request({"rev": "main"}, content=content, repository=BUSY), units=100)


def _files_ahead(stage: Stage) -> Asked:
    files = [wire.inline(f"ahead/{stage.fresh('f')}.txt", stage.fresh("x").encode()) for _ in range(500)]
    lines = [{"key": "header", "value": {"summary": "many"}}, *files]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return Asked(Request({"rev": "main"}, content=content, repository=BUSY), units=500)


def _candidates(_stage: Stage) -> Asked:
    files = [{"path": f"d/{n}.bin", "size": 100, "sample": "eA=="} for n in range(1000)]
    return Asked(Request(json={"files": files}, repository=BUSY), units=1000)


def _batch(stage: Stage) -> Asked:
    objects = [{"oid": wire.sha256(stage.fresh("o").encode()), "size": 10} for _ in range(100)]
    return Asked(Request(json={"operation": "upload", "objects": objects}, repository=BUSY), units=100)


def _layout(stage: Stage) -> Asked:
    names = (f"model.layers.{layer}.mlp.{name}_proj.weight" for layer in range(300) for name in ("up", "down", "gate"))
    layout = "lorahub-base-layout-v1\n" + "".join(f"{name}\tBF16\t4096,11008\n" for name in sorted(names))
    return Asked(Request(json={"names": [f"{stage.organisation}/{stage.fresh('base-')}"], "layout": layout}))


def _plan(_stage: Stage) -> Asked:
    adapters = [{"source": f"{WIDE}@v1", "weight": n / 100 + 0.01} for n in range(32)]
    return Asked(Request(json={"base": WIDE_BASE, "adapters": adapters}))


def _lfs_complete(stage: Stage) -> Asked:
    content = wire.sha256(stage.fresh("c").encode())
    wanted = {"operation": "upload", "transfers": ["multipart"], "objects": [{"oid": content, "size": 65 << 20}]}
    answer = stage.as_owner("POST", f"/{BUSY}.git/info/lfs/objects/batch", json=wanted)
    href = answer["objects"][0]["actions"]["upload"]["href"]
    parts = [{"partNumber": n + 1, "etag": "x"} for n in range(1000)]
    return Asked(Request({"credential": href.split("/")[-2]}, {"oid": content, "parts": parts}))


def _xet(stage: Stage) -> tuple[XetUpload, dict[str, str]]:
    upload = XetUpload(stage.registry, str(stage.tokens["owner"]), BUSY)
    return upload, {"element": upload.url.rpartition("/cas/")[2]}


def _xorb(stage: Stage) -> Asked:
    upload, values = _xet(stage)
    body = b"".join(lz4_frame(bytes([n % 256]) * 65_536) for n in range(256))
    return Asked(Request({**values, "xorb": "ab" * 32}, content=body), token=upload.token)


def _shard(stage: Stage) -> Asked:
    upload, values = _xet(stage)
    content = stage.fresh("bytes").encode() * 100_000
    chunks = [content[at : at + 65_536] for at in range(0, len(content), 65_536)]
    name = upload.xorb(b"".join(map(lz4_frame, chunks)))
    body = shard([segment(name, len(content), 0, len(chunks))], wire.sha256(content))
    return Asked(Request(values, content=body), token=upload.token)


ALL = "&".join(f"expand={name}" for name in ("siblings", "cardData", "config", "safetensors", "tags", "downloads"))
TERMS = "&".join(f"search={term}" for term in "a e i o u ka lo mi ne su ta ra vi xo zu chat".split())
DIGESTS = [f"{number:064x}" for number in range(1000)]
CARD = "---\n" + "".join(f"key{n}: [a, b]\n" for n in range(1500)) + "---\n"
CHECKED = [f"stage-org/checked-{n}" for n in range(16)]

DEAR: dict[tuple[str, str], Make] = {
    (f"GET {V1}/events", "1,000 of them"): asks("?after=0&limit=1000"),
    ("GET /api/models", "the longest page"): asks("?limit=1000"),
    ("GET /api/models", "a page of 100 with everything"): asks(f"?limit=100&{ALL}"),
    ("GET /api/models", "16 words"): asks(f"?{TERMS}"),
    (f"GET {MODEL}", "2,000 files"): asks("?blobs=true&securityStatus=true", repo=MANY),
    (f"GET {MODEL}/revision/{{rev}}", "2,000 files"): asks("?blobs=true", repo=MANY),
    (f"GET {MODEL}/tree/{{rev}}", "2,000 files, expanded"): asks("?recursive=true&expand=true", repo=MANY),
    (f"GET {OWN}/revisions/{{rev}}", "2,000 files"): asks(repo=MANY),
    (f"POST {MODEL}/paths-info/{{rev}}", "2,000 paths, expanded"): asks(
        body={"paths": [f"d{n % 50}/f{n}.txt" for n in range(FILES)], "expand": True}, repo=MANY
    ),
    (f"GET {MODEL}/commits/{{rev}}", "100 commits"): asks("?limit=100&expand[]=formatted", repo=BUSY),
    (f"GET {MODEL}/refs", "200 branches"): asks("?include_pull_requests=1", repo=BUSY),
    (f"GET {OWN}/ref-log", "300 moves"): asks(repo=BUSY),
    ("GET /{namespace}/{name}/resolve/{rev}/{path}", "a file merged when it is read"): asks(
        repo=WIDE, rev="merged", path="model.safetensors"
    ),
    (f"POST {MODEL}/commit/{{rev}}", "100 files"): _commit_of_files,
    (f"POST {OWN}/files/{{rev}}", "500 files"): _files_ahead,
    (f"POST {MODEL}/preupload/{{rev}}", "1,000 files"): _candidates,
    ("POST /{namespace}/{name}.git/info/lfs/objects/batch", "100 objects"): _batch,
    ("POST /lfs/{credential}/complete", "1,000 parts that never came"): _lfs_complete,
    ("POST /cas/{element}/v1/xorbs/default/{xorb}", "16 MiB packed into 80 kB"): _xorb,
    ("POST /cas/{element}/v1/shards", "a file of 0.9 MB"): _shard,
    ("POST /cas/{element}/v2/shards", "a file of 0.9 MB"): _shard,
    (f"POST {V1}/by-hash", "1,000 digests"): asks(body={"sha256": DIGESTS}, units=100),
    (f"POST {V1}/checks", "16 adapters"): asks(body={"adapters": CHECKED, "bases": [WIDE_BASE]}, units=16),
    (f"POST {V1}/bases", "a layout of 900 tensors"): _layout,
    (f"POST {V1}/merges/plan", "32 adapters"): _plan,
    ("POST /api/validate-yaml", "1,500 keys"): asks(body={"content": CARD}),
    (f"POST {V1}/oidc/token", "16,000 letters"): asks(body={"token": "e30." * 4000, "repository": BUSY}),
}
"""Beside the good request of `OPERATIONS`, which every operation is asked with too."""


# --- the registry -----------------------------------------------------------------------------------------------------


@contextmanager
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="lorahub-costs-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        backend = Backend.open(Settings(registry_home=home))
        upgrade(backend.database)
        scale.seed(backend, ADAPTERS)
        backend.database.engine.dispose()
        port = free_port()
        settings = {
            **SETTINGS,
            "LORAHUB_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "LORAHUB_QUOTA_OPEN_UPLOADS": "0",
            "LORAHUB_MERGED_CACHE_BYTES": "0",  # what is read merged is computed each time
        }
        registry = Registry(home, settings, port=port).start()
        try:
            built = build_stage(registry, Path(folder))
            _fill(built, Path(folder))
            yield built
        finally:
            registry.stop()


def _fill(stage: Stage, folder: Path) -> None:
    with stage.registry.client(stage.tokens["owner"], timeout=600) as client:
        for repo in (MANY, BUSY):
            wire.create_repo(client, repo)
        files = [wire.inline(f"d{n % 50}/f{n}.txt", b"%d" % n) for n in range(FILES)]
        wire.require(wire.commit(client, MANY, files))
        for number in range(COMMITS):
            wire.require(wire.commit(client, BUSY, [wire.inline("notes.md", b"%d" % number)]))
        for number in range(BRANCHES):
            client.post(f"/api/models/{BUSY}/branch/b{number}", json={}).raise_for_status()
    base = folder / "wide-base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    weights = {f"model.layers.{n}.self_attn.q_proj.weight": np.ones((WIDTH, WIDTH), np.float32) for n in range(4)}
    (base / "model.safetensors").write_bytes(builders.safetensors_bytes(weights))
    adapter = builders.write_adapter(folder / "wide", base=WIDE_BASE, rank=RANK)
    (adapter / "adapter_model.safetensors").write_bytes(builders.lora_weights(rank=RANK, width=WIDTH, layers=4))
    with lorahub.Hub(stage.registry.url, token=str(stage.tokens["owner"])) as hub:
        hub.push(base, WIDE_BASE)
        hub.push(adapter, WIDE)
        for number, name in enumerate(CHECKED):
            (adapter / "adapter_model.safetensors").write_bytes(
                builders.lora_weights(rank=RANK, width=WIDTH, seed=number)
            )
            hub.push(adapter, name)


# --- measuring --------------------------------------------------------------------------------------------------------


class Meter:
    """What the server's process has used."""

    def __init__(self, registry: Registry) -> None:
        assert registry.process is not None
        self._process, self._home = psutil.Process(registry.process.pid), registry.home
        self._proc = Path("/proc") / str(registry.process.pid)
        self._clock = (~registry.process.pid << 3) | 2
        """Linux's clock of the process's time (clock_getcpuclockid), in nanoseconds; what /proc says is in ticks."""

    def cpu(self) -> float:
        return time.clock_gettime(self._clock)

    def forget_peak(self) -> None:
        (self._proc / "clear_refs").write_text("5")

    def memory(self, what: str) -> int:
        status = (self._proc / "status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{what}:")))

    def disk(self) -> int:
        found = 0
        for path in self._home.rglob("*"):
            with suppress(FileNotFoundError):
                found += path.stat().st_size if path.is_file() else 0
        return found

    def descriptors(self) -> int:
        return int(self._process.num_fds())


def cost_of(stage: Stage, operation: str, what: str, make: Make, rounds: int) -> Cost:
    """The first round warms up and counts for nothing; CPU is the median of the others, disk that of the last.

    Descriptors are what every round leaves: a pool opens connections now and then, for whoever comes next.
    """
    meter, memory, status, disk = Meter(stage.registry), 0, 0, 0
    cpu: list[float] = []
    left: list[int] = []
    asked = make(stage)
    token = stage.registry.token if OPERATIONS[operation].asks == "registry" else asked.token or stage.tokens["owner"]
    with stage.registry.client(token) as client:
        for number in range(rounds + 1):
            asked = asked if number == 0 else make(stage)
            token_now = {"Authorization": f"Bearer {asked.token}"} if asked.token else {}
            method, path = address(operation, asked.request, stage, stage.public)
            body = json.dumps(asked.request.json).encode() if asked.request.json is not None else asked.request.content
            kind = {"Content-Type": "application/json"} if asked.request.json is not None else {}
            if number == rounds:
                disk = meter.disk()
            meter.forget_peak()
            slowed, descriptors = pace(), meter.descriptors()
            before, rest = meter.cpu(), meter.memory("VmRSS")
            answer = client.request(method, path, content=body, headers={**kind, **token_now})
            if number:
                cpu.append((meter.cpu() - before) / slowed)
                memory = max(memory, meter.memory("VmHWM") - rest)
                left.append(meter.descriptors() - descriptors)
            status = answer.status_code
        grown = meter.disk() - disk
    sent = len(path) + len(body or b"")
    return Cost(operation, what, asked.units, status, sent, median(cpu), memory, grown, min(left))


def described(stage: Stage) -> list[str]:
    """Every GET and POST of the OpenAPI description."""
    with stage.registry.client(None) as client:
        paths = client.get("/api/openapi.json").json()["paths"]
    return [f"{way.upper()} {path}" for path, ways in paths.items() for way in ways if way in ("get", "post")]


def measure(rounds: int) -> Iterator[Cost]:
    with stage() as built:
        for operation in described(built):
            good = OPERATIONS[operation].make

            def make(stage: Stage, good: Any = good) -> Asked:
                return Asked(good(stage, stage.public))

            yield cost_of(built, operation, "", make, rounds)
            for (of, what), dear in DEAR.items():
                if of == operation:
                    yield cost_of(built, operation, what, dear, rounds)


# --- the table --------------------------------------------------------------------------------------------------------

HEAD = """\
| request | answer | sent | CPU | memory | disk |
| --- | --- | --- | --- | --- | --- |
"""


def row(cost: Cost) -> str:
    what = f": {cost.what}" if cost.what else ""
    disk, memory = f"{max(cost.disk, 0) / 1000:.0f} kB", f"{cost.memory / 2**20:.1f} MiB"
    return (
        f"| `{cost.operation}`{what} | {cost.status} | {cost.sent} B | {cost.cpu * 1000:.0f} ms | {memory} | {disk} |\n"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--write", action="store_true", help="put the table into docs/costs.md")
    chosen = options.parse_args()
    found = []
    for cost in measure(chosen.rounds):
        found.append(cost)
        if not chosen.json:
            print(row(cost), end="", flush=True)
    if chosen.json:
        print(json.dumps([{**asdict(cost), "faults": list(cost.faults())} for cost in found]))
    if chosen.write:
        text = TABLE.read_text()
        TABLE.write_text(text[: text.index(HEAD)] + HEAD + "".join(map(row, found)))
    for cost in found:
        for fault in cost.faults():
            print(f"{cost.operation} {cost.what}: {fault}", file=sys.stderr)


if __name__ == "__main__":
    main()
