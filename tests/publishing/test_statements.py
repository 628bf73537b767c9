"""How many statements an act of publishing asks of the database, on SQLite and on PostgreSQL.

On SQLite the beginning of each transaction is one of them.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import wire
from builders import lora_config, lora_weights
from in_process import OWNER, App, running
from lorahub_registry.operations.maintenance import service as maintenance
from services import production
from sqlalchemy import event

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    url = {"database_url": production.postgres().new_database()} if request.param == "postgres" else {}
    with running(tmp_path_factory.mktemp(request.param), **url) as started:
        yield started
        assert not maintenance.check_invariants(started.backend, is_deep=True).problems


@contextmanager
def counted(app: App) -> Iterator[list[str]]:
    statements: list[str] = []

    def hear(*act: object) -> None:
        statements.append(str(act[2]))

    event.listen(app.backend.database.engine, "before_cursor_execute", hear)
    yield statements
    event.remove(app.backend.database.engine, "before_cursor_execute", hear)


def small_files(count: int) -> list[dict[str, object]]:
    """That no registry has."""
    start = next(_numbers)
    return [wire.inline(f"f{number}.txt", b"%d of %d" % (number, start)) for number in range(count)]


def repository(app: App, namespace: str) -> str:
    """With a commit of ours."""
    repo = wire.create_repo(app.client, f"{namespace}/counted-{next(_numbers)}")
    wire.require(wire.commit(app.client, repo, small_files(3)))
    return repo


def organisation(app: App) -> str:
    name = f"org-{next(_numbers)}"
    wire.require(app.client.post("/api/lorahub/v1/organisations", json={"name": name}))
    return name


def test_a_commit_of_three_small_files(app: App) -> None:
    repo = repository(app, OWNER)
    with counted(app) as statements:
        wire.require(wire.commit(app.client, repo, small_files(3)))
    assert len(statements) <= 40, statements


def test_a_commit_to_an_organisation(app: App) -> None:
    """Whose quota is another account's than the open uploads."""
    repo = repository(app, organisation(app))
    with counted(app) as statements:
        wire.require(wire.commit(app.client, repo, small_files(3)))
    assert len(statements) <= 40, statements


def test_a_commit_of_files_that_are_here_already(app: App) -> None:
    repo, files = repository(app, OWNER), small_files(3)
    wire.require(wire.commit(app.client, repo, files))
    wire.require(wire.commit(app.client, repo, [{"key": "deletedFolder", "value": {"path": ""}}]))
    with counted(app) as statements:
        wire.require(wire.commit(app.client, repo, files))
    assert len(statements) <= 40, statements


def test_a_version_of_an_adapter(app: App) -> None:
    """Checked, indexed, wanted to be measured, named and followed by `latest`."""
    repo = repository(app, OWNER)
    for seed in (next(_numbers), next(_numbers)):
        weights = lora_weights(seed=seed)
        send_large(app, repo, weights)
        lines = [
            wire.inline("README.md", b"# %d" % seed),
            wire.inline("adapter_config.json", json.dumps(lora_config(base=f"acme/{seed}")).encode()),
            wire.uploaded("adapter_model.safetensors", weights),
        ]
        with counted(app) as statements:
            made = wire.require(wire.commit(app.client, repo, lines)).json()
    assert (made["version"], made["aliases"]) == ("v2", ["latest"])
    assert len(statements) <= 64, statements


def test_sending_a_large_file(app: App) -> None:
    repo, weights = repository(app, OWNER), lora_weights(seed=next(_numbers))
    with counted(app) as statements:
        send_large(app, repo, weights)
    assert len(statements) <= 30, statements


def test_asking_how_to_send_files(app: App) -> None:
    repo = repository(app, OWNER)
    body = {"files": [{"path": f"f{number}.txt", "size": 4} for number in range(10)]}
    with counted(app) as statements:
        wire.require(app.client.post(f"/api/models/{repo}/preupload/main", json=body))
    assert len(statements) <= 12, statements


def send_large(app: App, repo: str, content: bytes) -> None:
    wanted = {"oid": wire.sha256(content), "size": len(content)}
    body = {"operation": "upload", "transfers": ["basic"], "objects": [wanted], "hash_algo": "sha256"}
    answer = wire.require(app.client.post(f"/{repo}.git/info/lfs/objects/batch", json=body)).json()
    wire.require(app.client.put(answer["objects"][0]["actions"]["upload"]["href"], content=content))
