"""Storage and database go away at each single act of a request: 503, nothing of it remains, and no verdict is made up.

An act is one statement, the beginning or the end of a transaction, or one call of the storage.
"""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import wire
from builders import lora_config, lora_weights, safetensors_bytes
from in_process import OWNER, App, running
from lorahub.errors import Unavailable
from lorahub_registry.infrastructure.database import tables
from lorahub_registry.infrastructure.storage import BlobStore
from lorahub_registry.operations.maintenance import service as maintenance
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

BASE, ADAPTER = f"{OWNER}/base", f"{OWNER}/sql"
NOT_OF_A_REQUEST = {
    "uploads",
    "reservations",
    "reserved_totals",
    "blobs",
    "tokens",
    "downloads_per_day",
    "commit_facts",
}
"""What may remain: bytes that a retry finds, leases, when a token was used, and what follows from a commit's files."""


class Faults:
    """Counts the acts of a request; at number `at`, and with `goes_on` at each later one, something is away."""

    def __init__(self) -> None:
        self.count = 0
        self.at: int | None = None
        self.goes_on = False

    @property
    def was_met(self) -> bool:
        return self.at is not None and self.count >= self.at

    def is_due(self) -> bool:
        if self.at is None:
            return False
        self.count += 1
        return self.count == self.at or (self.goes_on and self.count > self.at)

    @contextmanager
    def armed(self, at: int, *, goes_on: bool) -> Iterator[None]:
        self.count, self.at, self.goes_on = 0, at, goes_on
        yield
        self.at = None


FAULTS = Faults()


class FaultyStore:
    """The storage behind it, whose every act may be one too many."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name != "addresses" and FAULTS.is_due():
            raise Unavailable("the storage is away")
        return getattr(self._store, name)


def away(*_: object) -> None:
    """What SQLAlchemy raises when SQLite can't read its disk."""
    if FAULTS.is_due():
        cause = sqlite3.OperationalError("disk I/O error")
        cause.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise OperationalError(None, None, cause)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A base in a repository, and an adapter for it."""
    with running(tmp_path_factory.mktemp("faulty"), around=FaultyStore, merge_jobs_per_account=0) as started:  # type: ignore[arg-type]
        wire.create_repo(started.client, BASE)
        commit(started, BASE, base_files())
        wire.create_repo(started.client, ADAPTER)
        commit(started, ADAPTER, adapter_files(width=16, seed=0))
        event.listen(started.backend.database.engine, "before_cursor_execute", away)
        event.listen(started.backend.database.engine, "commit", away)
        yield started


def base_files() -> dict[str, bytes]:
    import numpy as np

    weights = {f"model.layers.{n}.self_attn.q_proj.weight": np.ones((16, 16)) for n in range(2)}
    return {
        "config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
        "model.safetensors": safetensors_bytes(weights),
    }


def adapter_files(*, width: int, seed: int) -> dict[str, bytes]:
    import json

    return {
        "README.md": f"---\nbase_model: {BASE}\n---\n# {seed}\n".encode(),
        "adapter_config.json": json.dumps(lora_config(base=BASE)).encode(),
        "adapter_model.safetensors": lora_weights(width=width, seed=seed),
    }


def commit(app: App, repo: str, files: dict[str, bytes]) -> httpx2.Response:
    lines = [*(wire.inline(path, content) for path, content in files.items()), wire.version("latest")]
    return wire.require(wire.commit(app.client, repo, lines, title="a version"))


@dataclass(frozen=True)
class Act:
    """What a client asks for; `number` makes each time another content."""

    name: str
    ask: Callable[[App, int], httpx2.Response]
    answers: int = 200


def push(app: App, number: int) -> httpx2.Response:
    files = adapter_files(width=16, seed=number)
    weights = files.pop("adapter_model.safetensors")
    sent = send_large(app, weights)
    if sent.status_code != 200:
        return sent
    lines = [*(wire.inline(path, content) for path, content in files.items())]
    lines += [wire.uploaded("adapter_model.safetensors", weights), wire.version("latest")]
    return wire.commit(app.client, ADAPTER, lines)


def send_large(app: App, content: bytes) -> httpx2.Response:
    wanted = {"oid": wire.sha256(content), "size": len(content)}
    body = {"operation": "upload", "transfers": ["basic"], "objects": [wanted], "hash_algo": "sha256"}
    answer = app.client.post(f"/{ADAPTER}.git/info/lfs/objects/batch", json=body)
    if answer.status_code != 200 or "actions" not in answer.json()["objects"][0]:
        return answer
    return app.client.put(answer.json()["objects"][0]["actions"]["upload"]["href"], content=content)


def push_what_does_not_fit(app: App, number: int) -> httpx2.Response:
    lines = [wire.inline(path, content) for path, content in adapter_files(width=24, seed=number).items()]
    return wire.commit(app.client, ADAPTER, [*lines, wire.version("latest")])


def check(app: App, _: int) -> httpx2.Response:
    return app.client.get(f"/api/lorahub/v1/models/{ADAPTER}/check/latest", params={"base": BASE})


def merge(app: App, number: int) -> httpx2.Response:
    recipe = {"base": BASE, "adapters": [{"source": f"{ADAPTER}@latest", "weight": 1.0}]}
    return app.client.post("/api/lorahub/v1/merges", json={"recipe": recipe, "target": f"{OWNER}/merged-{number}"})


def page(path: str) -> Act:
    def ask(app: App, _: int) -> httpx2.Response:
        return app.client.get(path, headers={"Accept": "text/html"})

    return Act(path, ask)


PAGES = (
    "/",
    "/search?q=sql",
    f"/{OWNER}",
    f"/{ADAPTER}",
    f"/{ADAPTER}/v/v1",
    f"/{ADAPTER}/versions",
    f"/{ADAPTER}/tree/main",
    f"/{ADAPTER}/blob/main/README.md",
    f"/{ADAPTER}/weights/main",
    f"/{ADAPTER}/lineage",
    f"/{ADAPTER}/compat",
    f"/{ADAPTER}/commits/main",
)
ACTS = (
    Act("push", push),
    Act("push-unfit", push_what_does_not_fit, answers=422),
    Act("check", check),
    Act("merge", merge, answers=202),
    Act("read", lambda app, _: app.client.get(f"/{ADAPTER}/resolve/main/README.md")),
    Act("merged", lambda app, _: app.client.get(f"/api/models/{ADAPTER}/tree/merged")),
)


def state(app: App) -> dict[str, list[Any]]:
    """Every row but those that may remain."""
    with app.backend.database.read() as session:
        return {
            table.name: sorted(map(repr, session.execute(select(table))))
            for table in tables.Table.metadata.sorted_tables
            if table.name not in NOT_OF_A_REQUEST
        }


def each_fault(app: App, act: Act, *, goes_on: bool = False, first: int = 1) -> Iterator[httpx2.Response]:
    """The answer to each act that fails, nothing of which is kept where it says so; at the end that without a fault."""
    before = state(app)
    for number in itertools.count(first):
        with FAULTS.armed(number - first + 1, goes_on=goes_on):
            answer = act.ask(app, number)
            was_met = FAULTS.was_met
        if answer.status_code == 503:
            assert state(app) == before, f"act {number - first + 1} left something behind"
        else:
            before = state(app)
        yield answer
        if not was_met:
            return


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
def test_a_fault_is_never_an_answer(app: App, act: Act) -> None:
    for goes_on, first in ((False, 1), (True, 10_000)):
        *faulty, healthy = [answer.status_code for answer in each_fault(app, act, goes_on=goes_on, first=first)]
        assert set(faulty) == {503}
        assert healthy == act.answers
    report = maintenance.check_invariants(app.backend, is_deep=True)
    assert not report.problems


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_never_shown_without_what_it_lacks(app: App, path: str) -> None:
    """What only saves the next visitor some work may fail: then the page is whole all the same."""
    *faulty, healthy = each_fault(app, page(path))
    assert healthy.status_code == 200, healthy.text[:500]
    assert {answer.text for answer in faulty if answer.status_code != 503} <= {healthy.text}
    assert len(faulty) > 5
