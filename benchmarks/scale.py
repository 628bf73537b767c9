"""A registry with many adapters: filtered searches at 20 requests/s, resolves at 100 requests/s, and their query plans.

    python benchmarks/scale.py [--adapters 100000] [--database postgres|sqlite|URL] [--seconds 30]

Rows are made by rule, as publishing would have made them, and copied in; a real server answers over HTTP. A request's
time counts from when it was due, so that a server that falls behind shows it. PostgreSQL comes from the test wheel.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from lorahub.protocol.names import RepositoryName, similarity_key
from lorahub_registry.core.access import reading
from lorahub_registry.core.accounts.permissions import ANONYMOUS
from lorahub_registry.features.catalog import queries
from lorahub_registry.features.catalog.search import Search
from lorahub_registry.features.downloads import service as downloads
from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.database import Database
from lorahub_registry.infrastructure.database.migrate import upgrade
from lorahub_registry.infrastructure.database.tables import as_word
from lorahub_registry.settings import Settings
from sqlalchemy import event

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from services.postgres import Postgres

START = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = 10_000
LARGE = {"repositories", "catalog_entries", "commits", "commit_files", "refs", "blobs", "commit_facts", "adapter_facts"}
WORDS = [a + b + c for a in ("ka", "lo", "mi", "ne", "su", "ta") for b in ("ra", "vi", "xo", "zu") for c in ("chat", "code", "sql", "rag", "math", "med", "law", "art")]  # fmt: skip  # noqa: E501
BASES = [f"org{number % 17}/model-{number}" for number in range(300)]
TASKS = ("text-generation", "text-to-image", "text-classification", "translation")
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RUNTIMES = ("peft", "vllm", "sglang", "lorax", "llama.cpp", "ollama", "mlx")
RANKS = (4, 8, 16, 32, 64, 128, 256)
BASE_WEIGHTS, TAG_WEIGHTS = ([1 / (n + 1) ** 1.1 for n in range(count)] for count in (300, 800))


def _digest(what: str, number: int) -> str:
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()


CARD, CONFIG = _digest("card", 0), _digest("config", 0)
CARD_BYTES = 900


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adapter:
    """What one number stands for, the same each time."""

    number: int
    owner: int
    name: str
    base: str
    tags: list[str]
    labels: list[str]
    rank: int
    downloads: int

    @property
    def full_name(self) -> str:
        return f"user{self.owner}/{self.name}"

    @property
    def head(self) -> str:
        return _digest("head", self.number)[:40]


def adapter(number: int, total: int) -> Adapter:
    dice = random.Random(number)
    base = dice.choices(BASES, BASE_WEIGHTS)[0]
    topics = sorted({f"topic-{topic}" for topic in dice.choices(range(800), TAG_WEIGHTS, k=4)})
    tags = [
        "peft",
        "safetensors",
        "lora",
        *topics,
        dice.choice(TASKS),
        f"base_model:{base}",
        f"base_model:adapter:{base}",
    ]
    modules = dice.sample(MODULES, dice.choice([2, 4, 7]))
    labels = [f"target:{module}" for module in modules] + [f"fits:{name}" for name in dice.sample(RUNTIMES, 5)]
    return Adapter(
        number,
        owner=dice.randrange(owners(total)),
        name=f"{dice.choice(WORDS)}-{dice.choice(WORDS)}-{number}",
        base=base,
        tags=[*tags, "license:mit"],
        labels=[*labels, "method:lora", "verdict:fits"],
        rank=dice.choices(RANKS, (5, 20, 30, 20, 15, 7, 3))[0],
        downloads=int(dice.paretovariate(1.1)) - 1,
    )


def rows_of(one: Adapter) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tables and rows of one repository with two commits, in an order that foreign keys allow."""
    at = START + timedelta(minutes=one.number / 4)
    weights, first = _digest("weights", one.number), _digest("first", one.number)[:40]
    names = {"namespace": f"user{one.owner}", "name": one.name}
    shown = {"title": "publish", "message": "", "author_id": one.owner + 1, "author": f"user{one.owner}"}
    yield "repositories", {
        **names, "id": one.number, "public_id": f"{one.number:024x}", "namespace_id": one.owner + 1,
        "name_key": RepositoryName(**names).key, "is_private": one.number % 20 == 0, "created_at": at,
        "updated_at": at + timedelta(days=one.number % 90), "next_version": 2, "downloads": one.downloads,
        "likes": one.downloads // 9, "trending": one.downloads * (one.number % 13) * 1e9,
    }  # fmt: skip
    yield "blobs", _blob(weights, 30_000_000 + one.number, at)
    for commit, parent, depth in ((first, None, 0), (one.head, first, 1)):
        yield "commits", {
            **shown, "id": commit, "repository_id": one.number, "parent_id": parent, "depth": depth,
            "digest": weights, "created_at": at,
        }  # fmt: skip
    for path, blob in {"README.md": CARD, "adapter_config.json": CONFIG, "adapter_model.safetensors": weights}.items():
        is_lfs = blob == weights
        row = {"commit_id": one.head, "path": path, "blob_sha256": blob, "is_lfs": is_lfs, "changed_in": one.head}
        yield "commit_files", row
    for space, kind, name in (("heads", "branch", "main"), ("tags", "version", "v1")):
        yield "refs", {
            "id": 2 * one.number + (kind == "version"), "repository_id": one.number, "space": space, "kind": kind,
            "name": name, "commit_id": one.head, "message": "", "is_protected": False, "created_at": at,
            "updated_at": at,
        }  # fmt: skip
    yield "commit_facts", {
        "commit_id": one.head, "tags": json.dumps(one.tags), "library_name": "peft", "pipeline_tag": "text-generation",
        "card_data": json.dumps({"license": "mit", "base_model": one.base}),
        "config": json.dumps({"peft": {"r": one.rank}}),
        "safetensors": json.dumps({"parameters": {"F32": 8 << 20}, "total": 8 << 20}),
    }  # fmt: skip
    ranks = {"least_rank": one.rank, "most_rank": one.rank}
    yield "adapter_facts", {
        **ranks, "commit_id": one.head, "digest": weights, "method": "lora", "base_key": one.base, "verdict": "fits",
        "rule_set": 1, "facts": json.dumps({"rank": one.rank}), "report": "{}",
    }  # fmt: skip
    terms = [*(f"tag:{tag}" for tag in one.tags), f"base:{one.base}", *one.labels]
    name = one.full_name.lower()
    yield "catalog_entries", {**ranks, "repository_id": one.number, "name": name, "terms": terms, "parameters": 8 << 20}


def shared_rows(total: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Owners, and the blobs that all have."""
    for owner in range(owners(total)):
        name = f"user{owner}"
        yield "accounts", {
            "id": owner + 1, "name": name, "name_key": similarity_key(name), "kind": "user", "fullname": "",
            "is_admin": False, "created_at": START,
        }  # fmt: skip
    yield "blobs", _blob(CARD, CARD_BYTES, START)
    yield "blobs", _blob(CONFIG, 700, START)


def _blob(sha256: str, size: int, at: datetime) -> dict[str, Any]:
    return {
        "sha256": sha256, "size": size, "git_sha1": sha256[:40], "storage_key": f"blobs/{sha256}", "inspection": "{}",
        "created_at": at,
    }  # fmt: skip


def owners(total: int) -> int:
    return max(1, total // 20)


def seed(backend: Backend, total: int) -> None:
    """Rows, and of the bytes that they name a card: over an empty storage no registry starts."""
    with backend.blobs.writer(f"blobs/{CARD}") as sink:
        sink.write(b"x" * CARD_BYTES)
    write = _into_sqlite if backend.database.is_sqlite else _into_postgres
    with write(backend.database) as insert:
        _insert(shared_rows(total), insert)
        for start in range(1, total + 1, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, total + 1))
            _insert((row for number in numbers for row in rows_of(adapter(number, total))), insert)


Insert = Callable[[str, list[dict[str, Any]]], None]


def _insert(rows: Iterable[tuple[str, dict[str, Any]]], insert: Insert) -> None:
    by_table: dict[str, list[dict[str, Any]]] = {}
    for table, row in rows:
        by_table.setdefault(table, []).append(row)
    for table, found in by_table.items():
        insert(table, found)


@contextmanager
def _into_postgres(database: Database) -> Iterator[Insert]:
    with psycopg.connect(database.url.replace("+psycopg", ""), autocommit=True) as connection:

        def insert(table: str, rows: list[dict[str, Any]]) -> None:
            with connection.cursor().copy(f"COPY {table} ({', '.join(rows[0])}) FROM STDIN".encode()) as sink:
                for row in rows:
                    sink.write_row(tuple(row.values()))

        yield insert
        for table in ("accounts", "repositories", "refs"):
            connection.execute(f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))".encode())
        connection.execute("VACUUM ANALYZE")


@contextmanager
def _into_sqlite(database: Database) -> Iterator[Insert]:
    kinds = {
        datetime: lambda at: at.strftime("%Y-%m-%d %H:%M:%S.%f"),
        list: lambda terms: " ".join(map(as_word, terms)),
    }
    with closing(sqlite3.connect(str(database.engine.url.database))) as connection:

        def insert(table: str, rows: list[dict[str, Any]]) -> None:
            signs = ", ".join("?" for _ in rows[0])
            values = [[kinds.get(type(each), lambda same: same)(each) for each in row.values()] for row in rows]
            connection.executemany(f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({signs})", values)

        yield insert
        connection.commit()
        connection.execute("ANALYZE")


# --- requests ---------------------------------------------------------------------------------------------------------


def searches(total: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Kinds of searches by name; each call gives other values, the common ones more often."""
    dice = random.Random(11)

    def base() -> str:
        return dice.choices(BASES, BASE_WEIGHTS)[0]

    def topic() -> str:
        return f"topic-{dice.choices(range(800), TAG_WEIGHTS)[0]}"

    def rank() -> str:
        return dice.choice(["8..16", "16", "32..", "..8"])

    return {
        "base, rank; by downloads": lambda: {"base": base(), "rank": rank(), "sort": "downloads"},
        "base, tag, rank; by trend": lambda: {
            "base": base(),
            "filter": topic(),
            "rank": rank(),
            "sort": "trendingScore",
        },
        "tag; newest": lambda: {"filter": topic()},
        "two tags; trend": lambda: {"filter": f"{topic()},{topic()}", "sort": "trendingScore"},
        "common tag, runtime; newest": lambda: {"filter": "lora", "fits": dice.choice(RUNTIMES)},
        "module, runtime, base; newest": lambda: {"target": "q_proj", "fits": "vllm", "base": base()},
        "word of the name; by downloads": lambda: {"search": dice.choice(WORDS), "sort": "downloads"},
        "part of the name, base; newest": lambda: {"search": dice.choice(WORDS)[2:], "base": base()},
        "a name": lambda: {"search": adapter(dice.randrange(1, total), total).name},
        "author; by downloads": lambda: {"author": f"user{dice.randrange(owners(total))}", "sort": "downloads"},
        "no filter; by downloads": lambda: {"sort": "downloads"},
        "nothing found": lambda: {"search": "nowhere-at-all", "filter": "lora"},
    }


@dataclass
class Taken:
    """Milliseconds of every request, and what was not answered with 200."""

    times: list[float]
    faults: list[str]

    def at(self, share: float) -> float:
        return sorted(self.times)[min(len(self.times) - 1, int(len(self.times) * share))]


def at_rate(rate: float, seconds: float, act: Callable[[httpx2.Client, int], httpx2.Response], url: str) -> Taken:
    """Starts a request every 1/`rate` s, late ones at once."""
    taken, numbers, lock = Taken([], []), itertools.count(), threading.Lock()
    begin, count = time.perf_counter() + 0.5, int(rate * seconds)

    def work() -> None:
        with httpx2.Client(base_url=url, timeout=60) as client:
            while True:
                with lock:
                    number = next(numbers)
                if number >= count:
                    return
                due = begin + number / rate
                time.sleep(max(0.0, due - time.perf_counter()))
                answer = act(client, number)
                taken.times.append(1000 * (time.perf_counter() - due))
                if answer.status_code != 200:
                    taken.faults.append(f"{answer.status_code} {answer.text[:200]}")

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def measure(url: str, total: int, seconds: float) -> None:
    dice = random.Random(3)
    kinds = list(searches(total).items())

    def search(client: httpx2.Client, number: int) -> httpx2.Response:
        return client.get("/api/models", params={**kinds[number % len(kinds)][1](), "limit": 24})

    def page(client: httpx2.Client, number: int) -> httpx2.Response:
        asked = kinds[number % len(kinds)][1]()
        asked["tag"] = asked.pop("filter", "").split(",")
        return client.get("/search", params=asked)

    def resolve(client: httpx2.Client, _: int) -> httpx2.Response:
        one = adapter(2 * dice.randrange(total // 2) + 1, total)  # the private ones are even
        revision = dice.choice(["main", "v1", one.head])
        return client.head(f"/{one.full_name}/resolve/{revision}/adapter_config.json")

    print("\n| requests | p50 ms | p95 ms | p99 ms |\n| --- | --- | --- | --- |")
    for name, rate, act in (
        ("search, 20/s", 20, search),
        ("search page with facets, 20/s", 20, page),
        ("resolve (HEAD), 100/s", 100, resolve),
    ):
        at_rate(rate, 2, act, url)
        taken = at_rate(rate, seconds, act, url)
        assert not taken.faults, taken.faults[:3]
        print(f"| {name} | {taken.at(0.5):.1f} | {taken.at(0.95):.1f} | {taken.at(0.99):.1f} |", flush=True)
    print("\n| search alone, one after the other | p50 ms | worst of 20 ms |\n| --- | --- | --- |")
    with httpx2.Client(base_url=url, timeout=60) as client:
        for name, make in kinds:
            times = []
            for _ in range(20):
                begin = time.perf_counter()
                client.get("/api/models", params={**make(), "limit": 24}).raise_for_status()
                times.append(1000 * (time.perf_counter() - begin))
            print(f"| {name} | {sorted(times)[10]:.1f} | {max(times):.1f} |", flush=True)


# --- plans ------------------------------------------------------------------------------------------------------------


def check_plans(backend: Backend, total: int) -> None:
    """Every statement of a search and of a resolve is answered by indexes; fails for a sequential scan."""
    heard: list[tuple[str, Any]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:  # noqa: FBT001
        heard.append((statement, parameters))

    one = adapter(total // 2 | 1, total)
    common, rare = BASES[0], BASES[-1]
    asked = [
        Search(base=common, least_rank=8, most_rank=16, sort="downloads"),
        Search(base=rare, tags=("topic-3",), sort="trendingScore"),
        Search(tags=("topic-700",)),
        Search(tags=("lora",), labels=("fits:vllm",), sort="likes"),
        Search(texts=("kara",), sort="downloads"),
        Search(texts=(one.name,)),
        Search(author=f"user{one.owner}"),
        Search(is_gated=True),
        Search(least_parameters=1 << 40),
        Search(least_rank=10**6),
        Search(texts=("nowhere",), tags=("lora",)),
        Search(),
    ]
    event.listen(backend.database.engine, "before_cursor_execute", hear)
    with backend.database.read() as session:
        for search in asked:
            queries.repositories_page(session, search, visible_namespaces=[], after=None, limit=25)
    name = RepositoryName.parse(one.full_name)
    for revision in ("main", "v1", one.head, one.head[:12]):
        with reading(backend, ANONYMOUS, name) as opened:
            downloads.open_file(opened, revision, "adapter_config.json")  # type: ignore[arg-type]
    event.remove(backend.database.engine, "before_cursor_execute", hear)
    with psycopg.connect(backend.database.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SET plan_cache_mode = force_custom_plan")
        for statement, parameters in heard:
            found = connection.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode(), parameters).fetchone()
            assert found is not None
            scanned = LARGE.intersection(_scans(found[0][0]["Plan"]))
            assert not scanned, f"sequential scan of {scanned}: {statement} {parameters}"
    print(f"\n{len(heard)} statements of {len(asked)} searches and 4 resolves: no sequential scan of a large table")


def _scans(plan: Mapping[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for inner in plan.get("Plans", []):
        yield from _scans(inner)


# --- the run ----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=100_000)
    parser.add_argument("--database", default="postgres")
    parser.add_argument("--seconds", type=float, default=30)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorahub-bench-") as folder, _database(asked.database, Path(folder)) as url:
        home = Path(folder) / "registry"
        backend = Backend.open(Settings(registry_home=home, database_url=url))
        upgrade(backend.database)
        begin = time.perf_counter()
        seed(backend, asked.adapters)
        print(f"{asked.adapters} adapters seeded in {time.perf_counter() - begin:.0f} s; load {os.getloadavg()[0]:.1f}")
        if not backend.database.is_sqlite:
            check_plans(backend, asked.adapters)
        with _server(home, url) as address:
            measure(address, asked.adapters, asked.seconds)
        print(f"\nload at the end: {os.getloadavg()[0]:.1f}")
        backend.database.close()


@contextmanager
def _database(which: str, folder: Path) -> Iterator[str | None]:
    if which != "postgres":
        yield None if which == "sqlite" else which
        return
    server = Postgres(folder / "postgres", shared_buffers="512MB", max_wal_size="4GB").start()
    try:
        yield server.new_database()
    finally:
        server.stop()


@contextmanager
def _server(home: Path, url: str | None) -> Iterator[str]:
    command = [str(Path(sys.executable).parent / "lorahub"), "serve", "--home", str(home), "--port", "0", "--json"]
    environment = {**os.environ, "LORAHUB_WORKER": "false", **({"LORAHUB_DATABASE_URL": url} if url else {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["url"]
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
